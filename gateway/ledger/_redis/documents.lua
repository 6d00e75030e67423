-- A page of documents by name: {name, body, ...}.
local shelf, low, most = arg(), arg(), count()
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', tag .. ':dn:' .. shelf, low, '+', 'LIMIT', 0, most)) do
    found[#found + 1] = name
    found[#found + 1] = redis.call('HGET', tag .. ':d:' .. shelf, name)
end
return found
