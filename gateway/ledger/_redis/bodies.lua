-- What batches brought, and what is left of those whose content went:
-- {tenant, received, events, receipts, prints, erased, trimmed and segment, ...}.
local found = {}
for _ = 1, count() do
    local batch = arg()
    local held = redis.call('HMGET', batch_key(batch), 't', 'r', 'R', 'f', 'X', 'T')
    found[#found + 1] = held[1] or ''
    found[#found + 1] = held[2] or ''
    found[#found + 1] = redis.call('GET', tag .. ':e:' .. batch) or ''
    for at = 3, 6 do found[#found + 1] = held[at] or '' end
end
return found
