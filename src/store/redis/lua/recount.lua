-- Puts counters of one customer at what the kept events come to. ARGV: 2 how many counters are counted
-- again, then for each its name and the minute at which its window of now ends (or *); then for each
-- sum: kind, window and counter, the minute of its end, value, time in nanoseconds.
local version = call('HGET', shard, 'version')
if version ~= VERSION then return {'s'} end
local wall = clock()
local minute = math.floor(wall / 6e7)
local many = tonumber(ARGV[2])
local goes = {}
for at = 3, 2 + 2 * many, 2 do goes[ARGV[at]] = ARGV[at + 1] end

-- Where what is held on a counter goes over to.
local function moved(field)
  local window, counter = string.match(field, '^h([^.]+)%.(.+)$')
  local to = counter and goes[counter]
  if to and window ~= to and (window == '*' or tonumber(window) > minute) then return 'h' .. to .. '.' .. counter end
end

local held, open = {}, {}
for _, field in ipairs(call('HKEYS', books)) do
  local window, counter = string.match(field, '^[ul]([^.]+)%.(.+)$')
  if counter and goes[counter] and (window == '*' or tonumber(window) > minute) then
    call('HDEL', books, field)
  elseif moved(field) then held[#held + 1] = field
  elseif string.byte(field) == 111 then open[#open + 1] = field end
end
if #held > 0 then
  for _, field in ipairs(held) do
    local to = moved(field)
    local there = amount(call('HGET', books, to)) or 0
    local sum = plus(there, amount(call('HGET', books, field)))
    call('HSET', books, to, sum)
    call('HDEL', books, field)
  end
  for _, own in ipairs(open) do
    local hold = call('HGET', books, own)
    local text, behind = string.match(hold, '^ ?%d+|'), string.match(hold, '#.*$')
    local fields, amounts = held_by(hold)
    for at, field in ipairs(fields) do
      if string.byte(field) == 104 then text = text .. (moved(field) or field) .. '|' .. amounts[at] .. '|' end
    end
    call('HSET', books, own, text .. behind)
  end
end
local last, stays = 0, false
for at = 3 + 2 * many, #ARGV, 5 do
  local ends = ARGV[at + 2]
  call('HSET', books, 'u' .. ARGV[at + 1], ARGV[at + 3])
  if ARGV[at] == 'l' then call('HSET', books, 'l' .. ARGV[at + 1], ARGV[at + 4]) end
  if ends == '*' then stays = true elseif tonumber(ends) > last then last = tonumber(ends) end
end
if stays then
  call('HSET', books, 'keep', 1)
  call('PERSIST', books)
elseif call('HEXISTS', books, 'keep') == 0 and last > 0 then
  -- The last may have just ended.
  outlive(books, math.max(0, math.ceil(last * 60000 - wall / 1000)))
end
return {'n'}
