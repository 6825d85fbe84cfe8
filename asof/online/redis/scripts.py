"""The Lua scripts that write rows, events and buckets. Redis runs each as one atomic step.

All are idempotent: a write whose reply was lost can be sent again, and any number of writers may write in any order.
Times are compared as two halves, because Lua's numbers are doubles.
"""

PUT_ROWS = """
-- KEYS: hashes of entities, then (but not in a cluster) the hash of layouts.
-- ARGV: revision of the layouts ('': any), field, now, seconds until the key expires (0: never), then for each key one row.
-- Keeps, for each key, the newest row known now and all newer ones that are not known yet. Returns the number of rows written.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[#KEYS], 'revision') ~= ARGV[1] then return redis.error_reply('STALE layouts') end
local field, expire, first = ARGV[2], tonumber(ARGV[4]), 4
local now_low, now_high = struct.unpack('<I4i4', ARGV[3])

local unpack, call = struct.unpack, redis.call

-- Times are given as low and high half, event time first.
local function not_older(al, ah, bl, bh, cl, ch, dl, dh)
  if ah ~= ch then return ah > ch end
  if al ~= cl then return al > cl end
  if bh ~= dh then return bh > dh end
  return bl >= dl
end

local function known(al, ah, bl, bh)
  return (ah < now_high or (ah == now_high and al <= now_low)) and (bh < now_high or (bh == now_high and bl <= now_low))
end

local function parsed(value)
  local rows, at = {}, 1
  while at <= #value do
    local _, size, al, ah, bl, bh = unpack('<I4I4I4i4I4i4', value, at)
    rows[#rows + 1] = {bytes = string.sub(value, at, at + size - 1), known = known(al, ah, bl, bh), al, ah, bl, bh}
    at = at + size
  end
  return rows
end

local function at_least(a, b) return not_older(a[1], a[2], a[3], a[4], b[1], b[2], b[3], b[4]) end

local function merged(old, value)
  local rows, row, best = parsed(old), parsed(value)[1], nil
  for _, other in ipairs(rows) do
    if other.bytes == value then return nil end
  end
  rows[#rows + 1] = row
  for _, other in ipairs(rows) do
    if other.known and (not best or at_least(other, best)) then best = other end
  end
  local kept, written = {}, false
  for _, other in ipairs(rows) do
    if other == best or (not other.known and (not best or at_least(other, best))) then
      kept[#kept + 1] = other.bytes
      written = written or other == row
    end
  end
  return written and table.concat(kept) or nil
end

local function newer(old, value)
  if old == value then return nil end
  local _, size, al, ah, bl, bh = unpack('<I4I4I4i4I4i4', old)
  local _, _, cl, ch, dl, dh = unpack('<I4I4I4i4I4i4', value)
  if size ~= #old or not known(al, ah, bl, bh) or not known(cl, ch, dl, dh) then return merged(old, value) end
  return not_older(cl, ch, dl, dh, al, ah, bl, bh) and value or nil
end

-- Where the last key had no row, probably the next has none: then one command does.
local accepted, fresh = 0, true
for i = 1, #ARGV - first do
  local key, value = KEYS[i], ARGV[first + i]
  fresh = fresh and call('HSETNX', key, field, value) == 1
  if fresh then
    accepted = accepted + 1
  else
    local old = call('HGET', key, field)
    local stored = value
    if old then stored = newer(old, value) else fresh = true end
    if stored then
      call('HSET', key, field, stored)
      accepted = accepted + 1
    end
  end
  if expire > 0 then call('EXPIRE', key, expire) end
end
return accepted
"""

PUT_EVENTS = """
-- KEYS: hashes of entities, then (but not in a cluster) the hash of layouts.
-- ARGV: revision of the layouts ('': any), field, bytes of an event (0: each event starts with its own size), horizon, slack, now, greatest size of
--       all values, events between two compactions (0: never), seconds until the key expires (0: never), number of sibling fields, then
--       (field, bytes of an event, or 'b': the view's buckets, 'o': older ones, 'x': to be forgotten) of each sibling, then for
--       each key its new events sorted by time.
-- Adds each event whose id is neither in the field nor in a sibling. Returns how many were added, how many keys were
-- refused because their value would grow too large, and the keys that are due for compaction.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[#KEYS], 'revision') ~= ARGV[1] then return redis.error_reply('STALE layouts') end
local field, width = ARGV[2], tonumber(ARGV[3])
local horizon, slack, now = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local limit, every, expire, others = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local HEAD, first, MANY = 8, 10 + 2 * others, 64

local function i64(s, at)
  local low, high = struct.unpack('<I4i4', s, at)
  return high * 4294967296 + low
end

-- The events of s[from:] as a list of positions, or as arithmetic where all have one width.
local function list(s, from, size)
  if size > 0 then
    return {n = math.floor((#s - from + 1) / size), at = function(i) return from + (i - 1) * size end, skip = 0}
  end
  local found, at = {}, from
  while at <= #s do
    found[#found + 1] = at
    at = at + struct.unpack('<I4', s, at)
  end
  found[#found + 1] = at
  return {n = #found - 1, at = function(i) return found[i] end, skip = 4, found = found}
end

local function time(s, events, i) return i64(s, events.at(i) + events.skip) end

local function arrival(s, events, i)
  local at = events.at(i) + events.skip
  return math.max(i64(s, at), i64(s, at + 8))
end

-- The ids in a value: of events, or (size nil) of buckets, which have them at the end.
local function known(s, events, size)
  if not size then
    local from = struct.unpack('<I4', s, 13) + 1
    return {s = s, n = (#s - from + 1) / 8, at = function(i) return from + (i - 1) * 8 end}
  end
  return {s = s, n = events.n, at = function(i) return events.at(i) + events.skip + 16 end, variable_width = size == 0}
end

local function listed(ids)
  ids.set = {}
  for i = 1, ids.n do
    local at = ids.at(i)
    ids.set[string.sub(ids.s, at, at + 7)] = true
  end
end

-- Whether an id is among the ids of a value. Many are looked up in a set, few are searched for.
local function holds(ids, id, asked)
  if not ids.set and asked > MANY then listed(ids) end
  if ids.set then return ids.set[id] end
  if ids.n == 0 then return false end
  local origin = ids.at(1)
  local at = string.find(ids.s, id, origin, true)
  if at and ids.variable_width then
    listed(ids)
    return ids.set[id]
  end
  local step = at and ids.at(2) - origin
  while at do
    if (at - origin) % step == 0 then return true end
    at = string.find(ids.s, id, at + 1, true)
  end
  return false
end

-- Position of the first event later than ts.
local function after(s, events, ts, low)
  local high = events.n + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time(s, events, middle) > ts then high = middle else low = middle + 1 end
  end
  return low
end

local function merge(old, events, fresh)
  local last = events.n > 0 and time(old, events, events.n)
  local parts, from = {}, 1
  for _, event in ipairs(fresh) do
    if last and event.ts < last then
      local place = after(old, events, event.ts, from)
      parts[#parts + 1] = string.sub(old, events.at(from), events.at(place) - 1)
      from = place
    elseif from <= events.n then
      parts[#parts + 1] = string.sub(old, events.at(from))
      from = events.n + 1
    end
    parts[#parts + 1] = event.bytes
  end
  if from <= events.n then parts[#parts + 1] = string.sub(old, events.at(from)) end
  return table.concat(parts)
end

local function prune(body, latest)
  local events = list(body, 1, width)
  local safe = math.min(latest, now) - slack
  local first = after(body, events, safe - horizon, 1)
  if first == 1 then return body end
  for i = first, events.n do
    if arrival(body, events, i) <= safe then return string.sub(body, events.at(first)) end
  end
  for i = first - 1, 1, -1 do
    if arrival(body, events, i) <= safe then
      return string.sub(body, events.at(i), events.at(i + 1) - 1) .. string.sub(body, events.at(first))
    end
  end
  return string.sub(body, events.at(first))
end

local added, refused, grown = 0, 0, {}
for k = 1, #ARGV - first do
  local key, blob = KEYS[k], ARGV[first + k]
  local old = redis.call('HGET', key, field) or ''
  local events, room, gone = list(old, HEAD + 1, width), limit, {}
  local latest = old ~= '' and i64(old, 1) or nil
  local seen, ending = {known(old, events, width)}, {}
  for s = 1, others do
    local name, kind = ARGV[9 + 2 * s], ARGV[10 + 2 * s]
    local other = redis.call('HGET', key, name)
    if other and kind == 'x' then
      gone[#gone + 1] = name
    elseif other and (kind == 'b' or kind == 'o') then
      seen[#seen + 1] = known(other)
      room = room - #other
      if kind == 'o' then ending[name] = i64(other, 1) end
    elseif other then
      local size = tonumber(kind)
      local its = list(other, HEAD + 1, size)
      seen[#seen + 1] = known(other, its, size)
      ending[name] = its.n > 0 and time(other, its, its.n) or -math.huge
    end
  end
  local fresh, new = {}, list(blob, 1, width)
  for i = 1, new.n do
    local at = new.at(i)
    local id = string.sub(blob, at + new.skip + 16, at + new.skip + 23)
    local duplicate = false
    for _, ids in ipairs(seen) do
      duplicate = duplicate or holds(ids, id, new.n)
    end
    if not duplicate then
      fresh[#fresh + 1] = {ts = time(blob, new, i), bytes = string.sub(blob, at, new.at(i + 1) - 1)}
      latest = math.max(latest or -math.huge, arrival(blob, new, i))
    end
  end
  if #fresh > 0 then
    local body = prune(merge(old, events, fresh), latest)
    if HEAD + #body > room then
      refused = refused + 1
    else
      local high = math.floor(latest / 4294967296)
      redis.call('HSET', key, field, struct.pack('<I4i4', latest - high * 4294967296, high) .. body)
      added = added + #fresh
      if every > 0 and math.floor(events.n / every) < math.floor((events.n + #fresh) / every) then grown[#grown + 1] = key end
      local outside = math.min(latest, now) - slack - horizon
      for name, last in pairs(ending) do
        if last <= outside then gone[#gone + 1] = name end
      end
      for _, name in ipairs(gone) do redis.call('HDEL', key, name) end
    end
  end
  if expire > 0 then redis.call('EXPIRE', key, expire) end
end
return {added, refused, grown}
"""

REPLACE = """
-- KEYS: hashes of entities, then (but not in a cluster) the hash of layouts.
-- ARGV: revision of the layouts ('': any), field of the events, field of the buckets, then for each key: SHA-1 of its events, SHA-1
--       of its buckets ('-' where it has none), bytes of its new events, its new events, its new buckets.
-- Replaces the events and buckets of each key if neither has changed. Returns 1 for each replaced key, else 0.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[#KEYS], 'revision') ~= ARGV[1] then return redis.error_reply('STALE layouts') end

local function fingerprint(value)
  return value and redis.sha1hex(value) or string.rep('-', 40)
end

local done = {}
for k = 1, #ARGV - 3 do
  local key, blob = KEYS[k], ARGV[3 + k]
  local old = redis.call('HMGET', key, ARGV[2], ARGV[3])
  done[k] = 0
  if fingerprint(old[1]) == string.sub(blob, 1, 40) and fingerprint(old[2]) == string.sub(blob, 41, 80) then
    local size = struct.unpack('<I4', blob, 81)
    redis.call('HSET', key, ARGV[2], string.sub(blob, 85, 84 + size), ARGV[3], string.sub(blob, 85 + size))
    done[k] = 1
  end
end
return done
"""

ADD_LAYOUT = """
-- KEYS: the hash of layouts. ARGV: id, layout. Returns the layout that has the id now, and the revision.
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then redis.call('HINCRBY', KEYS[1], 'revision', 1) end
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[1], 'revision')}
"""
