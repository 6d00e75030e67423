-- Ready work that is due, at most so many deliveries: what has a deadline first, oldest deadline first, then what was
-- due first. Of several processes each takes what it brought itself; what was not taken for a while, a share of it;
-- and where there is nothing of that, whatever was not taken for long. Answers as `tell` does.
local destination, now, room = arg(), count(), count()
local owner, share, shares, lag = arg(), count(), count(), count()
local found, taken = {}, {}

local function ours(name, due, all)
    if shares == 1 then return true end
    if all then return due <= now - 5 * lag end
    local number, batch = string.match(name, '(%d+):(%d+)')
    if due <= now - lag then return math.floor(tonumber(number) / 16) % shares == share end
    return owner_of(redis.call('HGET', work_key(batch), string.format('%.0f', tonumber(number)))) == owner
end

local function take(name, due, all)
    if due > now or taken[name] or not ours(name, due, all) then return end
    taken[name] = true
    room = room - size(tell(found, name).runs)
end

local PAGE, MOST = 64, 4096
local function look(all)
    for from = 0, MOST, PAGE do
        local some = redis.call('ZRANGE', deadline_key('r', destination), from, from + PAGE - 1)
        for _, name in ipairs(some) do
            if room > 0 then take(string.sub(name, 17), tonumber(string.sub(name, 1, 16)), all) end
        end
        if room <= 0 or #some < PAGE then break end
    end
    local from = 0
    while room > 0 do
        local some = redis.call(
            'ZRANGEBYSCORE', due_key(destination), '-inf', now, 'WITHSCORES', 'LIMIT', from, PAGE)
        for at = 1, #some, 2 do
            if room > 0 then take(some[at], tonumber(some[at + 1]), all) end
        end
        from = from + PAGE
        if #some < PAGE * 2 or (shares > 1 and from > MOST) then break end
    end
end

look(false)
if shares > 1 and #found == 0 then look(true) end
return found
