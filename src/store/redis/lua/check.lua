-- ARGV: 3 id, 4 R, the attempt and the id, as ids are told that it was released, 5 lifetime of the hold
-- in microseconds or empty, 6 the hold, 7 what it sets aside on every line, or empty where that is not the
-- same, 8 balance or empty; with one, what is asked of it or empty, and what the default balance begins at
-- and its minimum, or empty; then for each line: window and counter, and its room: the most that may be
-- used and held before, or none; and where that is not the same, what is set aside on it or empty.
-- Answers {what came of it, used, held, ... , balance, held, own terms}.
local version = call('HGET', shard, 'version')
if version ~= ARGV[1] then return {version and 's' or 'x'} end
local wall, now = clock()
sweep(now)
local id, lifetime, hold, name = ARGV[3], ARGV[5], ARGV[6], ARGV[8]
local own = 'o' .. id
local lines = name == '' and 9 or 12
local most = #ARGV
local step = ARGV[7] == '' and 3 or 2
local fields, count = {own, 'keep', 'long'}, 3
for at = lines, most, step do
  local suffix = ARGV[at]
  fields[count + 1], fields[count + 2] = 'u' .. suffix, 'h' .. suffix
  count = count + 2
end
if name ~= '' then
  fields[count + 1], fields[count + 2], fields[count + 3] = 'b' .. name, 'g' .. name, 'm' .. name
end
local found = call('HMGET', books, unpack(fields))
local placed = false
if lifetime ~= '' then
  local met = call('ZMSCORE', ids, 'F' .. id, ARGV[4])
  if met[1] then return {'f'} end
  if met[2] then return {'r'} end
  if found[1] then
    local ends = call('ZSCORE', due, id)
    if ends and tonumber(ends) <= now then
      expire(id, now)
      found = call('HMGET', books, unpack(fields))
    elseif string.match(found[1], '^%d+') == string.match(hold, '^%d+') then placed = true
    else return {'o'} end
  end
end

local answer, writes = {'a'}, {own, hold}
local refused = false
local place, wrote = 4, 2
for at = lines, most, step do
  local room, given = ARGV[at + 1], step == 2 and ARGV[7] or ARGV[at + 2]
  local used, held = found[place], found[place + 1]
  used, held = used and amount(used) or 0, held and amount(held) or 0
  answer[place - 2], answer[place - 1] = used, held
  if given ~= '' then
    writes[wrote + 1], writes[wrote + 2] = fields[place + 1], found[place + 1] and plus(held, amount(given)) or given
    wrote = wrote + 2
  end
  if room == 'none' or below(amount(room), plus(used, held)) then refused = true end
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
    local given = ARGV[9]
    if given ~= '' then
      local asked = amount(given)
      if below(available, asked) then refused = true end
      if below(0, asked) then
        writes[wrote + 1], writes[wrote + 2] = fields[place + 1], found[place + 1] and plus(held, asked) or given
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
