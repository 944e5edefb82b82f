-- ARGV: from 3 on for each event its id and its time in microseconds. Answers for each 0, or 1 where it would be too old.
local version = call('HGET', shard, 'version')
if version ~= ARGV[1] then return {version and 's' or 'x'} end
local wall = clock()
local answer = {'n'}
for at = 3, #ARGV, 2 do
  local old = wall - tonumber(ARGV[at + 1]) > HORIZON
  answer[#answer + 1] = old and not call('ZSCORE', ids, 'F' .. ARGV[at]) and 1 or 0
end
return answer
