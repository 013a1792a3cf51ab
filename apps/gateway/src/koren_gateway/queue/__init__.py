"""Events in Redis until they are handled: scripts, leases, attempts, dead letters, state. Uses `cluster`."""
