-- Amounts are i64 millionths. Below 9 * 10^15 they are numbers, of which sums are exact; beyond, they
-- are decimal text and reckoned in two limbs of 10^9. Sums that do not fit are held at the largest.
local EXACT = 9e15

local function amount(text)
  if not text then return nil end
  if #text < 16 then return tonumber(text) end
  local value = #text < 18 and tonumber(text)
  if value and value < EXACT and value > -EXACT then return value end
  return text
end

-- Functions within, which are made only when they are needed: this is rare.
local function wide(a, b, sign)
  local function limbs(value)
    local high, low
    if type(value) == 'number' then
      high = math.floor(value / 1e9)
      low = value - high * 1e9
    else
      local below = string.byte(value) == 45
      local digits = below and string.sub(value, 2) or value
      high, low = tonumber(string.sub(digits, 1, -10)) or 0, tonumber(string.sub(digits, -9))
      -- From nothing, as a nothing with a minus would be written with it.
      if below then high, low = 0 - high, 0 - low end
    end
    if low < 0 then return high - 1, low + 1e9 end
    return high, low
  end
  local high, low = limbs(a)
  local other, rest = limbs(b)
  if sign == 0 then return high < other or (high == other and low < rest) end
  high, low = high + sign * other, low + sign * rest
  if low >= 1e9 then high, low = high + 1, low - 1e9 elseif low < 0 then high, low = high - 1, low + 1e9 end
  if high > 9223372036 or (high == 9223372036 and low > 854775807) then return '9223372036854775807', true end
  if high < -9223372037 or (high == -9223372037 and low < 145224192) then return '-9223372036854775808', true end
  if high > -9000000 and high < 9000000 then return high * 1e9 + low, false end
  if high >= 0 then return string.format('%.0f%09.0f', high, low), false end
  if low > 0 then high, low = high + 1, 1e9 - low end
  return string.format('-%.0f%09.0f', -high, low), false
end

local function plus(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local sum = a + b
    if sum < EXACT and sum > -EXACT then return sum, false end
  end
  return wide(a, b, 1)
end

local function minus(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local difference = a - b
    if difference < EXACT and difference > -EXACT then return difference, false end
  end
  return wide(a, b, -1)
end

local function below(a, b)
  if type(a) == 'number' and type(b) == 'number' then return a < b end
  return wide(a, b, 0)
end
