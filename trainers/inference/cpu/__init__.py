"""Built-in encoders on a CPU without gradients: the same numbers from fewer and better placed operations."""
