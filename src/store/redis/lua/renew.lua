-- ARGV: 2 lifetime in microseconds, 3 whether holds that expired but were not let go yet live on, 4 and
-- following holds. Answers 1 or 0 for each.
local wall, now = clock()
if ARGV[3] == '' then sweep(now) end
local lifetime = tonumber(ARGV[2])
local millis = math.ceil(lifetime / 1000) + LONGEST
local answer = {}
local any = false
for at = 4, #ARGV do
  local until_ = call('ZSCORE', due, ARGV[at])
  local lives = until_ and (ARGV[3] ~= '' or tonumber(until_) > now)
  if lives then
    call('ZADD', due, now + lifetime, ARGV[at])
    any = true
  end
  answer[#answer + 1] = lives and 1 or 0
end
if any then
  outlive(due, millis)
  if call('HEXISTS', books, 'keep') == 0 and call('EXISTS', books) == 1 then outlive(books, millis) end
end
return answer
