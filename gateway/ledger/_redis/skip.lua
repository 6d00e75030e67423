-- Pass over numbers that batches may have had whose loss nobody was told of: asked over each new connection, before
-- anything is written. A server that is started anew, or takes another's place, may have lost what was written last.
-- Where the clock is past the last number that it knows, no lost one comes again. Answers whether any were passed over.
local now, many = count(), count()
local last = tonumber(redis.call('HGET', META, 'batch') or '0')
if last < now then return 0 end
redis.call('HSET', META, 'batch', string.format('%.0f', last + many))
return 1
