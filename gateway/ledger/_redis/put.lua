-- Put a batch of another ledger here as it stands there, once: those up to a mark are here. Answers 1.
local mark, partition = arg(), count()
if tonumber(redis.call('HGET', META, 'copied') or '-1') >= tonumber(mark) then return 1 end

local received, tenant, events, digests, unrouted = arg(), arg(), arg(), arg(), arg()
local prints, erased, trimmed = arg(), arg(), arg()
local last = tonumber(redis.call('HGET', META, 'batch') or '0')
local second = math.max(last + 1, math.floor(tonumber(received) / 1000))
local batch = string.format('%.0f', second * 16 + partition)
local key, total = batch_key(batch), #digests / 12

redis.call('HSET', META, 'batch', string.format('%.0f', second), 'copied', mark)
redis.call('HSET', key, 't', tenant, 'r', received, 'n', total, 'd', digests)
if prints ~= '' then redis.call('HSET', key, 'f', prints) end
if erased ~= '' then redis.call('HSET', key, 'X', erased) end
if trimmed ~= '' then redis.call('HSET', key, 'T', trimmed) end
if events ~= '' then redis.call('SET', tag .. ':e:' .. batch, events) end
redis.call('ZADD', events ~= '' and BATCHES or tag .. ':lt', batch, batch)
local prefix = struct.pack('>I2I4', math.floor(second * 16 / 4294967296), (second * 16 + partition) % 4294967296)
for position = 0, total - 1 do
    local digest = string.sub(digests, position * 12 + 1, position * 12 + 12)
    redis.call('HSET', tag .. ':i' .. string.byte(digest, 12) % 16, digest, prefix .. struct.pack('>I2', position))
end
for _ = 1, count() do
    local name, shadow, codes, tally = arg(), arg(), arg(), arg()
    redis.call('HSET', key, 'c:' .. name, codes)
    if shadow ~= '' then redis.call('HSET', key, 's:' .. name, shadow) end
    for code, times in string.gmatch(tally, '(%d+):(%d+)') do counted(code, name, tonumber(times)) end
end
for _ = 1, count() do
    local head, failure, rendered = arg(), arg(), arg()
    local work, number = read(head), next_work(partition)
    place_work(number, batch, head, work)
    if failure ~= '' then redis.call('HSET', work_key(batch), 'e' .. number, failure) end
    if rendered ~= '' then redis.call('HSET', work_key(batch), 'p' .. number, rendered) end
    deeper(work.state, work.destination, size(work.runs))
end
for _ = 1, count() do redis.call('RPUSH', tag .. ':a:' .. batch, arg()) end
for _ = 1, count() do redis.call('HSET', tag .. ':x:' .. batch, arg(), arg()) end
if unrouted ~= '' then redis.call('HSET', UNROUTED, batch, unrouted) end
write_gathered()
return 1
