"""Memory of a training on a processor."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt(3)."""
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Lets the process keep freed blocks of up to 1 GiB for its next ones, to the end of the process.

    glibc gives every block above 32 MiB back to the system as soon as it is free. The gradient of a vocabulary is such
    a block: its pages are mapped and cleared anew at each step, a quarter of the time of a step of BERT's pre-training.
    False where the C library is another, and nothing is changed.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows has no library of the process
        return False
    return all(set_option(option, _LARGE) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
