-- ARGV: 4 id, 5 attempt, 6 lifetime of the hold in microseconds or empty, 7 balance or empty; with one,
-- what is asked of it or empty, and what the default balance begins at and its minimum, or empty; then
-- for each line: kind (s, m or l; S shares the counter of the line before), window and counter, cap,
-- what is asked or empty.
-- Answers {what came of it, used, held, ... , balance, held, own terms}.
local version = call('HGET', shard, 'version')
if version ~= ARGV[1] then return {version and 's' or 'x'} end
local wall, now = clock()
sweep(now)
local id, attempt, lifetime, name = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local own = 'o' .. id
local lines = name == '' and 8 or 11
local most = #ARGV
local fields, count = {own, 'keep', 'long'}, 3
for at = lines, most, 4 do
  local suffix = ARGV[at + 1]
  fields[count + 1], fields[count + 2] = 'u' .. suffix, 'h' .. suffix
  count = count + 2
end
if name ~= '' then
  fields[count + 1], fields[count + 2], fields[count + 3] = 'b' .. name, 'g' .. name, 'm' .. name
end
local found = call('HMGET', books, unpack(fields))
local placed = false
if lifetime ~= '' then
  local met = call('ZMSCORE', ids, 'F' .. id, 'R' .. attempt .. ' ' .. id)
  if met[1] then return {'f'} end
  if met[2] then return {'r'} end
  if found[1] then
    local ends = call('ZSCORE', due, id)
    if ends and tonumber(ends) <= now then
      expire(id, now)
      found = call('HMGET', books, unpack(fields))
    elseif string.match(found[1], '^%d+') == attempt then placed = true
    else return {'o'} end
  end
end

local answer, writes, hold = {'a'}, {own, ''}, attempt .. '|'
local refused = false
local place, wrote = 4, 2
for at = lines, most, 4 do
  local kind, cap, given = ARGV[at], amount(ARGV[at + 2]), ARGV[at + 3]
  local used, held = found[place], found[place + 1]
  used, held = used and amount(used) or 0, held and amount(held) or 0
  answer[place - 2], answer[place - 1] = used, held
  if given ~= '' then
    local asked = amount(given)
    if below(cap, asked) then refused = true
    elseif kind == 's' or kind == 'S' then
      if below(cap, plus(plus(used, held), asked)) then refused = true end
      if kind == 's' then
        local field = fields[place + 1]
        writes[wrote + 1], writes[wrote + 2] = field, found[place + 1] and plus(held, asked) or given
        wrote = wrote + 2
        hold = hold .. field .. '|' .. given .. '|'
      end
    elseif kind == 'm' and below(cap, used) then refused = true end
  elseif not below((kind == 's' or kind == 'S') and plus(used, held) or used, cap) then refused = true end
  place = place + 2
end
hold = hold .. '#'
if name ~= '' then
  local terms = found[place + 2]
  local current, held = amount(found[place]), amount(found[place + 1]) or 0
  local minimum
  if terms then
    current, minimum = current or 0, amount(string.match(terms, '^%S+'))
  elseif ARGV[9] ~= '' then
    current, minimum = current or amount(ARGV[9]), amount(ARGV[10])
  end
  if minimum then
    local available = minus(minus(current, minimum), held)
    local given = ARGV[8]
    if given ~= '' then
      local asked = amount(given)
      if below(available, asked) then refused = true end
      if below(0, asked) then
        local field = fields[place + 1]
        writes[wrote + 1], writes[wrote + 2] = field, found[place + 1] and plus(held, asked) or given
        hold = hold .. given .. '|' .. field
      end
    elseif not below(0, available) then refused = true end
    answer[place - 2], answer[place - 1], answer[place] = current, held, terms
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

local millis = math.ceil(lifetime / 1000) + LONGEST
writes[2] = hold
local is_long = found[3]
if millis > 2 * LONGEST and not is_long then
  is_long = true
  writes[#writes + 1], writes[#writes + 2] = 'long', 1
end
call('HSET', books, unpack(writes))
call('ZADD', due, now + lifetime, id)
-- It lives for eight days longer than any hold in it.
if is_long then outlive(due, millis) else call('PEXPIRE', due, millis + LONGEST) end
if not found[2] then outlive(books, millis) end
return answer
