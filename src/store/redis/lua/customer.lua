-- The keys of one customer, all in one slot: see keys.rs. ARGV[1] is the version of the definitions
-- by which the operation was resolved; ARGV[2] is wall and monotonic time in microseconds where the
-- store is given a clock, and empty where the server's is good.
local call = redis.call
local shard, books, due, ids, expired = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LATE, DAY = 604800000, 86400000
-- How long it is remembered that a hold expired: a day more than it may still be settled, as the clock
-- of who checked may be ahead.
local LONGEST = LATE + DAY

local function clock()
  local now = call('TIME')
  local server = now[1] * 1e6 + now[2]
  if ARGV[2] == '' then return server, server, server end
  local wall, now = string.match(ARGV[2], '^(%S+) (%S+)$')
  return tonumber(wall), tonumber(now), server
end

-- A key that lives at least so many milliseconds from now. A day more, so that it is seldom told.
local function outlive(key, millis)
  if call('PTTL', key) < millis then call('PEXPIRE', key, millis + DAY) end
end

-- Holds are text: attempt|, for each line field|amount|, then # and for a balance amount|field. (The
-- server's cmsgpack takes as long as all the rest.) Answers fields and amounts.
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
local function let_go(id, hold)
  local fields, amounts = held_by(hold)
  local gone, writes = {'o' .. id}, {}
  if fields[1] then
    local found = call('HMGET', books, unpack(fields))
    for at, field in ipairs(fields) do
      local left = found[at] and rest_of(found[at], amounts[at])
      if left then writes[#writes + 1], writes[#writes + 2] = field, left else gone[#gone + 1] = field end
    end
  end
  if writes[1] then call('HSET', books, unpack(writes)) end
  call('HDEL', books, unpack(gone))
  call('ZREM', due, id)
end

-- Forgets ids whose time is over: some, now and then.
local function forget(key, before, server)
  if server % 16 > 0 then return end
  local over = call('ZRANGEBYSCORE', key, '-inf', before - 1, 'LIMIT', 0, 64)
  if over[1] then call('ZREM', key, unpack(over)) end
end

-- Nobody renewed it. It costs nothing, and may still be settled for a week.
local function expire(id, now)
  local hold = call('HGET', books, 'o' .. id)
  if hold then let_go(id, hold) else call('ZREM', due, id) end
  call('ZADD', expired, now, id)
  call('PEXPIRE', expired, LONGEST)
  forget(expired, now - LONGEST * 1000, 0)
end

-- Ends holds that expired, at most 16 and the oldest first.
local function sweep(now)
  local over = call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 16)
  for at = 1, #over do expire(over[at], now) end
end
