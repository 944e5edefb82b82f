-- ARGV: 4 id, 5 attempt or empty for any, 6 whether a hold is known to have been placed, 7 how long ids are
-- remembered in microseconds.
local wall, now = clock()
sweep(now)
local id, attempt = ARGV[4], ARGV[5]
local hold = hold_of(id)
if hold and (attempt == '' or hold[1] == attempt) then
  let_go(id, hold)
elseif (attempt == '' or attempt == '0') and redis.call('ZREM', expired, id) == 1 then
  -- It had a hold, which ended by itself.
elseif ARGV[6] ~= '' or redis.call('ZSCORE', ids, 'F' .. id) then
  return 'n'
end
local horizon = tonumber(ARGV[7])
redis.call('ZADD', ids, wall + horizon, 'R' .. (attempt == '' and '0' or attempt) .. ' ' .. id)
redis.call('PEXPIRE', ids, math.ceil(horizon / 1000) + 90000000)
forget(ids, wall)
return 'r'
