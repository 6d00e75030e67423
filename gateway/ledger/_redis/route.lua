-- Give events that had no way their deliveries, as worked out from what stood there. Answers 1, or 0 where it no
-- longer stands so: look again.
local token, partition, batch = arg(), count(), arg()
local before = answered(token)
if before then return before[1] end

local waiting, left, gone = arg(), arg(), arg()
if (redis.call('HGET', UNROUTED, batch) or '') ~= waiting then return 0 end
local held = redis.call('HMGET', batch_key(batch), 'n', 'X', 'T')
if not held[1] or (held[2] or '') ~= gone or held[3] then return 0 end
local destinations, keys = {}, { DEPTHS, COUNTS, META }
for _ = 1, count() do
    local one = { name = arg(), before = arg(), codes = arg(), shadow = arg(), tally = arg() }
    if (redis.call('HGET', batch_key(batch), 'c:' .. one.name) or '') ~= one.before then return 0 end
    destinations[#destinations + 1] = one
    add_places(keys, 'r', one.name)
end
local works = {}
for _ = 1, count() do works[#works + 1] = arg() end
touch(keys)

for _, one in ipairs(destinations) do
    redis.call('HSET', batch_key(batch), 'c:' .. one.name, one.codes)
    if one.shadow ~= '' then
        redis.call('HSET', batch_key(batch), 's:' .. one.name, one.shadow)
    else
        redis.call('HDEL', batch_key(batch), 's:' .. one.name)
    end
    for code, times in string.gmatch(one.tally, '(%d+):(%-?%d+)') do counted(code, one.name, tonumber(times)) end
end
for _, head in ipairs(works) do
    local work = read(head)
    place_work(next_work(partition), batch, head, work)
    deeper(work.state, work.destination, size(work.runs))
end
if left == '' then
    redis.call('HDEL', UNROUTED, batch)
else
    redis.call('HSET', UNROUTED, batch, left)
end
write_gathered()
return answer(token, { 1 })[1]
