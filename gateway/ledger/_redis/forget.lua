-- Forget trimmed batches recorded before an instant, oldest first, with their ids; the newest batch stays.
-- Answers how many went.
local token, before, limit = arg(), count(), count()
local answer_before = answered(token)
if answer_before then return answer_before[1] end

local newest = math.max(
    tonumber(redis.call('ZRANGE', BATCHES, -1, -1)[1] or '0'),
    tonumber(redis.call('ZRANGE', tag .. ':lt', -1, -1)[1] or '0'))
local going, keys = {}, { COUNTS, token_key(token) }
for _, batch in ipairs(redis.call('ZRANGE', tag .. ':lt', 0, limit - 1)) do
    local fields = redis.call('HGETALL', batch_key(batch))
    local held = {}
    for at = 1, #fields, 2 do held[fields[at]] = fields[at + 1] end
    if tonumber(held.r) >= before or tonumber(batch) >= newest then break end
    going[#going + 1] = { batch = batch, held = held }
end
for bucket = 0, 15 do keys[#keys + 1] = tag .. ':i' .. bucket end
touch(keys)

for _, one in ipairs(going) do
    local buckets = {}
    for at = 1, #one.held.d, 12 do
        local digest = string.sub(one.held.d, at, at + 11)
        local bucket = string.byte(digest, 12) % 16
        buckets[bucket] = buckets[bucket] or {}
        table.insert(buckets[bucket], digest)
    end
    for bucket, digests in pairs(buckets) do
        for first = 1, #digests, 1000 do
            redis.call('HDEL', tag .. ':i' .. bucket, unpack(digests, first, math.min(first + 999, #digests)))
        end
    end
    for field, codes in pairs(one.held) do
        if string.sub(field, 1, 2) == 'c:' then
            for at = 1, #codes do
                local code = string.byte(codes, at)
                if code ~= 0 then counted(code, string.sub(field, 3), -1) end
            end
        end
    end
    redis.call('DEL', batch_key(one.batch))
    redis.call('ZREM', tag .. ':lt', one.batch)
end
write_gathered()
return answer(token, { #going })[1]
