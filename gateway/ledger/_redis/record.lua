-- Claim ids, store the events, enqueue their deliveries: all of them are new, or nothing is written and those that
-- are known are named. Answers {1, batch} or {0, position, ref, position, ref, ...}.
local token, partition, digests = arg(), count(), arg()
local received, tenant, events, receipts = arg(), arg(), arg(), arg()
local total = #digests / 12
local buckets = {}
for position = 0, total - 1 do
    local digest = string.sub(digests, position * 12 + 1, position * 12 + 12)
    local bucket = string.byte(digest, 12) % 16
    local held = buckets[bucket]
    if not held then
        held = { fields = {}, positions = {} }
        buckets[bucket] = held
    end
    held.fields[#held.fields + 1] = digest
    held.positions[#held.positions + 1] = position
end

local known = { 0 }
for bucket, held in pairs(buckets) do
    for first = 1, #held.fields, 1000 do
        local last = math.min(first + 999, #held.fields)
        local found = redis.call('HMGET', tag .. ':i' .. bucket, unpack(held.fields, first, last))
        for offset = 1, last - first + 1 do
            if found[offset] then
                known[#known + 1] = held.positions[first + offset - 1]
                known[#known + 1] = found[offset]
            end
        end
    end
end
if #known > 1 then
    -- Known by an earlier run of this very command?
    local high, low = struct.unpack('>I4I4', known[3])
    local batch = string.format('%.0f', high * 65536 + math.floor(low / 65536))
    if redis.call('HGET', batch_key(batch), 'o') == token then return { 1, batch } end
    return known
end

-- Batches are numbered by the millisecond, so that those of several partitions are in order.
local last = tonumber(redis.call('HGET', META, 'batch') or '0')
local second = math.max(last + 1, math.floor(tonumber(received) / 1000))
local batch = string.format('%.0f', second * 16 + partition)
local key = batch_key(batch)
local destinations = {}
for _ = 1, count() do
    destinations[#destinations + 1] = { name = arg(), shadow = arg(), codes = arg(), tally = arg() }
end
local works = {}
for _ = 1, count() do works[#works + 1] = arg() end
local unrouted = arg()
local keys = { key, work_key(batch), tag .. ':e:' .. batch, BATCHES, UNROUTED, DEPTHS, COUNTS }
for _, one in ipairs(destinations) do add_places(keys, 'r', one.name) end
local audit = audit_rows()
for _, row in ipairs(audit) do keys[#keys + 1] = tag .. ':au:' .. row.tenant end
touch(keys)

redis.call('HSET', META, 'batch', string.format('%.0f', second))
local fields = { 'o', token, 't', tenant, 'r', received, 'n', total, 'd', digests }
local function field(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
end
if receipts ~= '' then field('R', receipts) end
for _, one in ipairs(destinations) do
    field('c:' .. one.name, one.codes)
    if one.shadow == '1' then field('s:' .. one.name, '1') end
    for code, times in string.gmatch(one.tally, '(%d+):(%d+)') do counted(code, one.name, tonumber(times)) end
end
redis.call('HSET', key, unpack(fields))
redis.call('SET', tag .. ':e:' .. batch, events)
redis.call('ZADD', BATCHES, batch, batch)
local prefix = struct.pack('>I2I4', math.floor(second * 16 / 4294967296), (second * 16 + partition) % 4294967296)
for bucket, held in pairs(buckets) do
    local pairs_of = {}
    for at, digest in ipairs(held.fields) do
        pairs_of[#pairs_of + 1] = digest
        pairs_of[#pairs_of + 1] = prefix .. struct.pack('>I2', held.positions[at])
    end
    for first = 1, #pairs_of, 2000 do
        redis.call('HSET', tag .. ':i' .. bucket, unpack(pairs_of, first, math.min(first + 1999, #pairs_of)))
    end
end
if #works > 0 then
    local numbers, heads = next_works(#works, partition), {}
    for place, head in ipairs(works) do
        local work = read(head)
        heads[2 * place - 1], heads[2 * place] = numbers[place], head
        index_work(numbers[place], batch, work)
        deeper(work.state, work.destination, size(work.runs))
    end
    redis.call('HSET', work_key(batch), unpack(heads))
end
if unrouted ~= '' then redis.call('HSET', UNROUTED, batch, unrouted) end
note_audit(audit)
write_gathered()
return { 1, batch }
