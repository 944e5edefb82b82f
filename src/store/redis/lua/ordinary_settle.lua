-- The ordinary settlement, ahead of the whole one below (which tells KEYS and ARGV) and the same law, with
-- no more made than it needs: a function takes as long as a command, and a number as long as several
-- texts. It is of a hold that is there, on sums alone, of amounts that numbers tell apart, with no alert
-- to be told. Whatever else it is breaks out of it before anything is written. What it does now and then
-- comes behind it (see windows.lua).
local settled
repeat
  local call, pcall, KEYS, ARGV, format = redis.call, redis.pcall, KEYS, ARGV, string.format
  local books, events, most = KEYS[2], KEYS[6], #ARGV
  if call('HGET', KEYS[1], 'version') ~= (TIMED and string.match(ARGV[1], '^%S*') or ARGV[1]) then break end
  local time = call('TIME')
  local micros = time[2]
  -- As text, which commands take at once.
  local stamp = time[1] .. (#micros == 6 and micros or string.rep('0', 6 - #micros) .. micros)
  local server = stamp + 0
  local wall = TIMED and tonumber(string.match(ARGV[1], ' (%S+)')) or server

  local shape = ARGV[2] + 0
  local charges = shape % 2
  local marks = (shape - charges) / 2 % 2
  local many = (shape - 2 * marks - charges) / 4
  local count = many % 65536
  if marks == 1 then
    local mark = string.match(call('HGET', KEYS[9], ARGV[6]) or '', '^%d+')
    if not mark or ARGV[7] + 0 <= mark + 0 or (ARGV[8] ~= '' and mark + 0 < ARGV[8] + 0) then break end
  end
  local charged = 6 + 3 * marks
  local sums = charged + 4 * charges
  local lines = sums + 1 + (many - count) / 32768
  local same, mine = ARGV[lines], ARGV[lines + 1]
  local first, holds = most - 2 * count - 3 * charges, most - count - charges
  local own, at = ARGV[holds], ARGV[4]
  local found = call('HMGET', books, 'lives', unpack(ARGV, first, most))
  -- Where in it the hold is, and behind it what is held.
  local before, skip = holds - first + 2, first - 2
  local hold, lives = found[before], found[1]
  if not hold then break end
  -- Whether nobody else holds anything: then what is held goes with the hold, if it is the one that the
  -- caller knows.
  local alone = hold == ARGV[3]
  if not alone and string.match(hold, '^%d*|') ~= string.match(ARGV[3], '^%d*|') then break end
  if server % LOOK < 1 and call('XLEN', events) > KEEP_EVENTS * 1.125 then break end

  -- Of the size that it comes to: to grow takes as long as a command.
  local writes
  if most - first < 4 then
    writes = {nil, nil, nil, nil}
  else
    writes = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
  end
  local behind = before - first + 1
  local wrote, ordinary, fresh, stays = 0, true, false, false
  if same ~= '' and mine == '' then alone = false end
  local number, given = nil, same
  if same ~= '' then
    number = same + 0
    if #same > 15 then break end
  end
  for place = first, first + count - 1 do
    if same == '' then
      local line = lines + 3 * (place - first) + 2
      given, mine = ARGV[line + 1], ARGV[line + 2]
      number = given + 0
      if #given > 15 then ordinary = false end
    end
    local field, used, held = ARGV[place], found[place - skip], found[place + behind]
    if used then
      -- What is given is small: beyond this, one of the two before it is, too.
      used = used + number
      if used > 8e15 or used < -8e15 then ordinary = false end
      used = format('%d', used)
    else
      used = given
      -- Nothing is counted of a window that has ended; a counter without windows has the books stay.
      local ends = string.match(field, '^u([^.]+)')
      if ends == '*' or ends * 6e7 <= wall then ordinary = false end
      fresh = true
    end
    wrote = wrote + 2
    writes[wrote - 1], writes[wrote] = field, used
    if held ~= mine and (held or mine ~= '0') then alone = false end
  end
  local alert = same == '' and lines + 2 + 3 * count or lines + 2
  while alert < first and ordinary do
    local line, alerts = ARGV[alert] + 0, ARGV[alert + 2] + 0
    local after = (found[line + 1] or 0) + (same ~= '' and same or ARGV[lines + 3 * line])
    if after >= ARGV[alert + 4] + 0 then
      local ends = string.match(ARGV[first + line - 1], '^u([^.]+)')
      local told = call('HGET', books, 'a' .. ends .. '.' .. ARGV[alert + 1]) or ''
      for one = alert + 3, alert + 1 + 2 * alerts, 2 do
        if after >= ARGV[one + 1] + 0 and not string.find(told, ' ' .. ARGV[one] .. ' ', 1, true) then ordinary = false end
      end
    end
    alert = alert + 3 + 2 * alerts
  end
  local entry
  if charges == 1 then
    local left, sequence, charge = found[count + 2], found[count + 3], ARGV[charged]
    if not left then
      -- The first charge: what the default begins at, where there is no balance of their own.
      local terms, initial = call('HGET', books, 'm' .. string.sub(ARGV[most], 2)), ARGV[charged + 1]
      left, stays = not terms and initial ~= '' and initial or 0, true
    end
    local current = left + 0
    local remains = current - charge
    if current > 9e15 or current < -9e15 or remains > 9e15 or remains < -9e15 or #charge > 15 then break end
    left = format('%d', remains)
    if not sequence or sequence < stamp then sequence = stamp else sequence = format('%d', sequence + 1) end
    entry = sequence .. ' ' .. left .. ' ' .. ARGV[charged + 3]
    writes[wrote + 1], writes[wrote + 2], writes[wrote + 3], writes[wrote + 4] = ARGV[holds - 2], left, 'last', sequence
    wrote = wrote + 4
    local held, mine = found[before + count + 1], ARGV[charged + 2]
    if held ~= mine and (held or mine ~= '0') then alone = false end
  end
  local gone
  if not alone then
    -- Of each field there remains what is not of this hold, which tells what is.
    local text = string.match(hold, '^[^#]+')
    local charge, field = string.match(hold, '#([^|]+)|(.+)$')
    if field then text = text .. field .. '|' .. charge .. '|' end
    gone = {own}
    for field, mine in string.gmatch(text, '([hg][^|]+)|([^|]+)|') do
      local known = holds + 1
      while known <= most and ARGV[known] ~= field do known = known + 1 end
      local held = found[known - first + 2]
      if known > most or #mine > 15 or held and held + 0 > 9e15 then ordinary = false
      elseif held and held - mine > 0 then
        writes[wrote + 1], writes[wrote + 2] = field, format('%d', held - mine)
        wrote = wrote + 2
      else
        gone[#gone + 1] = field
      end
    end
  end
  if not ordinary then break end

  -- There is none yet, which has to be told how long it lives; or a name is taken already, when time
  -- stood still or went back.
  local added = pcall('XADD', events, 'NOMKSTREAM', stamp .. '-0', 'event', ARGV[5], 'at', at)
  if not added or added.err then break end
  local from = wall
  -- Times of this age have nineteen digits, and the first of them tell which is later.
  if #at ~= 19 or at > stamp or wall ~= server then
    local began = (string.match(at, '^(.+)...$') or 0) + 0
    if began > wall then from = began end
  end
  call('ZADD', KEYS[4], format('%d', from + HORIZON), own)
  if server % 16 < 1 then
    local over = call('ZRANGEBYSCORE', KEYS[4], '-inf', wall - 1, 'LIMIT', '0', '64')
    if over[1] then call('ZREM', KEYS[4], unpack(over)) end
  end
  if marks == 1 then
    call('HSET', KEYS[9], ARGV[6], ARGV[7] .. ' ' .. math.floor(wall / 8.64e10))
    call('PEXPIRE', KEYS[9], KEEP_MARKS * 86400000)
  end
  local begun
  for place = sums + 1, lines - 1, 2 do
    local field, given = ARGV[place], ARGV[place + 1]
    local number = given + 0
    for key = 7, 8 do
      local sum = pcall('HINCRBY', KEYS[key], field, given)
      if sum == number then
        begun = begun or {}
        begun[key] = true
      elseif type(sum) == 'table' then call('HSET', KEYS[key], field, '?') end
    end
  end
  -- First what is written, so that the books never go in between.
  if wrote > 0 then call('HSET', books, unpack(writes, 1, wrote)) end
  if gone then call('HDEL', books, unpack(gone)) else call('HDEL', books, unpack(ARGV, holds, most)) end
  call('ZREM', KEYS[3], own)
  if entry and call('RPUSH', KEYS[9 + marks], entry) > KEEP_TRANSACTIONS then
    call('LTRIM', KEYS[9 + marks], '-' .. KEEP_TRANSACTIONS, -1)
  end
  -- Texts of as many digits tell which is later.
  local tells = not lives or lives < stamp
  if not (tells or fresh or stays or begun) then return 'n' end
  settled = {
    wall = wall, server = server, fresh = fresh or stays, stays = stays, begun = begun or {}, ends = ARGV[sums],
    tells = tells
  }
until true
