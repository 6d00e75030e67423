-- Take what one process alone does at a time, or keep it, or give it back. Answers '' where it is this one's, else who
-- has it. Others may take it once its owner is not heard of for a lease by the server's clock, or is `gone` for sure.
local owner, name, gone, back, lease = arg(), arg(), arg(), arg(), count()
local leases = tag .. ':os'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
touch({ leases })
local holder = redis.call('HGET', leases, name)
if back == '1' then
    if holder == owner then redis.call('HDEL', leases, name) end
    return ''
end
if holder and holder ~= owner and holder ~= gone then
    local heard = redis.call('ZSCORE', tag .. ':o', holder)
    if heard and tonumber(heard) >= now - lease then return holder end
end
if holder ~= owner then redis.call('HSET', leases, name, owner) end
return ''
