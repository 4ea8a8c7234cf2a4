"""A catalogue and the answers of a search as pages to look at and listen to."""
