"""Clips of any dataset to a set of shards and its index."""
