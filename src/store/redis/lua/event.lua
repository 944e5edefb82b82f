local function tostring_amount(a)
  return type(a) == 'number' and string.format('%.0f', a) or a
end

-- The time of the newest event that is not kept.
local function note_gone(at)
  local gone = amount(call('HGET', shard, 'gone'))
  if not gone or below(gone, at) then call('HSET', shard, 'gone', tostring_amount(at)) end
end

-- Appends an event to a stream, under the server's time, and lets the oldest go.
local function append(stream, server, event, at)
  local most = KEEP_EVENTS
  if most == 0 then return note_gone(amount(at)) end
  local name = string.format('%.0f-0', server)
  local added = redis.pcall('XADD', stream, name, 'event', event, 'at', at)
  if added.err then
    local newest = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    name = string.format('%.0f-0', tonumber(string.match(newest[1], '^%d+')) + 1)
    call('XADD', stream, name, 'event', event, 'at', at)
  end
  call('PEXPIRE', stream, KEEP_EVENTS_FOR)
  -- Some at a time, as each time takes several calls.
  local over = call('XLEN', stream) - most
  if over > most / 8 then
    local gone
    local oldest = call('XRANGE', stream, '-', '+', 'COUNT', math.min(over, 256))
    for _, entry in ipairs(oldest) do
      local old = amount(entry[2][4])
      if not gone or below(gone, old) then gone = old end
    end
    call('XTRIM', stream, 'MAXLEN', over + most - #oldest)
    note_gone(gone)
  end
end
