"""The soak: faults of every kind against real processes, and a checker that knows what must be true afterwards."""
