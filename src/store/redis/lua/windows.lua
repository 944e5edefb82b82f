-- Lets go of windows that have ended, and has the books live until the last one ends, or for ever.
local function end_windows(books, wall, stays)
  local call, minute, last = redis.call, math.floor(wall / 6e7), 0
  local keeps = false
  for _, field in ipairs(call('HKEYS', books)) do
    local window = string.match(field, '^[ulha](%-?%d+)%.')
    if window then
      window = tonumber(window)
      if window <= minute then call('HDEL', books, field)
      elseif window > last then last = window end
    elseif field == 'keep' then keeps = true end
  end
  if keeps then return end
  if stays then
    call('HSET', books, 'keep', 1)
    call('PERSIST', books)
  elseif last > 0 then
    local millis = math.ceil(last * 60000 - wall / 1000)
    -- A day more, so that it is seldom told.
    if call('PTTL', books) < millis then call('PEXPIRE', books, millis + 86400000) end
  end
end

-- The first sum of a quarter: tells its hash when it ends, and for that of all, the shard the first and
-- the last day of which there ever was anything.
local function begin_quarter(sums, all, ends, wall, shard)
  local call = redis.call
  call('PEXPIRE', sums, math.ceil(ends - wall / 1000))
  if sums ~= all then return end
  local day = string.match(all, '%-?%d+$')
  local first, last = string.match(call('HGET', shard, 'days') or '', '^(%S+) (%S+)$')
  first, last = tonumber(first or day), tonumber(last or day)
  local days = math.min(first, day) .. ' ' .. math.max(last, day)
  call('HSET', shard, 'days', days)
end

if settled then
  for key = 7, 8 do
    if settled.begun[key] then begin_quarter(KEYS[key], KEYS[8], settled.ends, settled.wall, KEYS[1]) end
  end
  if settled.fresh then end_windows(KEYS[2], settled.wall, settled.stays) end
  if settled.tells then live_on(settled.server) end
  return 'n'
end

