"""Memory that a process frees and needs again a moment later."""

import ctypes

BLOCK_BYTES = 128 << 20
"""Larger blocks go back to the kernel as before: SampleCNN's step would need half as much again with them."""
KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap above this goes back."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep the blocks that this process frees, for the next of their size.

    It gives back what is larger than 32 MiB, and whatever lies free at the end of its heap, and the kernel then clears
    every page anew: on a CPU a fifth to a third of a small network's training went into that. Other allocators are left
    alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # An older glibc takes no more than 32 MiB; a trim threshold by itself would end its own adapting and leave 128 KiB.
    if mallopt is not None and (mallopt(_MMAP_THRESHOLD, BLOCK_BYTES) or mallopt(_MMAP_THRESHOLD, BLOCK_BYTES // 4)):
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
