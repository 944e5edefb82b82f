-- ARGV: 3 lifetime in microseconds, 4 whether holds that expired but were not let go yet live on, 5 and
-- following ids. Answers 1 or 0 for each.
local wall, now = clock()
if ARGV[4] == '' then sweep(now) end
local lifetime = tonumber(ARGV[3])
local millis = math.ceil(lifetime / 1000) + LONGEST
local answer = {}
local any = false
for at = 5, #ARGV do
  local until_ = call('ZSCORE', due, ARGV[at])
  local lives = until_ and (ARGV[4] ~= '' or tonumber(until_) > now)
  if lives then
    call('ZADD', due, now + lifetime, ARGV[at])
    any = true
  end
  answer[#answer + 1] = lives and 1 or 0
end
if any then
  if millis > 2 * LONGEST then call('HSET', books, 'long', 1) end
  outlive(due, millis)
  if call('HEXISTS', books, 'keep') == 0 and call('EXISTS', books) == 1 then outlive(books, millis) end
end
return answer
