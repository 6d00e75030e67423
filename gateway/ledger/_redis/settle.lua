-- Take members out of the work that held them, give them their status, keep what is not done, write down the
-- attempts. Answers {1}, or {0, number} where work no longer holds what is to be changed, or is being sent and was
-- thought to wait. With `check` alone nothing is written: a settlement that spans partitions looks at all of them first.
local token, partition, check = arg(), count(), arg()
local before = answered(token)
if before then return before end

local leaving, keys = {}, { DEPTHS, COUNTS, META }
for _ = 1, count() do
    local batch, number, runs, waiting = arg(), arg(), arg(), arg()
    local head = redis.call('HGET', work_key(batch), number)
    if not head then return { 0, number } end
    local work = read(head)
    if waiting == '1' and work.state == 's' then return { 0, number } end
    local left = minus(work.runs, runs)
    if not left then return { 0, number } end
    leaving[#leaving + 1] = { batch = batch, number = number, head = head, work = work, left = left, runs = runs }
    add_places(keys, work.state, work.destination)
end
if check == '1' then return { 1 } end

local staying = {}
for _ = 1, count() do
    local batch, destination, runs, code = arg(), arg(), arg(), count()
    local head, failure, rendered = arg(), arg(), arg()
    local track = track_of(batch, destination)
    if not track then return { 0, batch } end
    mark(track, runs, code)
    if head ~= '' then
        local work = read(head)
        staying[#staying + 1] = { batch = batch, head = head, work = work, failure = failure, rendered = rendered }
        add_places(keys, work.state, destination)
    end
end
local attempts, rows = {}, {}
for _ = 1, count() do attempts[#attempts + 1] = { tag .. ':a:' .. arg(), arg() } end
for _ = 1, count() do rows[#rows + 1] = { tag .. ':x:' .. arg(), arg(), arg() } end
for _, one in ipairs(attempts) do keys[#keys + 1] = one[1] end
for _, one in ipairs(rows) do keys[#keys + 1] = one[1] end
local audit = audit_rows()
for _, row in ipairs(audit) do keys[#keys + 1] = tag .. ':au:' .. row.tenant end
touch(keys)

for _, one in ipairs(leaving) do
    deeper(one.work.state, one.work.destination, -size(one.runs))
    if one.left == '' then
        displace_work(one.number, one.batch, one.work)
        redis.call('HDEL', work_key(one.batch), one.number, 'p' .. one.number, 'e' .. one.number)
    else
        redis.call('HSET', work_key(one.batch), one.number, with_runs(one.head, one.left))
    end
end
for _, one in ipairs(staying) do
    local number = next_work(partition)
    place_work(number, one.batch, one.head, one.work)
    if one.failure ~= '' then redis.call('HSET', work_key(one.batch), 'e' .. number, one.failure) end
    if one.rendered ~= '' then redis.call('HSET', work_key(one.batch), 'p' .. number, one.rendered) end
    deeper(one.work.state, one.work.destination, size(one.work.runs))
end
for _, one in ipairs(attempts) do redis.call('RPUSH', one[1], one[2]) end
for _, one in ipairs(rows) do
    if one[3] == '' then redis.call('HDEL', one[1], one[2]) else redis.call('HSET', one[1], one[2], one[3]) end
end
note_audit(audit)
write_gathered()
return answer(token, { 1 })
