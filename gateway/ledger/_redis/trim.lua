-- Drop the full record of a batch, but for ids, fingerprints and statuses. Answers 1, or 0 where it is not settled.
local batch, prints, segment, letters = arg(), arg(), arg(), count()
local LETTERS = { j = true, d = true, u = true }

if redis.call('EXISTS', tag .. ':e:' .. batch) == 0 then return 1 end
local held = redis.call('HMGET', batch_key(batch), 'r', 'n', 'f')
if redis.call('HEXISTS', UNROUTED, batch) == 1 or #prints ~= tonumber(held[2]) * 8 then return 0 end
local pieces, keys = {}, { BATCHES, tag .. ':lt', tag .. ':a:' .. batch, tag .. ':x:' .. batch, DEPTHS }
for _, field in ipairs(redis.call('HKEYS', work_key(batch))) do
    if string.match(field, '^%d') then
        local work = read(redis.call('HGET', work_key(batch), field))
        if not LETTERS[work.state] or tonumber(held[1]) >= letters then return 0 end
        pieces[#pieces + 1] = { number = field, work = work }
        add_places(keys, work.state, work.destination)
    end
end
touch(keys)

for _, piece in ipairs(pieces) do
    displace_work(piece.number, batch, piece.work)
    deeper(piece.work.state, piece.work.destination, -size(piece.work.runs))
end
redis.call('DEL', work_key(batch), tag .. ':e:' .. batch, tag .. ':a:' .. batch, tag .. ':x:' .. batch)
-- What was erased before keeps the fingerprints of what was sent.
redis.call('HSET', batch_key(batch), 'f', held[3] or prints, 'T', segment)
redis.call('HDEL', batch_key(batch), 'o')
redis.call('ZREM', BATCHES, batch)
redis.call('ZADD', tag .. ':lt', batch, batch)
write_gathered()
return 1
