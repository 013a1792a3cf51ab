"""Who is woken when: the bell inside the region, KEDA outside. Uses `queue` and what is below it."""
