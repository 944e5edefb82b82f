-- Adds an event to what its quarter of an hour comes to, for its customer and for all of the shard.
-- From ARGV[place] on: the millisecond at which the day's sums are let go; then for each meter that it
-- moves: quarter and series, and the amount. In front of a series of which there is the highest or the
-- latest, that is M or L. What cannot be summed up is ?, and is counted from the events themselves.
local function roll_up(place, many, wall, server, at)
  for key = 7, 8 do
    local sums = KEYS[key]
    local fresh = false
    for one = place + 1, place + 2 * many, 2 do
      local kind, field = string.match(ARGV[one], '^([ML?]?)(.*)$')
      local given = ARGV[one + 1]
      if kind == '' then
        local sum = redis.pcall('HINCRBY', sums, field, given)
        if type(sum) == 'table' then call('HSET', sums, field, '?')
        elseif sum == tonumber(given) then fresh = true end
      elseif kind == '?' then
        fresh = call('HSET', sums, field, '?') == 1 or fresh
      else
        local found = call('HGET', sums, field)
        local value = kind == 'L' and string.format('%s %s %.0f', given, ARGV[4], server) or given
        if not found then
          call('HSET', sums, field, value)
          fresh = true
        elseif found ~= '?' then
          local known, time = string.match(found, '^(%S+) ?(%S*)')
          local passes
          if kind == 'L' then passes = not below(at, amount(time)) else passes = below(amount(known), amount(given)) end
          if passes then call('HSET', sums, field, value) end
        end
      end
    end
    if fresh then begin_quarter(sums, KEYS[8], ARGV[place], wall, shard) end
  end
end
