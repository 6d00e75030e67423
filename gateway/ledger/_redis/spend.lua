-- Take from all of a destination's limits, or from none and answer how many microseconds to wait. By the server's clock:
-- whoever asks, one count is kept. Asked twice it counts twice, so that fewer leave and never more. A limit that was
-- never used is full. What is kept is one field a limit: what is left, and when that was.
local destination, flows = arg(), count()
local limits = tag .. ':rl'
touch({ limits })
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local wait, found = 0, {}
for place = 1, flows do
    local field = destination .. '|' .. arg()
    local capacity, flow, amount = count(), count(), count()
    local held, left = redis.call('HGET', limits, field), capacity
    if held then
        local had, at = string.match(held, '^(%S+) (%S+)$')
        left = math.min(capacity, tonumber(had) + flow * math.max(0, now - tonumber(at)) / 1000000)
    end
    -- More than ever fits waits for all there is, and leaves a debt.
    local lacking = math.min(amount, capacity) - left
    if lacking > 0.000001 then wait = math.max(wait, math.ceil(lacking / flow * 1000000)) end
    found[place] = { field, left, amount }
end
for _, one in ipairs(found) do
    local left = wait == 0 and one[2] - one[3] or one[2]
    redis.call('HSET', limits, one[1], string.format('%.17g %.0f', left, now))
end
return wait
