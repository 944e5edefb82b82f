-- ARGV: 3 id, 4 attempt or empty for any.
local wall, now, server = clock()
sweep(now)
local id, attempt = ARGV[3], ARGV[4]
local hold = call('HGET', books, 'o' .. id)
if hold and (attempt == '' or string.match(hold, '^%d+') == attempt) then
  let_go(id, hold)
elseif (attempt == '' or attempt == '0') and call('ZREM', expired, id) == 1 then
  -- It had a hold, which ended by itself.
elseif call('ZSCORE', ids, 'F' .. id) then
  return 'n'
end
-- The same check may arrive again, whatever became of its hold.
if attempt == '' then attempt = '0' end
call('ZADD', ids, wall + HORIZON, 'R' .. attempt .. ' ' .. id)
-- For a settlement that does not know of which check it is.
if attempt ~= '0' then call('ZADD', ids, wall + HORIZON, 'R ' .. id) end
call('PEXPIRE', ids, KEEP_IDS)
forget(ids, wall, server)
return 'r'
