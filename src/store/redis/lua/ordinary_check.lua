-- The ordinary check, ahead of the whole one below (which tells ARGV) and the same law, with no more made
-- than it needs: a function takes as long as a command, and a number as long as several texts. What is
-- not ordinary breaks out of it before anything is written: something to sweep, the same check again,
-- amounts beyond what numbers tell apart. Only checks that place a hold, for a week at most, begin here,
-- and only where every line has room for somebody who has used nothing.
repeat
  local call, KEYS, ARGV = redis.call, KEYS, ARGV
  local books, due, id, lifetime, hold, name = KEYS[2], KEYS[3], ARGV[3], ARGV[5], ARGV[6], ARGV[8]
  if call('HGET', KEYS[1], 'version') ~= ARGV[1] then break end
  -- As text, which commands take at once.
  local now
  if ARGV[2] == '' then
    local time = call('TIME')
    local micros = time[2]
    now = time[1] .. (#micros == 6 and micros or string.rep('0', 6 - #micros) .. micros)
  else
    now = string.match(ARGV[2], '%d+$')
  end
  if call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', '0', '1')[1] then break end

  local own, most = 'o' .. id, #ARGV
  local same, first = ARGV[7], name == '' and 9 or 12
  local step = same == '' and 3 or 2
  local count = 1
  -- Tables of the size that they come to: to grow one takes as long as a command.
  local fields, writes
  if most - first < 4 then
    fields, writes = {own, nil, nil, nil, nil, nil, nil, nil}, {own, hold, nil, nil}
  else
    fields, writes = {own, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}, {own, hold, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
  end
  for at = first, most, step do
    local suffix = ARGV[at]
    fields[count + 1], fields[count + 2] = 'u' .. suffix, 'h' .. suffix
    count = count + 2
  end
  local balance = count + 1
  if name ~= '' then
    fields[balance], fields[count + 2], fields[count + 3] = 'b' .. name, 'g' .. name, 'm' .. name
    count = count + 3
  end
  fields[count + 1], fields[count + 2] = 'keep', 'long'
  local found = call('HMGET', books, unpack(fields, 1, count + 2))
  local met = call('ZMSCORE', KEYS[4], 'F' .. id, ARGV[4])
  if found[1] or met[1] or met[2] or found[count + 2] then break end

  local wrote = 2
  local refused, exact = false, true
  local place = 2
  for at = first, most, step do
    local used, held, room = found[place], found[place + 1], ARGV[at + 1]
    local given = step == 2 and same or ARGV[at + 2]
    local set = given
    -- Fewer digits are less, and there is always room for none.
    if held or used and #used >= #room then
      used, held = (used or 0) + 0, (held or 0) + 0
      local sum = used + held
      if sum > room + 0 then refused = true end
      if held ~= 0 and given ~= '' then
        held = held + given
        set = string.format('%d', held)
      end
      if used < -9e15 or sum > 9e15 or held > 9e15 then exact = false end
    end
    if given ~= '' then
      writes[wrote + 1], writes[wrote + 2] = fields[place + 1], set
      wrote = wrote + 2
    end
    place = place + 2
  end
  if name ~= '' then
    local current, terms, asked, minimum = found[balance], found[balance + 2], ARGV[9], ARGV[11]
    if terms then
      current, minimum = current or '0', string.match(terms, '^%S+')
    elseif minimum ~= '' then
      current = current or ARGV[10]
    else break end
    found[balance] = current
    current, minimum = current + 0, minimum + 0
    local held = (found[balance + 1] or 0) + 0
    local above = current - minimum
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
        writes[wrote + 1], writes[wrote + 2] = fields[balance + 1], asked
        wrote = wrote + 2
      end
    end
  end
  if not exact then break end
  local stays = found[count + 1]
  found[count + 1], found[count + 2] = nil, nil
  if refused then
    found[1] = 'd'
    return found
  end
  found[1] = 'a'
  call('HSET', books, unpack(writes, 1, wrote))
  call('ZADD', due, string.format('%d', now + lifetime), id)
  -- Three weeks: longer than such a hold lives by two.
  call('PEXPIRE', due, '1814400000')
  if not stays then
    -- Eight days longer than the hold.
    local millis = math.ceil(lifetime / 1000) + 691200000
    if call('PTTL', books) < millis then call('PEXPIRE', books, millis + 86400000) end
  end
  return found
until true

