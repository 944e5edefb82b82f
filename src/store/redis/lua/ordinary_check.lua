-- The ordinary check, ahead of the whole one below and the same law, with nothing made that it does not
-- need: a function takes as long as a command, and it needs none. What is not ordinary breaks out of
-- it before anything is written: something to sweep, the same check again, amounts beyond what
-- numbers tell apart, holds for longer than a week.
repeat
  local call, KEYS, ARGV = redis.call, KEYS, ARGV
  local books, due, id, lifetime, name = KEYS[2], KEYS[3], ARGV[3], ARGV[5], ARGV[7]
  if call('HGET', KEYS[1], 'version') ~= ARGV[1] or lifetime == '' then break end
  -- As text, which commands take at once.
  local now
  if ARGV[2] == '' then
    local time = call('TIME')
    local seconds, micros = time[1], time[2]
    now = seconds .. (#micros == 6 and micros or string.rep('0', 6 - #micros) .. micros)
  else
    now = string.match(ARGV[2], '%d+$')
  end
  if call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', '0', '1')[1] then break end

  local own = 'o' .. id
  local first, most = name == '' and 8 or 11, #ARGV
  local fields, count = {own, nil, nil, nil, nil, nil, nil}, 1
  for at = first, most, 3 do
    local suffix = ARGV[at]
    fields[count + 1], fields[count + 2] = 'u' .. suffix, 'h' .. suffix
    count = count + 2
  end
  local balance = count + 1
  if name ~= '' then
    fields[count + 1], fields[count + 2], fields[count + 3] = 'b' .. name, 'g' .. name, 'm' .. name
    count = count + 3
  end
  fields[count + 1], fields[count + 2] = 'keep', 'long'
  local found = call('HMGET', books, unpack(fields, 1, count + 2))
  local met = call('ZMSCORE', KEYS[4], 'F' .. id, ARGV[4])
  local millis = lifetime / 1000
  if found[1] or found[count + 2] or met[1] or met[2] or millis > 604800000 then break end

  local writes, wrote = {own, ARGV[6], nil, nil, nil, nil}, 2
  local refused, exact = false, true
  local place = 2
  for at = first, most, 3 do
    local room, given = ARGV[at + 1], ARGV[at + 2]
    local used, held = (found[place] or 0) + 0, (found[place + 1] or 0) + 0
    if used < -9e15 or held > 9e15 or used + held > 9e15 then exact = false end
    if room == 'none' or (room ~= '' and used + held > room + 0) then refused = true end
    if given ~= '' then
      if held ~= 0 then
        held = held + given
        if held > 9e15 then exact = false end
        given = string.format('%d', held)
      end
      writes[wrote + 1], writes[wrote + 2] = fields[place + 1], given
      wrote = wrote + 2
    end
    place = place + 2
  end
  if name ~= '' then
    local terms, asked, minimum = found[balance + 2], ARGV[8], ARGV[10]
    local current, held = found[balance], (found[balance + 1] or 0) + 0
    if terms then
      current, minimum = current or '0', string.match(terms, '^%S+')
    elseif minimum ~= '' then
      current = current or ARGV[9]
    else break end
    local available = current - minimum - held
    -- One of them beyond is enough; the sum of three within is exact.
    if current + 0 > 3e15 or current + 0 < -3e15 or minimum + 0 > 3e15 or minimum + 0 < -3e15 or held > 3e15 then exact = false end
    if asked == '' then
      if available <= 0 then refused = true end
    else
      local more = asked + 0
      if available < more then refused = true end
      if more > 0 then
        if held ~= 0 then
          more = held + more
          if more > 9e15 then exact = false end
          asked = string.format('%d', more)
        end
        writes[wrote + 1], writes[wrote + 2] = fields[balance + 1], asked
        wrote = wrote + 2
      end
    end
    found[balance] = current
  end
  if not exact then break end
  if refused then
    found[1] = 'd'
    return found
  end
  found[1] = 'a'
  call('HSET', books, unpack(writes, 1, wrote))
  call('ZADD', due, now + lifetime, id)
  -- Three weeks: longer than such a hold lives by two.
  call('PEXPIRE', due, '1814400000')
  if not found[count + 1] then
    millis = math.ceil(millis) + 604800000
    if call('PTTL', books) < millis then call('PEXPIRE', books, millis + 86400000) end
  end
  return found
until true

