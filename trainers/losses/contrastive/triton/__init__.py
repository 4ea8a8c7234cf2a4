"""The sums and the gradient of the loss by two Triton kernels, with the launches that choose their tiles."""
