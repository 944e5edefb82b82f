-- ARGV: 4 id, 5 attempt, 6 lifetime of the hold in microseconds or empty, 7 whether a caller gave
-- the id, 8 balance or empty, 9 what is asked of it or empty, 10 and 11 what the default balance
-- begins at and its minimum, or empty; then for each line: kind (s, m or l), window and counter,
-- whether it shares the counter of the line before, cap, what is asked or empty.
-- Answers {what came of it, used, held, ... , balance, held, own terms}.
local version = redis.call('HGET', shard, 'version')
if version ~= ARGV[1] then return {version and 's' or 'x'} end
local wall, now = clock()
sweep(now)
local id, attempt, lifetime = ARGV[4], ARGV[5], ARGV[6]
local placed = false
if lifetime ~= '' then
  local met = redis.call('ZMSCORE', ids, 'F' .. id, 'R' .. attempt .. ' ' .. id)
  if met[1] then return {'f'} end
  if met[2] then return {'r'} end
  local open = hold_of(id)
  if open then
    local until_ = redis.call('ZSCORE', due, id)
    if until_ and tonumber(until_) <= now then expire(id, now)
    elseif open[1] == attempt then placed = true
    else return {'o'} end
  end
end

local fields = {'keep', 'long'}
for at = 12, #ARGV, 5 do
  fields[#fields + 1] = 'u' .. ARGV[at + 1]
  fields[#fields + 1] = 'h' .. ARGV[at + 1]
end
local name = ARGV[8]
if name ~= '' then
  fields[#fields + 1], fields[#fields + 2], fields[#fields + 3] = 'b' .. name, 'g' .. name, 'm' .. name
end
local found = redis.call('HMGET', books, unpack(fields))
local answer = {'a'}
local refused = false
local writes, hold = {}, attempt .. '|' .. ARGV[7] .. '|'
local fresh = false
local place = 3
for at = 12, #ARGV, 5 do
  local kind, cap, asked = ARGV[at], amount(ARGV[at + 3]), ARGV[at + 4]
  local used, held = amount(found[place]) or 0, amount(found[place + 1]) or 0
  answer[place - 1], answer[place] = used, held
  if asked ~= '' then
    asked = amount(asked)
    if below(cap, asked) then refused = true
    elseif kind == 's' then
      if below(cap, plus(plus(used, held), asked)) then refused = true end
      if ARGV[at + 2] == '' then
        local field = fields[place + 1]
        writes[#writes + 1], writes[#writes + 2] = field, found[place + 1] and plus(held, asked) or ARGV[at + 4]
        hold = hold .. #field .. ':' .. field .. ARGV[at + 4] .. '|'
        fresh = fresh or not found[place + 1]
      end
    elseif kind == 'm' and below(cap, used) then refused = true end
  elseif not below(kind == 's' and plus(used, held) or used, cap) then refused = true end
  place = place + 2
end
if name ~= '' then
  local terms = found[place + 2]
  local current, held = amount(found[place]), amount(found[place + 1]) or 0
  local minimum
  if terms then
    current, minimum = current or 0, amount(string.match(terms, '^%S+'))
  elseif ARGV[10] ~= '' then
    current, minimum = current or amount(ARGV[10]), amount(ARGV[11])
  end
  if minimum then
    local available = minus(minus(current, minimum), held)
    if ARGV[9] ~= '' then
      local asked = amount(ARGV[9])
      if below(available, asked) then refused = true end
      if below(0, asked) then
        local field = fields[place + 1]
        writes[#writes + 1], writes[#writes + 2] = field, found[place + 1] and plus(held, asked) or ARGV[9]
        hold = hold .. #field .. ':' .. field .. ARGV[9] .. '|'
        fresh = fresh or not found[place + 1]
      end
    elseif not below(0, available) then refused = true end
    answer[place - 1], answer[place], answer[place + 1] = current, held, terms
  else
    refused = true
  end
end
if placed then
  answer[1] = 'k'
  return answer
end
if refused then
  answer[1] = 'd'
  return answer
end
if lifetime == '' then return answer end

local millis = math.ceil(lifetime / 1000) + LATE
redis.call('HSET', holds, id, hold)
redis.call('ZADD', due, now + lifetime, id)
if found[2] or millis > 2 * LATE then
  if not found[2] then
    writes[#writes + 1], writes[#writes + 2] = 'long', 1
    fresh = true
  end
  outlive(holds, millis)
  outlive(due, millis)
else
  -- Both live for a week longer than any hold in them.
  redis.call('PEXPIRE', holds, millis + LATE)
  redis.call('PEXPIRE', due, millis + LATE)
end
if #writes > 0 then
  redis.call('HSET', books, unpack(writes))
  if fresh and not found[1] then outlive(books, millis) end
end
return answer
