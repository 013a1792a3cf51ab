#!lua flags=allow-oom
-- Throws dead letters away.
--
-- P: ids
-- Returns how many there were.

local dropped = 0
for _, id in ipairs(P.ids) do
  dropped = dropped + drop_letter(id)
end
return dropped
