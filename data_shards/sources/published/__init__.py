"""One module a published dataset, each yielding clips with targets, groups, split and licence."""
