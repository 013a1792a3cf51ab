"""From the broker into the queue, and receipts back. Uses `queue` and what is below it."""
