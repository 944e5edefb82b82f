-- Answers {name, current or '', held or '', own terms or '', ...} of every balance that was touched.
local wall, now = clock()
sweep(now)
local all, names, answer = {}, {}, {}
local found = call('HGETALL', books)
for at = 1, #found, 2 do
  local kind, name = string.match(found[at], '^([bgm])(.+)$')
  if kind and not (found[at] == 'keep' or found[at] == 'last') then
    if not all[name] then
      all[name] = {}
      names[#names + 1] = name
    end
    all[name][kind] = found[at + 1]
  end
end
for _, name in ipairs(names) do
  local of = all[name]
  answer[#answer + 1], answer[#answer + 2] = name, of.b or ''
  answer[#answer + 1], answer[#answer + 2] = of.g or '', of.m or ''
end
return answer
