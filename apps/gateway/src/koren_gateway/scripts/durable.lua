#!lua flags=allow-oom
-- Notes when events were on disk, unless they are done and gone already.
--
-- KEYS: koren:event:<key>, one an event
-- ARGV: ms

for _, event in ipairs(KEYS) do
  if redis.call('EXISTS', event) == 1 then
    redis.call('HSETNX', event, 'durable', ARGV[1])
  end
end
