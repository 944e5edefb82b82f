-- KEYS: also 6 the stream of events, 7 and 8 the sums of the day, the customer's and those of all; then, with
-- a producer, marks; with a balance, transactions; and alerts. ARGV: 3 id, 4 origin (H held, U unsure, F
-- fresh, G given), 5 attempt or empty, 6 time of the event in nanoseconds, 7 the event, 8 producer or
-- empty; with one, its sequence, and the place before it or empty; then balance or empty; with one, the
-- charge, what the default begins at or empty, and the transaction; then what is summed up (see
-- rollup.lua); then for each counter: kind (s, m or l) and amount, both only where they are not those of
-- the counter before, and window and counter; and behind a counter for each limit on it that alerts: a,
-- the limit, how many alerts, and for each percentage and amount.
-- Answers {what came of it, whether a sum did not fit, limit, percentage, used, ...}, or n for n and nothing
-- more.
local version = call('HGET', shard, 'version')
if version ~= ARGV[1] then return {version and 's' or 'x'} end
local wall, now, server = clock()
local id, origin, attempt, at = ARGV[3], ARGV[4], ARGV[5], amount(ARGV[6])
-- In microseconds.
local began = tonumber(string.sub(ARGV[6], 1, -4)) or 0
local own = 'o' .. id
local producer, place, next_key = ARGV[8], 9, 9
local above = producer ~= ''
local marks = above and KEYS[9]
if above then
  local mark = tonumber(string.match(call('HGET', marks, producer) or '0', '^%d+'))
  if tonumber(ARGV[9]) <= mark then return {'d'} end
  if ARGV[10] ~= '' and mark < tonumber(ARGV[10]) then return {'b'} end
  place, next_key = 11, 10
end

-- Moves the mark: the sequence, and the day. With a new one, those go that are not moved any more.
local function pass()
  if not above then return end
  local day = math.floor(wall / 8.64e10)
  if call('HSET', marks, producer, ARGV[9] .. ' ' .. day) == 1 then
    local all = call('HGETALL', marks)
    for at = 1, #all, 2 do
      local moved = tonumber(string.match(all[at + 1], ' (%-?%d+)$'))
      if day - moved > KEEP_MARKS then call('HDEL', marks, all[at]) end
    end
  end
  call('PEXPIRE', marks, KEEP_MARKS * DAY)
end

-- All that the hold, the balance and the counters look at, in one call.
local name, charged = ARGV[place], place
local transactions = KEYS[next_key]
local alerts_key = KEYS[name == '' and next_key or next_key + 1]
place = name == '' and place + 1 or place + 4
local sums = place
place = place + 1
while ARGV[place] and string.find(ARGV[place], '^[%u?]') do place = place + 3 end
local lines, most = place, #ARGV
local may_hold = origin == 'H' or origin == 'U'
local wanted, count = {own}, 1
local kind
while place <= most do
  if ARGV[place] == 'a' then
    place = place + 3 + 2 * tonumber(ARGV[place + 2])
  else
    if #ARGV[place] == 1 then kind, place = ARGV[place], place + 2 end
    local suffix = ARGV[place]
    wanted[count + 1] = 'u' .. suffix
    count = count + 1
    if kind == 'l' then
      wanted[count + 1] = 'l' .. suffix
      count = count + 1
    elseif kind == 's' and may_hold then
      wanted[count + 1] = 'h' .. suffix
      count = count + 1
    end
    place = place + 1
  end
end
if name ~= '' then
  wanted[count + 1], wanted[count + 2], wanted[count + 3], wanted[count + 4] = 'b' .. name, 'm' .. name, 'last', 'g' .. name
end
local found = call('HMGET', books, unpack(wanted))

local hold = may_hold and found[1]
if hold and attempt ~= '' and string.match(hold, '^%d+') ~= attempt then
  hold = nil
  sweep(now)
end
if origin ~= 'F' and call('ZSCORE', ids, 'F' .. id) then
  if hold then let_go(id, hold) end
  pass()
  return {'d'}
end
local old = wall - began > HORIZON
if hold then
  -- Below, with what else is written.
elseif origin == 'G' and old and not above then
  return {'t'}
elseif origin == 'H' then
  local was_expired = call('ZREM', expired, id) == 1
  -- Neither open nor expired nor finished, though that would be remembered: the server has lost the
  -- hold, and the use is counted. Of an old one that is known only when it has lost everything since.
  if not was_expired and not above then
    local lost = tonumber(call('HGET', shard, 'since') or '0') > began
    local released = call('ZMSCORE', ids, 'R' .. attempt .. ' ' .. id, 'R0 ' .. id)
    if released[1] or (attempt == '' and released[2]) then return {'d'} end
    -- It ended otherwise, or it expired so long ago that nobody knows.
    if old and not lost then return {wall - began > LATE * 1000 and 't' or 'd'} end
  end
end
if origin ~= 'F' then
  call('ZADD', ids, math.max(wall, began) + HORIZON, 'F' .. id)
  call('PEXPIRE', ids, KEEP_IDS)
  forget(ids, wall, server)
end
pass()
roll_up(sums, wall, server, at)

local writes, wrote = {}, 0
local function write(field, value)
  writes[wrote + 1], writes[wrote + 2] = field, value
  wrote = wrote + 2
end

local gone
if hold then
  gone = {own}
  local fields, amounts = held_by(hold)
  for one = 1, #fields do
    local field, held = fields[one], nil
    local known = 2
    while wanted[known] and wanted[known] ~= field do known = known + 1 end
    if wanted[known] then held = found[known] else held = call('HGET', books, field) end
    local left = held and rest_of(held, amounts[one])
    if left then write(field, left) else gone[#gone + 1] = field end
  end
end

local minute = math.floor(wall / 6e7)
local stays, fresh = false, false
local answer = {'n', ''}
local after, suffix, given
place, count = lines, 1
while place <= most do
  if ARGV[place] == 'a' then
    local limit, alerts = ARGV[place + 1], tonumber(ARGV[place + 2])
    if after and not below(after, amount(ARGV[place + 4])) then
      local ends = string.match(suffix, '^[^.]+')
      local field = 'a' .. ends .. '.' .. limit
      local told = call('HGET', books, field) or ' '
      local more = told
      for alert = place + 3, place + 1 + 2 * alerts, 2 do
        local percent = ARGV[alert]
        if not below(after, amount(ARGV[alert + 1])) and not string.find(told, ' ' .. percent .. ' ', 1, true) then
          more = more .. percent .. ' '
          -- The customer is what comes behind, as in the key of the books.
          local member = ends .. ' ' .. percent .. ' ' .. limit .. ' ' .. string.sub(books, #shard + 2)
          call('ZADD', alerts_key, ends == '*' and '+inf' or ends, member)
          answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = limit, percent, after
        end
      end
      if more ~= told then
        call('HSET', books, field, more)
        call('ZREMRANGEBYSCORE', alerts_key, '-inf', minute)
      end
    end
    place = place + 3 + 2 * alerts
  else
    if #ARGV[place] == 1 then kind, given, place = ARGV[place], amount(ARGV[place + 1]), place + 2 end
    suffix, after = ARGV[place], nil
    count = count + 1
    local used = found[count]
    used = used and amount(used)
    local is_over = false
    if not used then
      -- Nothing is counted of a window that has ended.
      local ends = string.match(suffix, '^[^.]+')
      if ends == '*' then stays = true
      elseif tonumber(ends) > minute then fresh = true
      else is_over = true end
    end
    if kind == 's' then
      if may_hold then count = count + 1 end
      if not is_over then
        local over
        after, over = plus(used or 0, given)
        if over then answer[2] = '1' end
      end
    elseif kind == 'm' then
      if not is_over then after = used and not below(used, given) and used or given end
    else
      count = count + 1
      local latest = found[count] and amount(found[count])
      if not is_over and (not latest or not below(at, latest)) then
        after = given
        write('l' .. suffix, ARGV[6])
      end
    end
    if after then write('u' .. suffix, after) end
    place = place + 1
  end
end

if name ~= '' then
  local before = amount(found[count + 1])
  if not before then
    before = not found[count + 2] and ARGV[charged + 2] ~= '' and amount(ARGV[charged + 2]) or 0
    stays = true
  end
  local left, over = minus(before, amount(ARGV[charged + 1]))
  if over then answer[2] = '1' end
  local sequence = math.max(server, tonumber(found[count + 3] or '0') + 1)
  write('b' .. name, left)
  write('last', sequence)
  local entry = string.format('%.0f ', sequence) .. tostring_amount(left) .. ' ' .. ARGV[charged + 3]
  if call('RPUSH', transactions, entry) > KEEP_TRANSACTIONS then
    call('LTRIM', transactions, '-' .. KEEP_TRANSACTIONS, -1)
  end
end
-- First what is written, so that the books never go in between, and with them how long they live.
if writes[1] then call('HSET', books, unpack(writes)) end
if gone then
  call('HDEL', books, unpack(gone))
  call('ZREM', due, id)
end

if fresh or stays then end_windows(books, wall, stays) end
append(KEYS[6], server, ARGV[7], ARGV[6])
return answer
