-- ARGV: from 2 on for each event its id, as a hold is named, and its time in microseconds. Answers for each 0, or 1 where it would be too old.
local version = call('HGET', shard, 'version')
if version ~= VERSION then return {version and 's' or 'x'} end
local wall = clock()
local answer = {'n'}
for at = 2, #ARGV, 2 do
  local old = wall - tonumber(ARGV[at + 1]) > HORIZON
  answer[#answer + 1] = old and not call('ZSCORE', ids, ARGV[at]) and 1 or 0
end
return answer
