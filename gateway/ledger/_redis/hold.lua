-- Hold ready work of a destination, some pieces at a time. Answers {batch, runs, ...}.
local token, destination, failure, most, code = arg(), arg(), arg(), count(), count()
local before = answered(token)
if before then return before end

local moves, held = {}, {}
for _, name in ipairs(redis.call('ZRANGE', due_key(destination), 0, most - 1)) do
    local number, batch = string.match(name, '(%d+):(%d+)')
    number = string.format('%.0f', tonumber(number))
    local head = redis.call('HGET', work_key(batch), number)
    local work = read(head)
    mark(track_of(batch, destination), work.runs, code)
    moves[#moves + 1] = { number = number, batch = batch, head = head, work = work }
    held[#held + 1] = batch
    held[#held + 1] = work.runs
end
if #moves == 0 then return held end
local keys = { DEPTHS, COUNTS }
add_places(keys, 'r', destination)
add_places(keys, 'h', destination)
touch(keys)

for _, move in ipairs(moves) do
    displace_work(move.number, move.batch, move.work)
    local head, total = with_state(move.head, 'h'), size(move.work.runs)
    place_work(move.number, move.batch, head, read(head))
    redis.call('HSET', work_key(move.batch), 'e' .. move.number, failure)
    deeper('r', destination, -total)
    deeper('h', destination, total)
end
write_gathered()
return answer(token, held)
