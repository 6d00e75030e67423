-- A batch as it stands at one moment: its fields, its work, its attempts, its rows in parts, and its events if asked.
local batch, wanted = arg(), arg()
local fields = redis.call('HGETALL', batch_key(batch))
if #fields == 0 then return {} end
local events = ''
if wanted == '1' then events = redis.call('GET', tag .. ':e:' .. batch) or '' end
return {
    fields, redis.call('HGETALL', work_key(batch)), redis.call('LRANGE', tag .. ':a:' .. batch, 0, -1),
    redis.call('HGETALL', tag .. ':x:' .. batch), events,
}
