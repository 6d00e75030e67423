-- Say that a process is there, or that it is no longer; forget those long gone; let one lead until it is not heard of
-- for a lease. Answers {{now, name, since, name, ...}, {name, where, ...}, leader} in milliseconds of the server's own
-- clock, so that no other clock can make a process look dead.
local owner, there, horizon, lease = arg(), arg(), count(), count()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local beats, where, leads = tag .. ':o', tag .. ':oi', tag .. ':ol'
touch({ beats, where, leads })
if there == '' then
    redis.call('ZREM', beats, owner)
    redis.call('HDEL', where, owner)
else
    redis.call('ZADD', beats, now, owner)
    redis.call('HSET', where, owner, there)
end
local leader = redis.call('GET', leads) or ''
local heard = redis.call('ZSCORE', beats, leader)
if there ~= '' and (not heard or tonumber(heard) < now - lease) then
    redis.call('SET', leads, owner)
    leader = owner
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', beats, '-inf', now - horizon)) do
    redis.call('ZREM', beats, name)
    redis.call('HDEL', where, name)
end
local found = { string.format('%.0f', now) }
for _, value in ipairs(redis.call('ZRANGE', beats, 0, -1, 'WITHSCORES')) do found[#found + 1] = value end
return { found, redis.call('HGETALL', where), leader }
