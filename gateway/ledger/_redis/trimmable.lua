-- Settled batches recorded before an instant, in order, above a number. Answers {where to look on or '', batch, ...}.
local before, letters, after, limit, looked = count(), count(), arg(), count(), count()
local LETTERS = { j = true, d = true, u = true }

local some = redis.call('ZRANGEBYSCORE', BATCHES, '(' .. after, '+inf', 'LIMIT', 0, looked)
local found = { '' }
for _, batch in ipairs(some) do
    local received = tonumber(redis.call('HGET', batch_key(batch), 'r'))
    if received < before and redis.call('HEXISTS', UNROUTED, batch) == 0 then
        local settled = true
        for _, field in ipairs(redis.call('HKEYS', work_key(batch))) do
            if string.match(field, '^%d') then
                local state = string.sub(redis.call('HGET', work_key(batch), field), 1, 1)
                settled = settled and LETTERS[state] and received < letters
            end
        end
        if settled then
            found[#found + 1] = batch
            if #found > limit then
                found[1] = batch
                return found
            end
        end
    end
end
if #some == looked then found[1] = some[#some] end
return found
