"""Which clips a step trains on, as a pure function of (seed, step)."""
