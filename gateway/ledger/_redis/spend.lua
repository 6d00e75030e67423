-- Take from all of a destination's limits, or from none and answer how many microseconds to wait. By the server's clock:
-- whoever asks, one count is kept. Asked twice it counts twice, so that fewer leave and never more. A limit that was
-- never used is full. What is kept is one field a limit: what is left, and when that was.
-- Whoever was turned away first goes first, or what is large would wait for ever while what is small takes all there is:
-- one place in the queue for each `owner`, until it comes back or is late by `patience`. Without a name nobody queues.
local destination, owner, patience, flows = arg(), arg(), count(), count()
local limits, queues = tag .. ':rl', tag .. ':rt'
touch({ limits, queues })
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local wait, longest, found = 0, 0, {}
for place = 1, flows do
    local field = destination .. '|' .. arg()
    local capacity, flow, amount = count(), count(), count()
    local held, left = redis.call('HGET', limits, field), capacity
    if held then
        local had, at = string.match(held, '^(%S+) (%S+)$')
        left = math.min(capacity, tonumber(had) + flow * math.max(0, now - tonumber(at)) / 1000000)
    end
    -- More than ever fits waits for all there is, and leaves a debt.
    local wanted = math.min(amount, capacity)
    if wanted - left > 0.000001 then wait = math.max(wait, math.ceil((wanted - left) / flow * 1000000)) end
    longest = math.max(longest, math.ceil(wanted / flow * 1000000))
    found[place] = { field, left, amount }
end
local kept = redis.call('HGET', queues, destination)
local queue, mine = {}, nil
if kept and owner ~= '' then
    local waiting = cmsgpack.unpack(kept)
    for place = 1, #waiting, 2 do
        local who, due = waiting[place], waiting[place + 1]
        if who == owner then
            mine = #queue + 1
            queue[mine] = { who, due }
        elseif due + patience >= now then
            queue[#queue + 1] = { who, due }
        end
    end
    local before = queue[mine and mine - 1 or #queue]
    -- After the one before it, and not at once where that one is a little late.
    if before then wait = math.max(wait, before[2] - now + longest, longest) end
end
for _, one in ipairs(found) do
    local left = wait == 0 and one[2] - one[3] or one[2]
    redis.call('HSET', limits, one[1], string.format('%.17g %.0f', left, now))
end
if owner ~= '' then
    if wait > 0 then
        queue[mine or #queue + 1] = { owner, now + wait }
    elseif mine then
        table.remove(queue, mine)
    end
    local flat = {}
    for _, one in ipairs(queue) do
        flat[#flat + 1], flat[#flat + 2] = one[1], one[2]
    end
    if #flat > 0 then
        redis.call('HSET', queues, destination, cmsgpack.pack(flat))
    elseif kept then
        redis.call('HDEL', queues, destination)
    end
end
return wait
