"""The Lua scripts of the stream in Redis: each is one atomic step, that Redis writes to its AOF as one. Pure text.

The first key of each is the stream's hash, and the first argument the identity that the stream must have: a stream that
was emptied answers FLUSHED. A lease is held while its key has its name as value.
"""

from __future__ import annotations

from typing import Final

_PRELUDE: Final = """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return redis.error_reply('FLUSHED the stream was emptied') end
"""

# A Redis that is full refuses a script whose first write may need memory, but none of its later writes. This first
# write changes nothing. So consumers go on, which is what makes room.
_ALSO_WHEN_FULL: Final = (
    _PRELUDE
    + """
redis.call('PERSIST', KEYS[1])
"""
)

_ORDER: Final = """
local function parts(id) local ms, n = string.match(id, '^(%d+)-(%d+)$'); return tonumber(ms), tonumber(n) end
local function before(a, b)
  local ams, an = parts(a); local bms, bn = parts(b)
  return ams < bms or (ams == bms and an < bn)
end
local function field(reply, name)
  for i = 1, #reply, 2 do if reply[i] == name then return reply[i + 1] end end
end
local function groups(stream)
  local reply = redis.pcall('XINFO', 'GROUPS', stream)
  return reply.err and {} or reply
end
local function group_of(stream, name)
  for _, each in ipairs(groups(stream)) do if field(each, 'name') == name then return each end end
end
"""

# KEYS: hash.  ARGV: new identity, partitions to create it with.  Returns the identity and the partitions that it has.
OPEN: Final = """
redis.call('HSETNX', KEYS[1], 'id', ARGV[1])
redis.call('HSETNX', KEYS[1], 'partitions', ARGV[2])
return redis.call('HMGET', KEYS[1], 'id', 'partitions')
"""

# KEYS: hash, dead letters, streams.  ARGV: identity, most events, then of each event: partition, bytes.
# Returns -1 and how many events there are, or the entries' ids.
APPEND: Final = (
    _PRELUDE
    + """
local kept = redis.call('XLEN', KEYS[2])
for i = 3, #KEYS do kept = kept + redis.call('XLEN', KEYS[i]) end
if kept + (#ARGV - 2) / 2 > tonumber(ARGV[2]) then return {-1, kept} end
local ids, counts = {}, {}
for i = 3, #ARGV, 2 do
  ids[#ids + 1] = redis.call('XADD', KEYS[3 + ARGV[i]], '*', 'e', ARGV[i + 1])
  counts[ARGV[i]] = (counts[ARGV[i]] or 0) + 1
end
for partition, count in pairs(counts) do redis.call('HINCRBY', KEYS[1], 'appended:' .. partition, count) end
return ids
"""
)

# KEYS: hash, streams.  ARGV: identity, group.  Returns how many partitions had no such group.
CREATE_GROUP: Final = (
    _ALSO_WHEN_FULL
    + """
local created = 0
for i = 2, #KEYS do
  local reply = redis.pcall('XGROUP', 'CREATE', KEYS[i], ARGV[2], '0', 'MKSTREAM')
  if not reply.err then
    created = created + 1
    local appended = tonumber(redis.call('HGET', KEYS[1], 'appended:' .. (i - 2)) or '0')
    redis.call('HSET', KEYS[1], 'acked:' .. (i - 2) .. ':' .. ARGV[2], appended - redis.call('XLEN', KEYS[i]))
  elseif not string.find(reply.err, 'BUSYGROUP', 1, true) then
    return reply
  end
end
return created
"""
)

# KEYS: hash, members, leases.  ARGV: identity, member, milliseconds, then of each partition the member's lease or ''.
# Returns the members, and then of each partition the lease that holds it or ''.
HEARTBEAT: Final = (
    _ALSO_WHEN_FULL
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
local leases = {}
for i = 3, #KEYS do
  local lease = redis.call('GET', KEYS[i]) or ''
  if lease ~= '' and lease == ARGV[i + 1] then redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
  leases[i - 2] = lease
end
return {redis.call('ZRANGE', KEYS[2], 0, -1), leases}
"""
)

# KEYS: hash, then of each wanted partition: stream, lease.
# ARGV: identity, group, member, milliseconds, then of each: the lease.
# Returns of each what its group has been delivered, or '' where another holds it.
TAKE: Final = (
    _ALSO_WHEN_FULL
    + _ORDER
    + """
local taken = {}
for i = 2, #KEYS, 2 do
  local group = group_of(KEYS[i], ARGV[2])
  if not group then return redis.error_reply('NOGROUP ' .. ARGV[2]) end
  if redis.call('SET', KEYS[i + 1], ARGV[4 + i / 2], 'NX', 'PX', ARGV[4]) then
    for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[i], ARGV[2])) do
      if field(each, 'pending') == 0 and field(each, 'name') ~= ARGV[3] then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[2], field(each, 'name'))
      end
    end
    taken[#taken + 1] = field(group, 'last-delivered-id')
  else
    taken[#taken + 1] = ''
  end
end
return taken
"""
)

# KEYS: hash, members, leases.  ARGV: identity, member or '', then of each: the lease. Returns how many were released.
RELEASE: Final = (
    _ALSO_WHEN_FULL
    + """
if ARGV[2] ~= '' then redis.call('ZREM', KEYS[2], ARGV[2]) end
local released = 0
for i = 3, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i] then released = released + redis.call('DEL', KEYS[i]) end
end
return released
"""
)

# KEYS: hash, then of each partition: stream, lease.
# ARGV: identity, group, member, most entries, most bytes, then of each partition: its number, lease, after which entry.
# Returns of each partition: where to go on or '' if the lease is lost, and entries: id, bytes, deliveries.
READ: Final = (
    _ALSO_WHEN_FULL
    + """
local group, member, left, room = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local function delivered_before(stream, partition, after)
  while true do
    local pending = redis.call('XPENDING', stream, group, '(' .. after, '+', 1)[1]
    if not pending then return nil end
    local id, count, found = pending[1], pending[4], nil
    if pending[2] == member then
      found = redis.call('XRANGE', stream, id, id)[1]
    else
      found, count = redis.call('XCLAIM', stream, group, member, 0, id)[1], count + 1
    end
    if found then return found, count end
    -- It was deleted by another program. From version 7 on XCLAIM has acked it.
    redis.call('XACK', stream, group, id)
    redis.call('HINCRBY', KEYS[1], 'acked:' .. partition .. ':' .. group, 1)
    after = id
  end
end
local read = {}
for i = 2, #KEYS, 2 do
  local stream, lease, partition = KEYS[i], ARGV[4 + i / 2 * 3], ARGV[3 + i / 2 * 3]
  local after, entries = ARGV[5 + i / 2 * 3], {}
  if redis.call('GET', KEYS[i + 1]) ~= lease then
    after = ''
  else
    while left > 0 and room > 0 do
      local entry, count = nil, 1
      if after ~= '>' then
        entry, count = delivered_before(stream, partition, after)
        after = entry and entry[1] or '>'
      end
      if not entry then
        local reply = redis.call('XREADGROUP', 'GROUP', group, member, 'COUNT', 1, 'STREAMS', stream, '>')
        if not reply then break end
        entry, count = reply[1][2][1], 1
      end
      local data = entry[2][1] == 'e' and entry[2][2] or ''
      left, room = left - 1, room - #data
      entries[#entries + 1] = {entry[1], data, count}
    end
  end
  read[#read + 1] = {after, entries}
end
return read
"""
)

# KEYS: hash, then of each partition: stream, lease.
# ARGV: identity, group, then of each partition: its number, the lease, how many entries, entries.
# Returns of each partition how many were acked, or -1 if the lease is lost.
ACK: Final = (
    _ALSO_WHEN_FULL
    + """
local acked, at = {}, 3
for i = 2, #KEYS, 2 do
  local partition, lease, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if redis.call('GET', KEYS[i + 1]) ~= lease then
    acked[#acked + 1] = -1
  else
    local done = redis.call('XACK', KEYS[i], ARGV[2], unpack(ARGV, at + 3, at + 2 + count))
    redis.call('HINCRBY', KEYS[1], 'acked:' .. partition .. ':' .. ARGV[2], done)
    acked[#acked + 1] = done
  end
  at = at + 3 + count
end
return acked
"""
)

# KEYS: hash, stream, lease, dead letters, state of the event.
# ARGV: identity, group, partition, lease, entry, reason, attempts.  Returns 0 if the lease is lost.
PARK: Final = (
    _ALSO_WHEN_FULL
    + """
if redis.call('GET', KEYS[3]) ~= ARGV[4] then return 0 end
if redis.call('XACK', KEYS[2], ARGV[2], ARGV[5]) == 1 then
  local found = redis.call('XRANGE', KEYS[2], ARGV[5], ARGV[5])[1]
  local data = found and found[2][1] == 'e' and found[2][2] or ''
  local id = redis.call('XADD', KEYS[4], '*', 'e', data, 'group', ARGV[2], 'partition', ARGV[3], 'entry', ARGV[5],
                        'reason', ARGV[6], 'attempts', ARGV[7])
  redis.call('SET', KEYS[5], 'dead:' .. ARGV[6])
  redis.call('HINCRBY', KEYS[1], 'acked:' .. ARGV[3] .. ':' .. ARGV[2], 1)
end
return 1
"""
)

# KEYS: hash, dead letters, state of the event, stream.
# ARGV: identity, id of the dead letter, seconds to keep the state for, partition, bytes.
# Returns the new entry, or '' if there is no such dead letter.
REPLAY: Final = (
    _PRELUDE
    + """
if #redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2]) == 0 then return '' end
local entry = redis.call('XADD', KEYS[4], '*', 'e', ARGV[5])
redis.call('HINCRBY', KEYS[1], 'appended:' .. ARGV[4], 1)
redis.call('XDEL', KEYS[2], ARGV[2])
redis.call('SET', KEYS[3], 'as:' .. ARGV[4] .. '.' .. entry, 'EX', ARGV[3])
return entry
"""
)

# KEYS: hash, dead letters, state of the event.  ARGV: identity, id of the dead letter, seconds to keep the state for,
# state.  Returns how many dead letters were removed.
DROP: Final = (
    _ALSO_WHEN_FULL
    + """
local removed = redis.call('XDEL', KEYS[2], ARGV[2])
if removed == 1 then redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[3]) end
return removed
"""
)

# KEYS: hash, then of each event: stream, state.  ARGV: identity, group, then of each event: entry.
# Returns of each event: its state, or 'pending', 'done' or 'unknown'.
STATUSES: Final = (
    _PRELUDE
    + _ORDER
    + """
local states, newest, delivered = {}, {}, {}
for i = 2, #KEYS, 2 do
  local stream, entry, state = KEYS[i], ARGV[2 + i / 2], redis.call('GET', KEYS[i + 1])
  if not state then
    if not newest[stream] then
      local info = redis.pcall('XINFO', 'STREAM', stream)
      newest[stream] = info.err and '0-0' or field(info, 'last-generated-id')
      local group = group_of(stream, ARGV[2])
      delivered[stream] = group and field(group, 'last-delivered-id') or 'none'
    end
    if before(newest[stream], entry) then
      state = 'unknown'
    elseif delivered[stream] == 'none' or before(delivered[stream], entry)
        or #redis.call('XPENDING', stream, ARGV[2], entry, entry, 1) > 0 then
      state = 'pending'
    else
      state = 'done'
    end
  end
  states[#states + 1] = state
end
return states
"""
)

# KEYS: hash, dead letters, streams.  ARGV: identity, group.
# Returns events, dead letters, events not acked, and the milliseconds since the oldest of these.
STATUS: Final = (
    _PRELUDE
    + _ORDER
    + """
local time = redis.call('TIME')
local now, oldest, kept, lag = time[1] * 1000 + math.floor(time[2] / 1000), nil, 0, 0
for i = 3, #KEYS do
  local length, group = redis.call('XLEN', KEYS[i]), group_of(KEYS[i], ARGV[2])
  kept = kept + length
  local after, first = group and '(' .. field(group, 'last-delivered-id') or '-', nil
  local unread = redis.call('XRANGE', KEYS[i], after, '+', 'COUNT', 1)[1]
  if group and field(group, 'pending') > 0 then
    first = redis.call('XPENDING', KEYS[i], ARGV[2])[2]
  elseif unread then
    first = unread[1]
  end
  if first then
    local ms = parts(first)
    if not oldest or ms < oldest then oldest = ms end
  end
  if group then
    local counts = redis.call('HMGET', KEYS[1], 'appended:' .. (i - 3), 'acked:' .. (i - 3) .. ':' .. ARGV[2])
    lag = lag + tonumber(counts[1] or '0') - tonumber(counts[2] or '0')
  else
    lag = lag + length
  end
end
return {kept, redis.call('XLEN', KEYS[2]), lag, oldest and math.max(0, now - oldest) or -1}
"""
)

# KEYS: hash, stream.  ARGV: identity, milliseconds since 1970, most entries.
# Returns how many entries were removed: call again unless it is 0.
TRIM: Final = (
    _ALSO_WHEN_FULL
    + _ORDER
    + """
local floor = nil
for _, group in ipairs(groups(KEYS[2])) do
  local first = nil
  if field(group, 'pending') > 0 then
    first = redis.call('XPENDING', KEYS[2], field(group, 'name'))[2]
  else
    local ms, n = parts(field(group, 'last-delivered-id'))
    first = string.format('%.0f-%.0f', ms, n + 1)
  end
  if not floor or before(first, floor) then floor = first end
end
if not floor then return 0 end
if before(ARGV[2] .. '-0', floor) then floor = ARGV[2] .. '-0' end
-- Whole nodes first, which costs little; then the few entries before the first that stays.
local removed = redis.call('XTRIM', KEYS[2], 'MINID', '~', floor, 'LIMIT', ARGV[3])
if removed == 0 then removed = redis.call('XTRIM', KEYS[2], 'MINID', '=', floor) end
return removed
"""
)
