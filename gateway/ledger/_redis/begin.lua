-- Begin a ledger, or find the one that is here. Answers {version, partitions}.
local version, partitions = arg(), arg()
touch({ META })
redis.call('HSETNX', META, 'version', version)
redis.call('HSETNX', META, 'partitions', partitions)
return redis.call('HMGET', META, 'version', 'partitions')
