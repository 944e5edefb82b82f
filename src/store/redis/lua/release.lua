-- ARGV: 2 the hold, 3 attempt or empty for any.
local wall, now, server = clock()
sweep(now)
local own, attempt = ARGV[2], ARGV[3]
local hold = call('HGET', books, own)
if hold and (attempt == '' or attempt_of(hold) == attempt) then
  let_go(own, hold)
elseif (attempt == '' or attempt == '0') and call('ZREM', expired, own) == 1 then
  -- It had a hold, which ended by itself.
elseif call('ZSCORE', ids, own) then
  return 'n'
end
-- The same check may arrive again, whatever became of its hold.
if attempt == '' then attempt = '0' end
call('ZADD', ids, wall + HORIZON, 'R' .. attempt .. own)
-- For a settlement that does not know of which check it is.
if attempt ~= '0' then call('ZADD', ids, wall + HORIZON, 'R' .. own) end
call('PEXPIRE', ids, KEEP_IDS)
forget(ids, wall, server)
return 'r'
