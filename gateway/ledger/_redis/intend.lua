-- Mark portions of ready work as being sent. Answers {1, number, ...}, or {0, number} where work is not ready.
local token, partition = arg(), count()
local before = answered(token)
if before then return before end

local heads, moves, keys = {}, {}, { DEPTHS, META }
for _ = 1, count() do
    local batch, number, runs, head, rendered = arg(), arg(), arg(), arg(), arg()
    local held = heads[number] or redis.call('HGET', work_key(batch), number)
    if not held then return { 0, number } end
    local work = read(held)
    if work.state ~= 'r' then return { 0, number } end
    local left = minus(work.runs, runs)
    if not left then return { 0, number } end
    heads[number] = left == '' and head or with_runs(held, left)
    moves[#moves + 1] = {
        batch = batch, number = number, head = head, rendered = rendered, before = held, left = left, runs = runs,
    }
    add_places(keys, 'r', work.destination)
    add_places(keys, 's', work.destination)
end
touch(keys)

local numbers = { 1 }
for _, move in ipairs(moves) do
    local number, work, going = move.number, read(move.before), read(move.head)
    local total = size(move.runs)
    if move.left == '' then
        displace_work(number, move.batch, work)
        redis.call('HDEL', work_key(move.batch), 'e' .. number)
    else
        redis.call('HSET', work_key(move.batch), number, with_runs(move.before, move.left))
        number = next_work(partition)
    end
    place_work(number, move.batch, move.head, going)
    redis.call('HSET', work_key(move.batch), 'p' .. number, move.rendered)
    deeper('r', work.destination, -total)
    deeper('s', work.destination, total)
    numbers[#numbers + 1] = number
end
write_gathered()
return answer(token, numbers)
