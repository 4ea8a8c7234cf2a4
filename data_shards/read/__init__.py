"""Windows and batches from shards, on this machine or remote."""
