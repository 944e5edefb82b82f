-- Adds an event to what its quarter of an hour comes to, for its customer and for all of the shard.
-- From ARGV[place] on: how many meters it moves, the day, the millisecond at which the day's sums are
-- let go; then for each meter: kind, quarter and series, amount. What cannot be summed up is '?', and
-- is counted from the events themselves. Answers the place behind.
local function roll_up(place, wall, server, at)
  local many, day = tonumber(ARGV[place]), ARGV[place + 1]
  local behind = place + 3 + 3 * many
  if many == 0 then return behind end
  local millis = math.ceil(tonumber(ARGV[place + 2]) - wall / 1000)
  local fresh
  for key = 9, 10 do
    local sums = KEYS[key]
    fresh = false
    for one = place + 3, behind - 1, 3 do
      local kind, field, given = ARGV[one], ARGV[one + 1], ARGV[one + 2]
      if kind == 's' then
        local sum = redis.pcall('HINCRBY', sums, field, given)
        if type(sum) == 'table' then call('HSET', sums, field, '?')
        elseif sum == tonumber(given) then fresh = true end
      elseif kind == '?' then
        fresh = call('HSET', sums, field, '?') == 1 or fresh
      else
        local found = call('HGET', sums, field)
        local value = kind == 'l' and string.format('%s %s %.0f', given, ARGV[7], server) or given
        if not found then
          call('HSET', sums, field, value)
          fresh = true
        elseif found ~= '?' then
          local known, time = string.match(found, '^(%S+) ?(%S*)')
          local passes
          if kind == 'l' then passes = not below(at, amount(time)) else passes = below(amount(known), amount(given)) end
          if passes then call('HSET', sums, field, value) end
        end
      end
    end
    if fresh then call('PEXPIRE', sums, millis) end
  end
  if fresh then
    -- The first and the last day of which there ever was anything.
    local first, last = string.match(call('HGET', shard, 'days') or '', '^(%S+) (%S+)$')
    first, last = tonumber(first or day), tonumber(last or day)
    call('HSET', shard, 'days', math.min(first, day) .. ' ' .. math.max(last, day))
  end
  return behind
end
