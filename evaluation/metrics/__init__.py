"""Metrics, their intervals, and paired differences."""
