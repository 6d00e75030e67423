-- When the next ready work is due for one of several processes; '' for none. See take.lua for whose it is.
local destination, now, owner, share, shares, lag = arg(), count(), arg(), count(), count(), count()
local some, soonest = redis.call('ZRANGE', due_key(destination), 0, shares == 1 and 0 or 63, 'WITHSCORES'), nil
for at = 1, #some, 2 do
    local due = tonumber(some[at + 1])
    if shares > 1 then
        local number, batch = string.match(some[at], '(%d+):(%d+)')
        local head = redis.call('HGET', work_key(batch), string.format('%.0f', tonumber(number)))
        local mine, late = owner_of(head) == owner, due <= now - lag
        if math.floor(tonumber(number) / 16) % shares == share then
            due = mine and due or due + lag
        elseif not mine or late then
            due = due + 5 * lag
        end
    end
    if not soonest or due < soonest then soonest = due end
end
return soonest and string.format('%.0f', soonest) or ''
