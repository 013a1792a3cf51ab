#!lua
-- Does nothing, but is refused whenever enqueue.lua would be: Redis is full, read-only, or could not
-- write to its disk. What the caller sends with it counts as memory in use.
--
-- P: padding

return 1
