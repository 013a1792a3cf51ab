#!lua flags=allow-oom
-- Dismisses the held events of a subject: they start nothing, and are kept for a while.
--
-- P: subject, by, budgets, keep_dismissed (ms), seen_for (ms), receipts_kept
-- Returns how many there were.

return #dismiss(P.subject, P.by, P.keep_dismissed)
