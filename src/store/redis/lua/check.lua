-- ARGV: 2 twice the number of lines, and one more with a balance, 3 the attempt and the id, as ids are told
-- that it was released, 4 lifetime of the hold in microseconds or empty, 5 the hold, 6 what it sets
-- aside on every line, or empty where that is not the same; with a balance, what is asked of it or
-- empty, and what the default balance begins at and its minimum, or empty; then for each line its
-- room: the most that may be used and held before, or none; and where that is not the same, what is set
-- aside on it or empty; then the fields of the books: for each line what is used and what is held, of
-- the balance what it is, what is held, and own terms; and the hold.
-- Answers {what came of it, used, held, ... , balance, held, own terms}.
local version = call('HGET', shard, 'version')
if version ~= VERSION then return {version and 's' or 'x'} end
local wall, now = clock()
sweep(now)
local most, lifetime, hold, same = #ARGV, ARGV[4], ARGV[5], ARGV[6]
local own, charges = ARGV[most], ARGV[2] % 2 == 1
local count = (ARGV[2] - ARGV[2] % 2) / 2
local rooms, step = charges and 10 or 7, same == '' and 2 or 1
local first = rooms + step * count
local function look() return call('HMGET', books, 'keep', unpack(ARGV, first, most)) end
local found = look()
local placed = false
if lifetime ~= '' then
  local met = call('ZMSCORE', ids, own, ARGV[3])
  if met[1] then return {'f'} end
  if met[2] then return {'r'} end
  local there = found[most - first + 2]
  if there then
    local ends = call('ZSCORE', due, own)
    if ends and tonumber(ends) <= now then
      expire(own, now)
      found = look()
    elseif attempt_of(there) == attempt_of(hold) then placed = true
    else return {'o'} end
  end
end

local answer, writes, wrote = {'a'}, {own, hold}, 2
local refused = false
for line = 1, count do
  local at = rooms + step * (line - 1)
  local room, given = ARGV[at], step == 1 and same or ARGV[at + 1]
  local there = found[2 * line + 1]
  local used, held = amount(found[2 * line] or '0'), amount(there or '0')
  answer[2 * line], answer[2 * line + 1] = used, held
  if given ~= '' then
    local field = ARGV[first + 2 * line - 1]
    writes[wrote + 1], writes[wrote + 2] = field, there and plus(held, amount(given)) or given
    wrote = wrote + 2
  end
  if room == 'none' or below(amount(room), plus(used, held)) then refused = true end
end
if charges then
  local place = 2 * count + 2
  local terms, there = found[place + 2], found[place + 1]
  local current, held = amount(found[place]), amount(there or '0')
  local minimum
  if terms then
    current, minimum = current or 0, amount(string.match(terms, '^%S+'))
  elseif ARGV[8] ~= '' then
    current, minimum = current or amount(ARGV[8]), amount(ARGV[9])
  end
  if minimum then
    local available = minus(minus(current, minimum), held)
    local given = ARGV[7]
    if given ~= '' then
      local asked = amount(given)
      if below(available, asked) then refused = true end
      if below(0, asked) then
        writes[wrote + 1], writes[wrote + 2] = ARGV[most - 2], there and plus(held, asked) or given
      end
    elseif not below(0, available) then refused = true end
    answer[place], answer[place + 1], answer[place + 2] = current, held, terms
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

-- For eight days longer than any hold in them.
local millis = math.ceil(lifetime / 1000) + LONGEST
call('HSET', books, unpack(writes))
call('ZADD', due, now + lifetime, own)
outlive(due, millis)
if not found[1] then outlive(books, millis) end
return answer
