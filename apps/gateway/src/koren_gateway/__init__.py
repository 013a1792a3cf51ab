"""The gateway of a region: takes events in, hands them to functions, wakes them by KEDA."""
