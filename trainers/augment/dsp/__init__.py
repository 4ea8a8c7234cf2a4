"""Signal processing of the effects, in tensor operations: each row with its own parameters."""
