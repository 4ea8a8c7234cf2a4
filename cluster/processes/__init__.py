"""Child processes: pools, signals, and supervision that ends them."""
