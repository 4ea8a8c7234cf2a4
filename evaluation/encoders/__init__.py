"""Frozen encoders by name, on any device, in this process or in Ray actors."""
