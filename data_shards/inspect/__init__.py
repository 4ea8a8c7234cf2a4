"""Sets of shards checked, summarised and shown."""
