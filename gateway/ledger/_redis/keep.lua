-- Keep documents by name, or remove them, and append to the audit trail.
local token = arg()
if answered(token) then return 1 end

local documents, keys = {}, { META }
for _ = 1, count() do
    local shelf = arg()
    documents[#documents + 1] = { shelf = shelf, name = arg(), there = arg(), body = arg() }
    keys[#keys + 1] = tag .. ':d:' .. shelf
    keys[#keys + 1] = tag .. ':dn:' .. shelf
end
local audit = audit_rows()
for _, row in ipairs(audit) do keys[#keys + 1] = tag .. ':au:' .. row.tenant end
touch(keys)

for _, one in ipairs(documents) do
    if one.there == '1' then
        redis.call('HSET', tag .. ':d:' .. one.shelf, one.name, one.body)
        redis.call('ZADD', tag .. ':dn:' .. one.shelf, 0, one.name)
    else
        redis.call('HDEL', tag .. ':d:' .. one.shelf, one.name)
        redis.call('ZREM', tag .. ':dn:' .. one.shelf, one.name)
    end
end
note_audit(audit)
return answer(token, { 1 })[1]
