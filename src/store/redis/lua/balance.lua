-- KEYS: also 6 transactions, 7 references, 8 what is done once, if it is. ARGV: 2 what to do (open,
-- minimum, credit, debit), 3 balance, 4 and 5 what the default begins at and its minimum, or empty, 6
-- amount, 7 reference or empty, 8 the transaction, 9 the terms of a balance to open.
-- Answers {what came of it, current, held, own terms, transaction}.
local transactions, references = KEYS[6], KEYS[7]
local wall, now, server = clock()
sweep(now)
local what, name, given = ARGV[2], ARGV[3], amount(ARGV[6])
local found = call('HMGET', books, 'b' .. name, 'g' .. name, 'm' .. name, 'last')
local current, held, terms = amount(found[1]), amount(found[2]) or 0, found[3]

local function write(value)
  call('HSET', books, 'b' .. name, value, 'keep', 1)
  call('PERSIST', books)
end

if what == 'open' then
  if terms then return {'c'} end
  -- A charge may have come before the balance did; it is not forgiven.
  local sum = plus(current or 0, given)
  write(sum)
  call('HSET', books, 'm' .. name, ARGV[9])
  return {'n', sum, held, ARGV[9]}
end
if what == 'minimum' then
  if not terms then return {'m'} end
  terms = ARGV[6] .. string.match(terms, '^%S+(.*)$')
  call('HSET', books, 'm' .. name, terms)
  return {'n', current or 0, held, terms}
end
local minimum
if terms then current, minimum = current or 0, amount(string.match(terms, '^%S+'))
elseif ARGV[4] ~= '' then current, minimum = current or amount(ARGV[4]), amount(ARGV[5])
else return {'m'} end
local after
-- What was done before, under the same id.
local earlier = KEYS[8] and call('GET', KEYS[8])
if earlier then return {'d', current, held, terms, earlier} end
if what == 'credit' then
  local over
  if ARGV[7] ~= '' then
    earlier = call('HGET', references, ARGV[7])
    if earlier then return {'d', current, held, terms, earlier} end
  end
  after, over = plus(current, given)
  if over then return {'o'} end
else
  if below(minus(minus(current, minimum), held), given) then return {'r', current, held, terms} end
  after = minus(current, given)
end
write(after)
local sequence = string.format('%.0f', math.max(server, tonumber(found[4] or '0') + 1))
call('HSET', books, 'last', sequence)
local transaction = sequence .. ' ' .. tostring_amount(after) .. ' ' .. ARGV[8]
call('RPUSH', transactions, transaction)
call('LTRIM', transactions, '-' .. KEEP_TRANSACTIONS, -1)
if KEYS[8] then call('SET', KEYS[8], transaction, 'PX', DAY) end
if what == 'credit' and ARGV[7] ~= '' then call('HSET', references, ARGV[7], transaction) end
return {'n', after, held, terms, transaction}
