-- The keys of one customer, all in one slot: see keys.rs. ARGV[1] is the version of the definitions
-- by which the operation was resolved; ARGV[2] and ARGV[3] are wall and monotonic time in
-- microseconds where the store is given a clock, and empty where the server's is good.
local shard, books, holds, due, ids, expired = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local LATE = 604800000

local function clock()
  local now = redis.call('TIME')
  local server = now[1] * 1e6 + now[2]
  if ARGV[2] == '' then return server, server, server end
  return tonumber(ARGV[2]), tonumber(ARGV[3]), server
end

-- A key that lives at least so many milliseconds from now.
local function outlive(key, millis)
  if redis.call('PTTL', key) < millis then redis.call('PEXPIRE', key, millis) end
end

-- Takes a hold away, and with it what it held.
local function let_go(id, hold)
  for at = 3, #hold, 2 do
    local held = amount(redis.call('HGET', books, hold[at]))
    if held then
      local left = minus(held, amount(hold[at + 1]))
      if below(0, left) then redis.call('HSET', books, hold[at], left) else redis.call('HDEL', books, hold[at]) end
    end
  end
  redis.call('HDEL', holds, id)
  redis.call('ZREM', due, id)
end

local function hold_of(id)
  local packed = redis.call('HGET', holds, id)
  return packed and cmsgpack.unpack(packed)
end

-- Forgets ids whose time is over, a few at a time.
local function forget(key, before)
  local over = redis.call('ZRANGEBYSCORE', key, '-inf', string.format('(%.0f', before), 'LIMIT', 0, 16)
  if #over > 0 then redis.call('ZREM', key, unpack(over)) end
end

-- Nobody renewed it. It costs nothing, and may still be settled for a week.
local function expire(id, now)
  local hold = hold_of(id)
  if hold then let_go(id, hold) else redis.call('ZREM', due, id) end
  redis.call('ZADD', expired, string.format('%.0f', now), id)
  redis.call('PEXPIRE', expired, LATE)
  forget(expired, now - LATE * 1000)
end

-- Ends holds that expired, at most 16 and the oldest first.
local function sweep(now)
  local over = redis.call('ZRANGEBYSCORE', due, '-inf', string.format('%.0f', now), 'LIMIT', 0, 16)
  for _, id in ipairs(over) do expire(id, now) end
end
