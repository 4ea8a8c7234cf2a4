"""Triton kernels of the chain for one GPU, each beside its launcher; imported only where they run."""
