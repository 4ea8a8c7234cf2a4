"""A set of shards on disk: records, vocabularies, the index, tar members. Reading never imports building."""
