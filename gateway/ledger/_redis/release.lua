-- Make held, blocked or waiting work of a destination ready, some pieces at a time. Answers how many.
local token, destination, state, due, most, fresh, again = arg(), arg(), arg(), arg(), count(), count(), count()
local before = answered(token)
if before then return before[1] end

local moves = {}
for _, name in ipairs(redis.call('ZRANGE', state_key(state, destination), 0, most - 1)) do
    local number, batch = string.match(name, '(%d+):(%d+)')
    number = string.format('%.0f', tonumber(number))
    local head = redis.call('HGET', work_key(batch), number)
    local work = read(head)
    mark(track_of(batch, destination), work.runs, work.attempts > 0 and again or fresh)
    moves[#moves + 1] = { number = number, batch = batch, head = head, work = work }
end
if #moves == 0 then return 0 end
local keys = { DEPTHS, COUNTS }
add_places(keys, 'r', destination)
add_places(keys, state, destination)
touch(keys)

for _, move in ipairs(moves) do
    displace_work(move.number, move.batch, move.work)
    local head, total = with_due(with_state(move.head, 'r'), due), size(move.work.runs)
    place_work(move.number, move.batch, head, read(head))
    deeper(state, destination, -total)
    deeper('r', destination, total)
end
write_gathered()
return answer(token, { #moves })[1]
