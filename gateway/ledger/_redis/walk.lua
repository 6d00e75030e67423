-- Work of one state at a destination by number, above one, at most so many pieces, as `tell` does.
local destination, state, after, most = arg(), arg(), arg(), count()
local found = {}
local some = redis.call('ZRANGEBYSCORE', state_key(state, destination), '(' .. after, '+inf', 'LIMIT', 0, most)
for _, name in ipairs(some) do tell(found, name) end
return found
