-- KEYS: also 6 the stream of events, 7 and 8 the sums of the day, the customer's and those of all; then, with
-- a producer, marks; with a balance, transactions; and alerts. ARGV: 2 what there is: ((how many sums times
-- 65536 and how many counters) times 2 and whether a producer) times 2 and whether a balance, 3 the hold, or
-- attempt and |, or empty, as far as known; where no hold was placed for certain, in front of that the
-- origin (U unsure, F fresh, G given), 4 time of the event in nanoseconds, 5 the event; with a producer,
-- that, its sequence, and the place before it or empty; with a balance, the charge, what the default begins
-- at or empty, what the hold set aside of it or empty where that is not known, and the transaction; then
-- what is summed up (see rollup.lua); then where all counters are sums of one amount, that, and what the
-- hold set aside on each or empty where that is not known; else two empty ones, and for each counter kind
-- (s, m or l), amount, and that; then for each limit that alerts: its counter, the limit, how many alerts,
-- and for each percentage and amount; then the fields of the books: what is used on each counter, with a
-- balance that and last, the hold, which names the id, what is held on each counter, and of the balance.
-- Answers {what came of it, whether a sum did not fit, limit, percentage, used, ...}, or n for n and nothing
-- more.
local version = call('HGET', shard, 'version')
if version ~= VERSION then return {version and 's' or 'x'} end
local wall, now, server = clock()
local charges, above = ARGV[2] % 2 == 1, (ARGV[2] - ARGV[2] % 2) / 2 % 2 == 1
local many = (ARGV[2] - ARGV[2] % 4) / 4
local count, most = many % 65536, #ARGV
local first = most - 2 * count - (charges and 3 or 0)
local holds = most - count - (charges and 1 or 0)
local own, origin, attempt = ARGV[holds], string.match(ARGV[3], '^(%a?)(%d*)')
-- In nanoseconds and in microseconds.
local at, began = amount(ARGV[4]), tonumber(string.sub(ARGV[4], 1, -4)) or 0
local marks = above and KEYS[9]
local producer, sequence, previous = ARGV[6], ARGV[7], ARGV[8]
if above then
  local mark = tonumber(string.match(call('HGET', marks, producer) or '0', '^%d+'))
  if tonumber(sequence) <= mark then return {'d'} end
  if previous ~= '' and mark < tonumber(previous) then return {'b'} end
end

-- Moves the mark: the sequence, and the day. With a new one, those go that are not moved any more.
local function pass()
  if not above then return end
  local day = math.floor(wall / 8.64e10)
  if call('HSET', marks, producer, sequence .. ' ' .. day) == 1 then
    local all = call('HGETALL', marks)
    for at = 1, #all, 2 do
      local moved = tonumber(string.match(all[at + 1], ' (%-?%d+)$'))
      if day - moved > KEEP_MARKS then call('HDEL', marks, all[at]) end
    end
  end
  call('PEXPIRE', marks, KEEP_MARKS * DAY)
end

local charged, next_key = above and 9 or 6, above and 10 or 9
local transactions, alerts_key = KEYS[next_key], KEYS[charges and next_key + 1 or next_key]
local sums = charges and charged + 4 or charged
local lines = sums + 1 + (many - count) / 32768
local may_hold = origin == '' or origin == 'U'
-- All that the hold, the balance and the counters look at, in one call.
local found = call('HMGET', books, unpack(ARGV, first, most))

local there = found[holds - first + 1]
local hold = may_hold and there
if hold and attempt ~= '' and attempt_of(hold) ~= attempt then
  hold = nil
  sweep(now)
end
if origin ~= 'F' and call('ZSCORE', ids, own) then
  if hold then let_go(own, hold) end
  pass()
  return {'d'}
end
local old = wall - began > HORIZON
if hold then
  -- Below, with what else is written.
elseif origin == 'G' and old and not above then
  return {'t'}
elseif origin == '' then
  local was_expired = call('ZREM', expired, own) == 1
  -- Neither open nor expired nor finished, though that would be remembered: the server has lost the
  -- hold, and the use is counted. Of an old one that is known only when it has lost everything since.
  if not was_expired and not above then
    local lost = tonumber(call('HGET', shard, 'since') or '0') > began
    local released = call('ZMSCORE', ids, 'R' .. attempt .. own, 'R0' .. own)
    if released[1] or (attempt == '' and released[2]) then return {'d'} end
    -- It ended otherwise, or it expired so long ago that nobody knows.
    if old and not lost then return {wall - began > LATE * 1000 and 't' or 'd'} end
  end
end
if origin ~= 'F' then
  call('ZADD', ids, math.max(wall, began) + HORIZON, own)
  call('PEXPIRE', ids, KEEP_IDS)
  forget(ids, wall, server)
  -- Another check's hold under this id.
  there = there and not hold and call('HGET', books, own)
  if there then call('HSET', books, own, ' ' .. string.match(there, '%d.*')) end
end
pass()
roll_up(sums, (many - count) / 65536, wall, server, at)

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
    local known = holds + 1
    while known <= most and ARGV[known] ~= field do known = known + 1 end
    if known <= most then held = found[known - first + 1] else held = call('HGET', books, field) end
    local left = held and rest_of(held, amounts[one])
    if left then write(field, left) else gone[#gone + 1] = field end
  end
end

local minute = math.floor(wall / 6e7)
local stays, fresh = false, false
local answer = {'n', ''}
local same, usage, place = ARGV[lines], {}, lines + 2
for line = 1, count do
  local kind, given = 's', same
  if same == '' then
    kind, given, place = ARGV[place], ARGV[place + 1], place + 3
  end
  given = amount(given)
  local field, used, after = ARGV[first + line - 1], amount(found[line]), nil
  local suffix, is_over = string.sub(field, 2), false
  if not used then
    -- Nothing is counted of a window that has ended.
    local ends = string.match(suffix, '^[^.]+')
    if ends == '*' then stays = true
    elseif tonumber(ends) > minute then fresh = true
    else is_over = true end
  end
  if is_over then
    -- Nor is anything told of it.
  elseif kind == 's' then
    local over
    after, over = plus(used or 0, given)
    if over then answer[2] = '1' end
  elseif kind == 'm' then
    after = used and not below(used, given) and used or given
  else
    local latest = amount(call('HGET', books, 'l' .. suffix))
    if not latest or not below(at, latest) then
      after = given
      write('l' .. suffix, ARGV[4])
    end
  end
  if after then write(field, after) end
  usage[line] = after
end
while place < first do
  local line, limit, alerts = tonumber(ARGV[place]), ARGV[place + 1], tonumber(ARGV[place + 2])
  local after = usage[line]
  if after and not below(after, amount(ARGV[place + 4])) then
    local ends = string.match(ARGV[first + line - 1], '^u([^.]+)')
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
end

if charges then
  local before = amount(found[count + 1])
  if not before then
    local initial, terms = ARGV[charged + 1], 'm' .. string.sub(ARGV[most], 2)
    before = initial ~= '' and not call('HGET', books, terms) and amount(initial) or 0
    stays = true
  end
  local left, over = minus(before, amount(ARGV[charged]))
  if over then answer[2] = '1' end
  local sequence = math.max(server, tonumber(found[count + 2] or '0') + 1)
  write(ARGV[holds - 2], left)
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
  call('ZREM', due, own)
end

if fresh or stays then end_windows(books, wall, stays) end
append(KEYS[6], server, ARGV[5], ARGV[4])
if hold then live_on(server) end
return answer
