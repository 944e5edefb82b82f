-- KEYS: also 7 transactions, 8 marks, 9 the stream of events, 10 and 11 the sums of the day, the
-- customer's and those of all, 12 alerts. ARGV: 4 id, 5 origin (H held, U unsure,
-- F fresh, G given), 6 attempt or empty, 7 time of the event in nanoseconds, 8 the same in microseconds, 9 how long ids
-- are remembered in microseconds, 10 the event, 11 how many events are kept, 12 balance or empty, 13
-- the charge, 14 what the default balance begins at or empty, 15 the transaction, 16 how many of
-- those are kept, 17 how long events are kept in milliseconds, 18 producer or empty, 19 its sequence,
-- 20 the place before it or empty, 21 how many days marks are kept, 22 and following what is summed up (see
-- rollup.lua); then for each line: kind, window and
-- counter, minute of the window's end or *, whether it shares the counter of the line before, amount, limit,
-- how many alerts, and for each percentage and amount.
-- Answers {what came of it, whether a sum did not fit, limit, percentage, used, ...}.
local version = redis.call('HGET', shard, 'version')
if version ~= ARGV[1] then return {version and 's' or 'x'} end
local transactions, marks, events = KEYS[7], KEYS[8], KEYS[9]
local wall, now, server = clock()
sweep(now)
local id, origin, attempt, at = ARGV[4], ARGV[5], ARGV[6], amount(ARGV[7])
local horizon = tonumber(ARGV[9])
local producer, above = ARGV[18], false
if producer ~= '' then
  local mark = tonumber(string.match(redis.call('HGET', marks, producer) or '0', '^%d+'))
  if tonumber(ARGV[19]) <= mark then return {'d'} end
  if ARGV[20] ~= '' and mark < tonumber(ARGV[20]) then return {'b'} end
  above = true
end

-- Moves the mark: the sequence, and the day. With a new one, those go that are not moved any more.
local function pass()
  if not above then return end
  local day, keep = math.floor(wall / 8.64e10), tonumber(ARGV[21])
  if redis.call('HSET', marks, producer, ARGV[19] .. ' ' .. day) == 1 then
    local all = redis.call('HGETALL', marks)
    for at = 1, #all, 2 do
      local moved = tonumber(string.match(all[at + 1], ' (%-?%d+)$'))
      if day - moved > keep then redis.call('HDEL', marks, all[at]) end
    end
  end
  redis.call('PEXPIRE', marks, keep * DAY)
end

local hold
if origin == 'H' or origin == 'U' then
  hold = hold_of(id)
  if hold and attempt ~= '' and hold[1] ~= attempt then hold = nil end
end
if origin ~= 'F' and redis.call('ZSCORE', ids, 'F' .. id) then
  if hold then let_go(id, hold) end
  pass()
  return {'d'}
end
local old = wall - tonumber(ARGV[8]) > horizon
if hold then
  let_go(id, hold)
elseif origin == 'G' and old and not above then
  return {'t'}
elseif origin == 'H' then
  local was_expired = redis.call('ZREM', expired, id) == 1
  -- Neither open nor expired nor finished, though that would be remembered: the server has lost the
  -- hold, and the use is counted. Of an old one that is known only when it has lost everything since.
  if not was_expired and not above then
    local lost = tonumber(redis.call('HGET', shard, 'since') or '0') > tonumber(ARGV[8])
    local released = redis.call('ZMSCORE', ids, 'R' .. attempt .. ' ' .. id, 'R0 ' .. id)
    if (old and not lost) or released[1] or (attempt == '' and released[2]) then return {'d'} end
  end
end
if origin ~= 'F' then
  redis.call('ZADD', ids, math.max(wall, tonumber(ARGV[8])) + horizon, 'F' .. id)
  redis.call('PEXPIRE', ids, math.ceil(horizon / 1000) + 90000000)
  forget(ids, wall)
end
pass()

local minute = math.floor(wall / 6e7)
local stays = false
local saturated = ''
local answer = {'n', ''}
local fresh, last = false, 0

-- Lets go of windows that have ended, and lives until the last one ends.
local function tidy()
  if not fresh and not stays then return end
  for _, field in ipairs(redis.call('HKEYS', books)) do
    local window = string.match(field, '^[ulha](%-?%d+)%.')
    if window then
      window = tonumber(window)
      if window <= minute then redis.call('HDEL', books, field)
      elseif window > last then last = window end
    elseif field == 'keep' then stays = false end
  end
  if stays then
    redis.call('HSET', books, 'keep', 1)
    redis.call('PERSIST', books)
  elseif last > 0 and redis.call('HEXISTS', books, 'keep') == 0 then
    outlive(books, math.ceil(last * 60000 - wall / 1000))
  end
end

-- All that the lines and the balance look at, in one call, and all that they change in another.
local name = ARGV[12]
local known, wanted, writes = {}, {}, {}
local lines = roll_up(22, wall, server, at)
local place = lines
while place <= #ARGV do
  if ARGV[place + 3] == '' then
    wanted[#wanted + 1] = 'u' .. ARGV[place + 1]
    if ARGV[place] == 'l' then wanted[#wanted + 1] = 'l' .. ARGV[place + 1] end
  end
  place = place + 7 + 2 * tonumber(ARGV[place + 6])
end
if name ~= '' then
  wanted[#wanted + 1], wanted[#wanted + 2], wanted[#wanted + 3] = 'b' .. name, 'm' .. name, 'last'
end
if wanted[1] then
  local found = redis.call('HMGET', books, unpack(wanted))
  for at, field in ipairs(wanted) do known[field] = found[at] end
end
local function write(field, value)
  known[field] = value
  writes[#writes + 1], writes[#writes + 2] = field, value
end

local after
place = lines
while place <= #ARGV do
  local kind, suffix, ends, shares = ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3]
  local given, limit, alerts = amount(ARGV[place + 4]), ARGV[place + 5], tonumber(ARGV[place + 6])
  if shares == '' then
    after = nil
    local found = known['u' .. suffix]
    if type(found) == 'string' then found = amount(found) end
    if found or ends == '*' or tonumber(ends) > minute then
      local over = false
      if kind == 's' then after, over = plus(found or 0, given)
      elseif kind == 'm' then after = found and not below(found, given) and found or given
      else
        local latest = amount(known['l' .. suffix])
        if not latest or not below(at, latest) then
          after = given
          write('l' .. suffix, ARGV[7])
        end
      end
      if over then answer[2] = '1' end
      if after then
        write('u' .. suffix, after)
        if not found then
          if ends == '*' then stays = true else fresh = true end
        end
      end
    end
  end
  if after and alerts > 0 and not below(after, amount(ARGV[place + 8])) then
    local field = 'a' .. ends .. '.' .. limit
    local told = redis.call('HGET', books, field) or ' '
    local more = told
    for alert = 0, alerts - 1 do
      local percent, threshold = ARGV[place + 7 + 2 * alert], amount(ARGV[place + 8 + 2 * alert])
      if not below(after, threshold) and not string.find(told, ' ' .. percent .. ' ', 1, true) then
        more = more .. percent .. ' '
        -- The customer is what comes behind, as in the key of the books.
        local member = ends .. ' ' .. percent .. ' ' .. limit .. ' ' .. string.sub(books, #shard + 2)
        redis.call('ZADD', KEYS[12], ends == '*' and '+inf' or ends, member)
        answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = limit, percent, after
      end
    end
    if more ~= told then
      redis.call('HSET', books, field, more)
      redis.call('ZREMRANGEBYSCORE', KEYS[12], '-inf', minute)
    end
  end
  place = place + 7 + 2 * alerts
end

if name ~= '' then
  local before = amount(known['b' .. name])
  if not before then
    before = not known['m' .. name] and ARGV[14] ~= '' and amount(ARGV[14]) or 0
    stays = true
  end
  local left, over = minus(before, amount(ARGV[13]))
  if over then answer[2] = '1' end
  local sequence = math.max(server, tonumber(known.last or '0') + 1)
  write('b' .. name, left)
  write('last', sequence)
  redis.call('RPUSH', transactions, string.format('%.0f ', sequence) .. tostring_amount(left) .. ' ' .. ARGV[15])
  redis.call('LTRIM', transactions, '-' .. ARGV[16], -1)
end
if writes[1] then redis.call('HSET', books, unpack(writes)) end
tidy()
append(events, server, ARGV[10], ARGV[7], tonumber(ARGV[11]), ARGV[17])
return answer
