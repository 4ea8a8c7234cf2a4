"""Tasks scored one by one, and kept as they come."""
