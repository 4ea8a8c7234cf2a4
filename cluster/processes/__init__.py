"""Child processes, their environment, and the signals that end them."""
