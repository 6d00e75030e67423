-- How a destination stands for all processes that send to it: how many requests in a row came to nothing, until when
-- none of them may try again, and which one tries then, alone, for as long as its lease. By the server's clock.
-- `told` is -1 where there is nothing to tell; 0: a request that began `span` ago was answered; else as many requests
-- in a row were not, and nobody may try for `span`. Told twice it is as told once. `tries`: whoever asks is about to.
-- Answers as much of it as concerns whoever asks: how many, and how long it has to wait. A destination of which nothing
-- is kept stands well.
local destination, owner, lease, told, span, tries = arg(), arg(), count(), count(), count(), count()
local standings, second = tag .. ':rs', 1000000
touch({ standings })
local time = redis.call('TIME')
local now = tonumber(time[1]) * second + tonumber(time[2])
local held = redis.call('HGET', standings, destination)
local faults, shut, turn, ends = 0, 0, '', 0
if held then faults, shut, turn, ends = unpack(cmsgpack.unpack(held)) end
if told == 0 and faults > 0 and now - span >= shut then
    redis.call('HDEL', standings, destination) -- what began before the pause was over says nothing about its end
    faults = 0
elseif told > 0 then
    faults, shut = math.max(faults, told), math.max(shut, now + span)
    if turn == owner then turn, ends = '', 0 end
end
if faults == 0 then return { 0, 0 } end
local wait = 0
if shut > now then
    wait = shut - now
elseif turn ~= '' and turn ~= owner and ends > now then
    wait = math.min(ends - now, second)
elseif tries == 1 then
    turn, ends = owner, now + lease
end
local new = cmsgpack.pack({ faults, shut, turn, ends })
if new ~= held then redis.call('HSET', standings, destination, new) end
return { faults, wait }
