-- The ordinary settlement, ahead of the whole one below (which tells KEYS and ARGV) and the same law, with
-- no more made than it needs: a function takes as long as a command, and a number as long as several
-- texts. It is of a hold that is there, on sums alone, of amounts that numbers tell apart, with no alert
-- to be told. Whatever else it is breaks out of it before anything is written.
local settled
repeat
  local call, KEYS, ARGV = redis.call, KEYS, ARGV
  local shard, books, ids, events = KEYS[1], KEYS[2], KEYS[4], KEYS[6]
  local id, attempt, at, producer = ARGV[3], ARGV[5], ARGV[6], ARGV[8]
  if call('HGET', shard, 'version') ~= ARGV[1] then break end
  local time = call('TIME')
  local seconds, micros = time[1], time[2]
  -- As text, which commands take at once.
  local stamp = seconds .. (#micros == 6 and micros or string.rep('0', 6 - #micros) .. micros)
  local server = stamp + 0
  local wall = ARGV[2] == '' and server or tonumber(string.match(ARGV[2], '^%S+'))

  local place, next_key = 9, 9
  if producer ~= '' then
    local mark = string.match(call('HGET', KEYS[9], producer) or '', '^%d+')
    if not mark or ARGV[9] + 0 <= mark + 0 or (ARGV[10] ~= '' and mark + 0 < ARGV[10] + 0) then break end
    place, next_key = 11, 10
  end
  local name, charged = ARGV[place], place
  local sums = place + (name == '' and 1 or 4)
  local most = #ARGV
  local own = 'o' .. id
  local count, lines = 1, sums + 1
  -- Tables of the size that they come to: to grow one takes as long as a command.
  local fields, writes
  if most - lines < 4 then
    fields, writes = {own, nil, nil, nil, nil, nil, nil, nil}, {nil, nil, nil, nil}
  else
    fields, writes = {own, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}, {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
  end
  while ARGV[lines] == 'S' do lines = lines + 3 end
  local ordinary = true
  place = lines
  while place <= most do
    local suffix = ARGV[place]
    if #suffix > 1 then
      fields[count + 1], fields[count + 2] = 'u' .. suffix, 'h' .. suffix
      count, place = count + 2, place + 1
    elseif suffix == 's' then
      place = place + 2
    elseif suffix == 'a' then
      place = place + 3 + 2 * ARGV[place + 2]
    else
      ordinary = false
      break
    end
  end
  if not ordinary then break end
  if name ~= '' then
    fields[count + 1], fields[count + 2], fields[count + 3] = 'b' .. name, 'g' .. name, 'last'
    count = count + 3
  end
  local found = call('HMGET', books, unpack(fields, 1, count))
  local finished = 'F' .. id
  local hold = found[1]
  if not hold or call('ZSCORE', ids, finished) or call('XLEN', events) > KEEP_EVENTS * 1.125 then break end

  -- What the hold would be if nobody else held anything, and what goes with it then.
  local alone, gone, going = attempt .. '|', {own, nil, nil, nil}, 1
  local wrote = 0
  local known, suffix, given, text, after = 2, nil, nil, nil, nil
  local fresh, stays = false, false
  place = lines
  while place <= most and ordinary do
    if ARGV[place] == 's' then
      text = ARGV[place + 1]
      given = text + 0
      if #text > 15 then ordinary = false end
      place = place + 2
    end
    if ARGV[place] ~= 'a' then
      local used, held = found[known], found[known + 1]
      suffix = ARGV[place]
      if not used then
        -- Nothing is counted of a window that has ended; a counter without windows has the books stay.
        local ends = string.match(suffix, '^[^.]+')
        if ends == '*' or ends * 6e7 <= wall then ordinary = false end
        fresh, after = true, given
        writes[wrote + 1], writes[wrote + 2] = fields[known], text
      else
        -- What is given is small: beyond this, one of the two before it is, too.
        after = used + given
        if after > 8e15 or after < -8e15 then ordinary = false end
        writes[wrote + 1], writes[wrote + 2] = fields[known], string.format('%d', after)
      end
      wrote = wrote + 2
      if held then
        local field = fields[known + 1]
        alone = alone .. field .. '|' .. held .. '|'
        going = going + 1
        gone[going] = field
      end
      known = known + 2
      place = place + 1
    else
      local alerts = ARGV[place + 2] + 0
      if after >= ARGV[place + 4] + 0 then
        local told = call('HGET', books, 'a' .. string.match(suffix, '^[^.]+') .. '.' .. ARGV[place + 1]) or ''
        for alert = place + 3, place + 1 + 2 * alerts, 2 do
          if after >= ARGV[alert + 1] + 0 and not string.find(told, ' ' .. ARGV[alert] .. ' ', 1, true) then ordinary = false end
        end
      end
      place = place + 3 + 2 * alerts
    end
  end
  alone = alone .. '#'
  local entry
  if name ~= '' and ordinary then
    local before, held, sequence, charge = found[known], found[known + 1], found[known + 2], ARGV[charged + 1]
    if not before then
      -- The first charge: what the default begins at, where there is no balance of their own.
      local terms, initial = call('HGET', books, 'm' .. name), ARGV[charged + 2]
      before, stays = not terms and initial ~= '' and initial or 0, true
    end
    before = before + 0
    local left = before - charge
    if before > 9e15 or before < -9e15 or left > 9e15 or left < -9e15 or #charge > 15 then break end
    left = string.format('%d', left)
    if not sequence or sequence + 0 < server then sequence = stamp else sequence = string.format('%d', sequence + 1) end
    entry = sequence .. ' ' .. left .. ' ' .. ARGV[charged + 3]
    writes[wrote + 1], writes[wrote + 2], writes[wrote + 3], writes[wrote + 4] = fields[known], left, 'last', sequence
    wrote = wrote + 4
    if held then
      local field = fields[known + 1]
      alone = alone .. held .. '|' .. field
      going = going + 1
      gone[going] = field
    end
  end
  if hold ~= alone then
    -- Others hold something, too: of each field there remains what is not of this hold.
    if string.match(hold, '^%d+') ~= attempt then break end
    local text = string.match(hold, '^[^#]+')
    local charge, field = string.match(hold, '#([^|]+)|(.+)$')
    if field then text = text .. field .. '|' .. charge .. '|' end
    going = 1
    for field, mine in string.gmatch(text, '([hg][^|]+)|([^|]+)|') do
      known = 2
      while known <= count and fields[known] ~= field do known = known + 1 end
      local held = found[known]
      if known > count or #mine > 15 or held and held + 0 > 9e15 then ordinary = false
      elseif held and held - mine > 0 then
        writes[wrote + 1], writes[wrote + 2] = field, string.format('%d', held - mine)
        wrote = wrote + 2
      else
        going = going + 1
        gone[going] = field
      end
    end
  end
  if not ordinary then break end

  -- A name is taken already when time stood still or went back.
  if redis.pcall('XADD', events, stamp .. '-0', 'event', ARGV[7], 'at', at).err then break end
  call('PEXPIRE', events, KEEP_EVENTS_FOR)
  local from = wall
  -- Times of this age have nineteen digits, and the first of them tell which is later.
  if #at ~= 19 or at > stamp or wall ~= server then
    local began = (string.match(at, '^(.+)...$') or 0) + 0
    if began > wall then from = began end
  end
  call('ZADD', ids, string.format('%d', from + HORIZON), finished)
  call('PEXPIRE', ids, KEEP_IDS)
  if server % 16 < 1 then
    local over = call('ZRANGEBYSCORE', ids, '-inf', wall - 1, 'LIMIT', '0', '64')
    if over[1] then call('ZREM', ids, unpack(over)) end
  end
  if producer ~= '' then
    call('HSET', KEYS[9], producer, ARGV[9] .. ' ' .. math.floor(wall / 8.64e10))
    call('PEXPIRE', KEYS[9], KEEP_MARKS * 86400000)
  end
  local begun = nil
  for place = sums + 1, lines - 1, 3 do
    local field, given = ARGV[place + 1], ARGV[place + 2]
    local number = given + 0
    for key = 7, 8 do
      local sum = redis.pcall('HINCRBY', KEYS[key], field, given)
      if sum == number then
        begun = begun or {}
        begun[key] = true
      elseif type(sum) == 'table' then call('HSET', KEYS[key], field, '?') end
    end
  end
  -- First what is written, so that the books never go in between, and with them how long they live.
  if wrote > 0 then call('HSET', books, unpack(writes, 1, wrote)) end
  call('HDEL', books, unpack(gone, 1, going))
  call('ZREM', KEYS[3], id)
  if entry and call('RPUSH', KEYS[next_key], entry) > KEEP_TRANSACTIONS then
    call('LTRIM', KEYS[next_key], '-' .. KEEP_TRANSACTIONS, -1)
  end
  if not (fresh or stays or begun) then return 'n' end
  settled = {wall = wall, fresh = fresh or stays, stays = stays, begun = begun or {}, ends = ARGV[sums]}
until true

