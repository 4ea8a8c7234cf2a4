"""Kinds of tasks, a file each: target, metrics, conventions, loss of the probe, baselines."""
