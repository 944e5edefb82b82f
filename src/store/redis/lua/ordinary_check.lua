-- The ordinary check, ahead of the whole one below (which tells ARGV) and the same law, with no more made
-- than it needs: a function takes as long as a command, and a number as long as several texts. What is
-- not ordinary breaks out of it before anything is written: something to sweep, the same check again,
-- amounts beyond what numbers tell apart. Only checks that place a hold, for half a day at most, begin
-- here, and only where every line has room for somebody who has used nothing.
repeat
  local call, KEYS, ARGV = redis.call, KEYS, ARGV
  local books, due = KEYS[2], KEYS[3]
  if call('HGET', KEYS[1], 'version') ~= (TIMED and string.match(ARGV[1], '^%S*') or ARGV[1]) then break end
  -- As text, which commands take at once.
  local time = call('TIME')
  local micros = time[2]
  local server = time[1] .. (#micros == 6 and micros or string.rep('0', 6 - #micros) .. micros)
  local now = TIMED and string.match(ARGV[1], '%d+$') or server
  if call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', '0', '1')[1] then break end

  local most, same, shape = #ARGV, ARGV[6], ARGV[2] + 0
  local charges = shape % 2
  local count = (shape - charges) / 2
  local at, step = 7 + 3 * charges, same == '' and 2 or 1
  local first = at + step * count
  -- From what is used to what is held.
  local behind = count + charges + 1
  local own = ARGV[first + behind - 1]
  -- The answer to the caller, too, where what comes of it takes the place of how long keys live.
  local found = call('HMGET', books, 'lives', unpack(ARGV, first, most))
  local met = call('ZMSCORE', KEYS[4], own, ARGV[3])
  local lives = found[1]
  if found[behind + 1] or met[1] or met[2] then break end

  -- Of the size that it comes to: to grow takes as long as a command.
  local writes
  if count + charges < 2 then
    writes = {own, ARGV[5], nil, nil}
  else
    writes = {own, ARGV[5], nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
  end
  local wrote, fields = 2, first + behind - 2
  local refused, exact, alone = false, true, true
  for place = 2, count + 1 do
    local used, held, given = found[place], found[place + behind], same
    if step == 2 then given = ARGV[at + 1] end
    -- Fewer digits are less, and there is always room for none.
    if held or not used or #used >= #ARGV[at] then
      if not used then found[place] = '0' end
      if held then alone = false end
      used, held = (used or 0) + 0, (held or 0) + 0
      local sum = used + held
      if sum > ARGV[at] + 0 then refused = true end
      if held ~= 0 and given ~= '' then
        held = held + given
        given = string.format('%d', held)
      end
      if used < -9e15 or sum > 9e15 or held > 9e15 then exact = false end
    end
    if given ~= '' then
      wrote = wrote + 2
      writes[wrote - 1], writes[wrote] = ARGV[place + fields], given
    end
    at = at + step
  end
  if charges == 1 then
    local current, terms, asked, minimum = found[count + 2], found[most - first + 2], ARGV[7], ARGV[9]
    if terms then
      current, minimum, alone = current or '0', string.match(terms, '^%S+'), false
    elseif minimum ~= '' then
      current = current or ARGV[8]
    else break end
    found[count + 2] = current
    current, minimum = current + 0, minimum + 0
    local held, above = found[most - first + 1], current - minimum
    if held then alone = false end
    held = (held or 0) + 0
    local available = above - held
    if current > 9e15 or minimum > 9e15 or minimum < -9e15 or above > 9e15 or above < -9e15 or held > 9e15
      or available < -9e15 then break end
    if asked == '' then
      if available <= 0 then refused = true end
    else
      local more = asked + 0
      if available < more then refused = true end
      if more > 0 then
        if held ~= 0 then
          held = held + more
          if held > 9e15 then break end
          asked = string.format('%d', held)
        end
        wrote = wrote + 2
        writes[wrote - 1], writes[wrote] = ARGV[most - 1], asked
      end
    end
  end
  if not exact then break end
  local told = behind
  if not alone then
    told = most - first + 2
    for place = behind + 1, told do found[place] = found[place] or '' end
  end
  found[1] = refused and 'd' or 'a'
  local answer = table.concat(found, ' ', 1, told)
  if refused then return answer end
  call('HSET', books, unpack(writes, 1, wrote))
  call('ZADD', due, string.format('%d', now + ARGV[4]), own)
  -- Texts of as many digits tell which is later.
  if not lives or lives < server then
    -- Eight days longer than the hold, and a day more, so that it is seldom told.
    local millis = math.ceil(ARGV[4] / 1000) + 691200000
    if call('PTTL', due) < millis then call('PEXPIRE', due, millis + 86400000) end
    if call('HEXISTS', books, 'keep') == 0 and call('PTTL', books) < millis then
      call('PEXPIRE', books, millis + 86400000)
    end
  end
  return answer
until true

