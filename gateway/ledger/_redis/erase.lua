-- Take a customer out of a batch, as worked out from what stood there. Answers 1, or 0 where it no longer stands so.
local token, batch = arg(), arg()
local before = answered(token)
if before then return before[1] end

local waiting, left, gone = arg(), arg(), arg()
if (redis.call('HGET', UNROUTED, batch) or '') ~= waiting then return 0 end
if (redis.call('HGET', batch_key(batch), 'X') or '') ~= gone then return 0 end
local pieces, keys, there = {}, { DEPTHS, COUNTS, tag .. ':x:' .. batch }, 0
for _ = 1, count() do
    local piece = { number = arg(), head = arg(), left = arg(), rendered = arg() }
    if redis.call('HGET', work_key(batch), piece.number) ~= piece.head then return 0 end
    piece.work = read(piece.head)
    pieces[#pieces + 1] = piece
    add_places(keys, piece.work.state, piece.work.destination)
end
for _, field in ipairs(redis.call('HKEYS', work_key(batch))) do
    if string.match(field, '^%d') then there = there + 1 end
end
local stood = count()
if there ~= stood then return 0 end
local altered = {}
for _ = 1, count() do
    local one = { name = arg(), before = arg(), codes = arg(), tally = arg() }
    if redis.call('HGET', batch_key(batch), 'c:' .. one.name) ~= one.before then return 0 end
    altered[#altered + 1] = one
end
local events, prints, erased, attempts_there = arg(), arg(), arg(), count()
if redis.call('LLEN', tag .. ':a:' .. batch) ~= attempts_there then return 0 end
if redis.call('EXISTS', tag .. ':e:' .. batch) == 0 then return 0 end
touch(keys)

for _, piece in ipairs(pieces) do
    local after = piece.left == '' and 0 or size(piece.left)
    deeper(piece.work.state, piece.work.destination, after - size(piece.work.runs))
    if piece.left == '' then
        displace_work(piece.number, batch, piece.work)
        redis.call('HDEL', work_key(batch), piece.number, 'p' .. piece.number, 'e' .. piece.number)
    else
        redis.call('HSET', work_key(batch), piece.number, with_runs(piece.head, piece.left))
        if piece.rendered ~= '' then redis.call('HSET', work_key(batch), 'p' .. piece.number, piece.rendered) end
    end
end
for _, one in ipairs(altered) do
    redis.call('HSET', batch_key(batch), 'c:' .. one.name, one.codes)
    for code, times in string.gmatch(one.tally, '(%d+):(%-?%d+)') do counted(code, one.name, tonumber(times)) end
end
redis.call('SET', tag .. ':e:' .. batch, events)
redis.call('HSET', batch_key(batch), 'f', prints, 'X', erased)
for _ = 1, count() do redis.call('LSET', tag .. ':a:' .. batch, arg(), arg()) end
for _ = 1, count() do redis.call('HDEL', tag .. ':x:' .. batch, arg()) end
if left == '' then
    redis.call('HDEL', UNROUTED, batch)
else
    redis.call('HSET', UNROUTED, batch, left)
end
write_gathered()
return answer(token, { 1 })[1]
