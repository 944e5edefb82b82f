-- ARGV: 2 twice the number of lines, and one more with a balance, 3 the attempt and the id, as ids are told
-- that it was released, 4 lifetime of the hold in microseconds or empty, 5 the hold, 6 what it sets
-- aside on every line, or empty where that is not the same; with a balance, what is asked of it or
-- empty, and what the default balance begins at and its minimum, or empty; then for each line its
-- room: the most that may be used and held before, or none; and where that is not the same, what is set
-- aside on it or empty; then the fields of the books: what is used of each line, the balance; the hold;
-- what is held of each line, and of the balance, and its own terms.
-- Answers what came of it, and behind it what was found in those fields, with a space before each: of all,
-- or where nothing is held and there are no own terms, of those before the hold.
local version = call('HGET', shard, 'version')
if version ~= VERSION then return version and 's' or 'x' end
local wall, now = clock()
sweep(now)
local most, lifetime, hold, same = #ARGV, ARGV[4], ARGV[5], ARGV[6]
local charges = ARGV[2] % 2
local count = (ARGV[2] - charges) / 2
local rooms, step = 7 + 3 * charges, same == '' and 2 or 1
local first = rooms + step * count
local behind = count + charges + 1
local own = ARGV[first + behind - 1]
local function look() return call('HMGET', books, 'keep', unpack(ARGV, first, most)) end
local found = look()
local placed = false
if lifetime ~= '' then
  local met = call('ZMSCORE', ids, own, ARGV[3])
  if met[1] then return 'f' end
  if met[2] then return 'r' end
  local there = found[behind + 1]
  if there then
    local ends = call('ZSCORE', due, own)
    if ends and tonumber(ends) <= now then
      expire(own, now)
      found = look()
    elseif attempt_of(there) == attempt_of(hold) then placed = true
    else return 'o' end
  end
end

local writes, wrote = {own, hold}, 2
local refused = false
for line = 1, count do
  local at = rooms + step * (line - 1)
  local room, given = ARGV[at], step == 1 and same or ARGV[at + 1]
  local there = found[line + 1 + behind]
  local used, held = amount(found[line + 1] or '0'), amount(there or '0')
  if given ~= '' then
    writes[wrote + 1], writes[wrote + 2] = ARGV[first + line - 1 + behind], there and plus(held, amount(given)) or given
    wrote = wrote + 2
  end
  if room == 'none' or below(amount(room), plus(used, held)) then refused = true end
end
if charges == 1 then
  local last = most - first + 2
  local terms, there = found[last], found[last - 1]
  local current, held = found[count + 2], amount(there or '0')
  local minimum
  if terms then
    current, minimum = current or '0', amount(string.match(terms, '^%S+'))
  elseif ARGV[8] ~= '' then
    current, minimum = current or ARGV[8], amount(ARGV[9])
  end
  if minimum then
    local available = minus(minus(amount(current), minimum), held)
    local given = ARGV[7]
    if given ~= '' then
      local asked = amount(given)
      if below(available, asked) then refused = true end
      if below(0, asked) then
        writes[wrote + 1], writes[wrote + 2] = ARGV[most - 1], there and plus(held, asked) or given
      end
    elseif not below(0, available) then refused = true end
    found[count + 2] = current
  else
    found[count + 2], refused = false, true
  end
end

local keeps = found[1]
found[1], found[behind + 1] = placed and 'k' or refused and 'd' or 'a', ''
for at = 2, most - first + 2 do found[at] = found[at] or '' end
local answer = table.concat(found, ' ', 1, most - first + 2)
if placed or refused or lifetime == '' then return answer end

-- For eight days longer than any hold in them.
local millis = math.ceil(lifetime / 1000) + LONGEST
call('HSET', books, unpack(writes))
call('ZADD', due, now + lifetime, own)
outlive(due, millis)
if not keeps then outlive(books, millis) end
return answer
