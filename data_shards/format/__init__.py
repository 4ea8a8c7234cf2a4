"""What a set of shards is on disk: records, vocabularies, the index, tar members. Reading never imports building."""
