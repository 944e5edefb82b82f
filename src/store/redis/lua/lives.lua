-- How long keys live. In milliseconds.
local LATE, DAY = 604800000, 86400000
-- How long it is remembered that a hold expired: a day more than it may still be settled, as the clock
-- of who checked may be ahead.
local LONGEST = LATE + DAY

-- A key lives at least so long from now. A day more, so that it is seldom told.
local function outlive(key, millis)
  if redis.call('PTTL', key) < millis then redis.call('PEXPIRE', key, millis + DAY) end
end

-- A customer has settled a hold, and will again: all that a step touches lives for a day more than the step
-- needs, so that ordinary steps need not tell it to, for half of that.
local function live_on(server)
  local call, books, due = redis.call, KEYS[2], KEYS[3]
  local lives = tonumber(call('HGET', books, 'lives') or '0')
  if lives - server > DAY * 250 then return end
  call('HSET', books, 'lives', string.format('%.0f', server + DAY * 500))
  if call('HEXISTS', books, 'keep') == 0 then outlive(books, LONGEST + DAY) end
  -- So that it does not go with the last hold, and come back without an end.
  call('ZADD', due, '+inf', '')
  outlive(due, LONGEST + DAY)
  call('PEXPIRE', KEYS[4], KEEP_IDS)
  call('PEXPIRE', KEYS[6], KEEP_EVENTS_FOR)
end

