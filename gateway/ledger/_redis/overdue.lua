-- Open work of some states by deadline, at most so many of each, as `tell` does.
local destination, states, most = arg(), arg(), count()
local found = {}
for state in string.gmatch(states, '.') do
    for _, name in ipairs(redis.call('ZRANGE', deadline_key(state, destination), 0, most - 1)) do
        tell(found, string.sub(name, 17))
    end
end
return found
