-- When the next ready work is due for one of several processes; '' for none. See take.lua for whose it is.
local destination, share, shares, lag = arg(), count(), count(), count()
local some, soonest = redis.call('ZRANGE', due_key(destination), 0, shares == 1 and 0 or 63, 'WITHSCORES'), nil
for at = 1, #some, 2 do
    local number, due = tonumber(string.match(some[at], '%d+')), tonumber(some[at + 1])
    if shares > 1 and math.floor(number / 16) % shares ~= share then due = due + lag end
    if not soonest or due < soonest then soonest = due end
end
return soonest and string.format('%.0f', soonest) or ''
