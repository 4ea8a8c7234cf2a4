"""One module a dataset, each yielding clips with their targets, groups, split and licence."""
