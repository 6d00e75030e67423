-- What every script shares. The tag of the partition is the only key that is named, and all others begin with it:
-- they fall into its slot. Everything is read and checked first and written afterwards, since nothing is taken back.
local tag = KEYS[1]
local place = 0

local function arg()
    place = place + 1
    return ARGV[place]
end

local function count() return tonumber(arg()) end

local function batch_key(batch) return tag .. ':b:' .. batch end
local function work_key(batch) return tag .. ':k:' .. batch end
local function due_key(destination) return tag .. ':q:' .. destination end
local function state_key(state, destination) return tag .. ':z:' .. state .. destination end
local function since_key(state, destination) return tag .. ':g:' .. state .. destination end
local function deadline_key(state, destination) return tag .. ':y:' .. state .. destination end
local function token_key(token) return tag .. ':t:' .. token end
local META, DEPTHS, COUNTS = tag .. ':m', tag .. ':n', tag .. ':c'
local BATCHES, UNROUTED = tag .. ':l', tag .. ':u'
local KEPT_SECONDS = 120

-- A command whose answer was lost comes again: it is answered as before, and nothing is done twice.
local function answered(token)
    local found = redis.call('GET', token_key(token))
    return found and cmsgpack.unpack(found)
end

local function answer(token, value)
    redis.call('SET', token_key(token), cmsgpack.pack(value), 'EX', KEPT_SECONDS)
    return value
end

-- While a slot moves between masters a missing key is an error: it must come before the first write.
local function touch(keys)
    for first = 1, #keys, 1000 do
        redis.call('EXISTS', unpack(keys, first, math.min(first + 999, #keys)))
    end
end

local function member(number, batch) return string.format('%016d', number) .. ':' .. batch end

-- The head of a piece of work; see layout.py.
local function read(head)
    local length = string.byte(head, 55)
    return {
        state = string.sub(head, 1, 1),
        attempts = struct.unpack('<I4', head, 2),
        due = struct.unpack('<I8', head, 6),
        since = struct.unpack('<I8', head, 14),
        deadline = struct.unpack('<I8', head, 22) - 1,
        destination = string.sub(head, 56, 55 + length),
        runs = string.sub(head, 56 + length),
    }
end

-- Which process brought it, or sends it: the first bytes say who, the others which intent.
local function owner_of(head) return string.sub(head, 47, 51) end

local function with_runs(head, runs) return string.sub(head, 1, 55 + string.byte(head, 55)) .. runs end
local function with_state(head, state) return state .. string.sub(head, 2) end
local function with_due(head, due) return string.sub(head, 1, 5) .. due .. string.sub(head, 14) end

-- Members are runs of first and last, ascending.
local function size(runs)
    local total = 0
    for at = 1, #runs, 4 do
        local first, last = struct.unpack('<I2I2', runs, at)
        total = total + last - first + 1
    end
    return total
end

-- What is left of runs without others, or nil where not all of those are in it.
local function minus(held, leaving)
    if held == leaving then return '' end
    local left, from = {}, 1
    local first, last = nil, -1
    local function following()
        if from > #held then return false end
        first, last = struct.unpack('<I2I2', held, from)
        from = from + 4
        return true
    end
    local some = following()
    for at = 1, #leaving, 4 do
        local begin, finish = struct.unpack('<I2I2', leaving, at)
        while some and last < begin do
            left[#left + 1] = struct.pack('<I2I2', first, last)
            some = following()
        end
        if not some or begin < first or finish > last then return nil end
        if begin > first then left[#left + 1] = struct.pack('<I2I2', first, begin - 1) end
        if finish < last then
            first = finish + 1
        else
            some = following()
        end
    end
    while some do
        left[#left + 1] = struct.pack('<I2I2', first, last)
        some = following()
    end
    return table.concat(left)
end

-- What a script changes is gathered here, and written at once at its end.
local depths, counts, tracks = {}, {}, {}

local function deeper(state, destination, by)
    local field = state .. destination
    depths[field] = (depths[field] or 0) + by
end

local function counted(code, destination, by)
    local field = code .. ':' .. destination
    counts[field] = (counts[field] or 0) + by
end

local function track_of(batch, destination)
    local name = batch .. ':' .. destination
    local track = tracks[name]
    if not track then
        local codes = redis.call('HGET', batch_key(batch), 'c:' .. destination)
        if not codes then return nil end
        track = { batch = batch, destination = destination, codes = codes }
        tracks[name] = track
    end
    return track
end

-- Give members of a track a status, and count what changes.
local function mark(track, runs, code)
    local letter, codes, pieces, from = string.char(code), track.codes, {}, 1
    for at = 1, #runs, 4 do
        local first, last = struct.unpack('<I2I2', runs, at)
        local held, length = string.sub(codes, first + 1, last + 1), last - first + 1
        local before = string.byte(held, 1)
        if held == string.rep(string.char(before), length) then
            counted(before, track.destination, -length)
        else
            for index = 1, length do counted(string.byte(held, index), track.destination, -1) end
        end
        counted(code, track.destination, length)
        pieces[#pieces + 1] = string.sub(codes, from, first)
        pieces[#pieces + 1] = string.rep(letter, length)
        from = last + 2
    end
    pieces[#pieces + 1] = string.sub(codes, from)
    track.codes = table.concat(pieces)
end

-- All work is in an index by number, and open work in one by how long it waits; where it has a deadline, in one by
-- that and by when it is due.
local OPEN = { r = true, s = true, b = true, h = true, w = true }
local function closing(number, batch, work) return string.format('%016d', work.due) .. member(number, batch) end

local function index_work(number, batch, work)
    local name = member(number, batch)
    if work.state == 'r' then redis.call('ZADD', due_key(work.destination), work.due, name) end
    redis.call('ZADD', state_key(work.state, work.destination), number, name)
    if OPEN[work.state] then redis.call('ZADD', since_key(work.state, work.destination), work.since, name) end
    if work.deadline >= 0 and OPEN[work.state] then
        redis.call('ZADD', deadline_key(work.state, work.destination), work.deadline, closing(number, batch, work))
    end
end

local function place_work(number, batch, head, work)
    redis.call('HSET', work_key(batch), number, head)
    index_work(number, batch, work)
end

local function displace_work(number, batch, work)
    if work.state == 'r' then redis.call('ZREM', due_key(work.destination), member(number, batch)) end
    redis.call('ZREM', state_key(work.state, work.destination), member(number, batch))
    if OPEN[work.state] then redis.call('ZREM', since_key(work.state, work.destination), member(number, batch)) end
    if work.deadline >= 0 and OPEN[work.state] then
        redis.call('ZREM', deadline_key(work.state, work.destination), closing(number, batch, work))
    end
end

-- A piece of work as it is answered: its place, its head, what went wrong, its rows.
local function tell(found, name)
    local number, batch = string.match(name, '(%d+):(%d+)')
    local field = string.format('%.0f', tonumber(number))
    local held = redis.call('HMGET', work_key(batch), field, 'e' .. field, 'p' .. field)
    found[#found + 1] = name
    for index = 1, 3 do found[#found + 1] = held[index] or '' end
    return read(held[1])
end

-- All that a piece of work is found by, to be touched before it is written.
local function add_places(keys, state, destination)
    keys[#keys + 1] = due_key(destination)
    keys[#keys + 1] = state_key(state, destination)
    keys[#keys + 1] = since_key(state, destination)
    keys[#keys + 1] = deadline_key(state, destination)
end

-- Two commands for as many fields as there are: each costs as much as what it does, and is written to the disk.
local function add_to(key, changes)
    local names, fields = {}, {}
    for field, by in pairs(changes) do
        if by ~= 0 then names[#names + 1] = field end
    end
    if #names == 0 then return end
    local held = redis.call('HMGET', key, unpack(names))
    for at, name in ipairs(names) do
        fields[#fields + 1] = name
        fields[#fields + 1] = string.format('%.0f', tonumber(held[at] or '0') + changes[name])
    end
    redis.call('HSET', key, unpack(fields))
end

local function write_gathered()
    add_to(DEPTHS, depths)
    add_to(COUNTS, counts)
    for _, track in pairs(tracks) do
        redis.call('HSET', batch_key(track.batch), 'c:' .. track.destination, track.codes)
    end
end

-- Numbers are never given twice, and carry the partition in their last part.
local function next_works(many, partition)
    local last, numbers = redis.call('HINCRBY', META, 'work', many), {}
    for place = 1, many do numbers[place] = string.format('%.0f', (last - many + place) * 16 + partition) end
    return numbers
end

local function next_work(partition) return next_works(1, partition)[1] end

local function note_audit(rows)
    for _, row in ipairs(rows) do
        local last = tonumber(redis.call('HGET', META, 'audit') or '0')
        local number = string.format('%.0f', math.max(last + 1, math.floor(row.at / 1000)))
        redis.call('HSET', META, 'audit', number)
        redis.call('ZADD', tag .. ':au:' .. row.tenant, number, string.format('%016d', number) .. row.body)
    end
end

local function audit_rows()
    local rows = {}
    for _ = 1, count() do rows[#rows + 1] = { tenant = arg(), at = count(), body = arg() } end
    return rows
end
