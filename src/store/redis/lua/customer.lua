-- The keys of one customer, all in one slot: see keys.rs. ARGV[1] is the version of the definitions
-- by which the operation was resolved; where the store is given a clock (TIMED), behind that wall and
-- monotonic time in microseconds.
local call = redis.call
local shard, books, due, ids, expired = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local VERSION = TIMED and string.match(ARGV[1], '^%S*') or ARGV[1]

local function clock()
  local now = call('TIME')
  local server = now[1] * 1e6 + now[2]
  if not TIMED then return server, server, server end
  local wall, now = string.match(ARGV[1], '(%S+) (%S+)$')
  return tonumber(wall), tonumber(now), server
end

-- Holds are text: attempt|, for each line field|amount|, then # and for a balance amount|field. (The
-- server's cmsgpack takes as long as all the rest.) One whose id was finished otherwise begins with a
-- space, so that no ordinary settlement takes it. A hold is named by the field that it is in: o and the id.
local function attempt_of(hold) return string.match(hold, '^ ?(%d+)') end

-- Fields and amounts.
local function held_by(hold)
  local fields, amounts, count = {}, {}, 0
  local behind = string.find(hold, '#', 1, true)
  for field, held in string.gmatch(string.sub(hold, 1, behind), '(h[^|]+)|([^|]+)|') do
    count = count + 1
    fields[count], amounts[count] = field, held
  end
  if behind < #hold then
    count = count + 1
    amounts[count], fields[count] = string.match(hold, '^([^|]+)|(.+)$', behind + 1)
  end
  return fields, amounts
end

-- What remains of what is held, when one hold takes back its own: nothing, or the rest.
local function rest_of(held, own)
  -- The same text: nobody else holds anything.
  if held == own then return nil end
  local left = minus(amount(held), amount(own))
  return below(0, left) and left or nil
end

-- Takes a hold away, and with it what it held.
local function let_go(own, hold)
  local fields, amounts = held_by(hold)
  local gone, writes = {own}, {}
  if fields[1] then
    local found = call('HMGET', books, unpack(fields))
    for at, field in ipairs(fields) do
      local left = found[at] and rest_of(found[at], amounts[at])
      if left then writes[#writes + 1], writes[#writes + 2] = field, left else gone[#gone + 1] = field end
    end
  end
  if writes[1] then call('HSET', books, unpack(writes)) end
  call('HDEL', books, unpack(gone))
  call('ZREM', due, own)
end

-- Forgets ids whose time is over: some, now and then.
local function forget(key, before, server)
  if server % 16 > 0 then return end
  local over = call('ZRANGEBYSCORE', key, '-inf', before - 1, 'LIMIT', 0, 64)
  if over[1] then call('ZREM', key, unpack(over)) end
end

-- Nobody renewed it. It costs nothing, and may still be settled for a week.
local function expire(own, now)
  local hold = call('HGET', books, own)
  if hold then let_go(own, hold) else call('ZREM', due, own) end
  call('ZADD', expired, now, own)
  call('PEXPIRE', expired, LONGEST)
  forget(expired, now - LONGEST * 1000, 0)
end

-- Ends holds that expired, at most 16 and the oldest first.
local function sweep(now)
  local over = call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 16)
  for at = 1, #over do expire(over[at], now) end
end
