-- Ready work that is due, at most so many deliveries: what has a deadline first, oldest deadline first, then what was
-- due first. Of several processes each takes its own share, and what has been due for a while is everybody's.
-- Answers as `tell` does.
local destination, now, room = arg(), count(), count()
local share, shares, anyones = count(), count(), count()
local found, taken = {}, {}

local function take(name, due)
    if due > now or taken[name] then return end
    local number = math.floor(tonumber(string.match(name, '%d+')) / 16)
    if shares > 1 and number % shares ~= share and due > anyones then return end
    taken[name] = true
    room = room - size(tell(found, name).runs)
end

local PAGE, MOST = 64, 4096
for from = 0, MOST, PAGE do
    local some = redis.call('ZRANGE', deadline_key('r', destination), from, from + PAGE - 1)
    for _, name in ipairs(some) do
        if room > 0 then take(string.sub(name, 17), tonumber(string.sub(name, 1, 16))) end
    end
    if room <= 0 or #some < PAGE then break end
end
local from = 0
while room > 0 do
    local some = redis.call(
        'ZRANGEBYSCORE', due_key(destination), '-inf', now, 'WITHSCORES', 'LIMIT', from, PAGE)
    for at = 1, #some, 2 do
        if room > 0 then take(some[at], tonumber(some[at + 1])) end
    end
    if #some < PAGE * 2 then break end
    from = from + PAGE
end
return found
