-- Put one line of the audit trail in the place of another, once. Answers how many were put.
local tenant, before, after = arg(), arg(), arg()
local key = tag .. ':au:' .. tenant
local number = redis.call('ZSCORE', key, before)
if not number then return 0 end
redis.call('ZREM', key, before)
redis.call('ZADD', key, number, after)
return 1
