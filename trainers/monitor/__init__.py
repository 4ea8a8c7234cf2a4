"""Metrics of a running training: representation statistics, nearest neighbours, time."""
