-- The keys of one customer, all in one slot: see keys.rs. ARGV[1] is the version of the definitions
-- by which the operation was resolved; ARGV[2] and ARGV[3] are wall and monotonic time in
-- microseconds where the store is given a clock, and empty where the server's is good.
local shard, books, holds, due, ids, expired = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local LATE, DAY = 604800000, 86400000

local function clock()
  local now = redis.call('TIME')
  local server = now[1] * 1e6 + now[2]
  if ARGV[2] == '' then return server, server, server end
  return tonumber(ARGV[2]), tonumber(ARGV[3]), server
end

-- A key that lives at least so many milliseconds from now. A day more, so that it is seldom told.
local function outlive(key, millis)
  if redis.call('PTTL', key) < millis then redis.call('PEXPIRE', key, millis + DAY) end
end

-- Takes a hold away, and with it what it held.
local function let_go(id, hold)
  local fields, gone, writes = {}, {}, {}
  for at = 3, #hold, 2 do fields[#fields + 1] = hold[at] end
  local found = fields[1] and redis.call('HMGET', books, unpack(fields))
  for at, field in ipairs(fields) do
    local held, own = found[at], hold[2 * at + 2]
    -- The same text: nobody else holds anything.
    if held == own then gone[#gone + 1] = field
    elseif held then
      local left = minus(amount(held), amount(own))
      if below(0, left) then writes[#writes + 1], writes[#writes + 2] = field, left else gone[#gone + 1] = field end
    end
  end
  if gone[1] then redis.call('HDEL', books, unpack(gone)) end
  if writes[1] then redis.call('HSET', books, unpack(writes)) end
  redis.call('HDEL', holds, id)
  redis.call('ZREM', due, id)
end

-- Holds are text: attempt|given|, and for each line the length of the field:field and amount|. (The
-- server's cmsgpack takes as long as all the rest.)
local function unpacked(text)
  local hold, at = {}, nil
  hold[1], hold[2], at = string.match(text, '^([^|]*)|([^|]*)|()')
  while at <= #text do
    local size, from = string.match(text, '^(%d+):()', at)
    local held, next = string.match(text, '^([^|]*)|()', from + size)
    hold[#hold + 1], hold[#hold + 2] = string.sub(text, from, from + size - 1), held
    at = next
  end
  return hold
end

local function hold_of(id)
  local text = redis.call('HGET', holds, id)
  return text and unpacked(text)
end

-- Forgets ids whose time is over, a few at a time.
local function forget(key, before)
  local over = redis.call('ZRANGEBYSCORE', key, '-inf', before - 1, 'LIMIT', 0, 16)
  if over[1] then redis.call('ZREM', key, unpack(over)) end
end

-- Nobody renewed it. It costs nothing, and may still be settled for a week.
local function expire(id, now)
  local hold = hold_of(id)
  if hold then let_go(id, hold) else redis.call('ZREM', due, id) end
  redis.call('ZADD', expired, now, id)
  redis.call('PEXPIRE', expired, LATE)
  forget(expired, now - LATE * 1000)
end

-- Ends holds that expired, at most 16 and the oldest first.
local function sweep(now)
  local over = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 16)
  for at = 1, #over do expire(over[at], now) end
end
