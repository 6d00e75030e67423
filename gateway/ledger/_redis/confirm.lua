-- Give deliveries of one batch another status that means the same to clients but for the receipt: those of `runs` that
-- have the one, and no others. Answers how many.
local token, batch, destination, from, to, runs = arg(), arg(), arg(), count(), count(), arg()
local before = answered(token)
if before then return before end
local track = track_of(batch, destination)
if not track then return 0 end

local found, total = {}, 0
for at = 1, #runs, 4 do
    local first, last = struct.unpack('<I2I2', runs, at)
    for index = first, last do
        if string.byte(track.codes, index + 1) == from then
            found[#found + 1] = struct.pack('<I2I2', index, index)
            total = total + 1
        end
    end
end
if total == 0 then return 0 end
touch({ COUNTS })
mark(track, table.concat(found), to)
write_gathered()
return answer(token, total)
