-- How many deliveries stand in each state, since when the oldest waits, and the first deadline.
-- Answers {field, deliveries, since, deadline, ...}.
local held, found = redis.call('HGETALL', DEPTHS), {}
for at = 1, #held, 2 do
    local state, destination = string.sub(held[at], 1, 1), string.sub(held[at], 2)
    if tonumber(held[at + 1]) > 0 then
        local oldest = redis.call('ZRANGE', since_key(state, destination), 0, 0, 'WITHSCORES')
        local first = redis.call('ZRANGE', deadline_key(state, destination), 0, 0, 'WITHSCORES')
        found[#found + 1] = held[at]
        found[#found + 1] = held[at + 1]
        found[#found + 1] = oldest[2] or ''
        found[#found + 1] = first[2] or ''
    end
end
return found
