"""Memory of the host that one step frees and the next one needs again."""

import torch


_LEARNED_AT_MOST = 32 * 2**20
_HEADER_AND_ALIGNMENT = 2**16


def keep_freed_memory() -> None:
    """From now on, this process keeps up to 64 MB of what it frees, where its C library is glibc.

    glibc hands freed memory back to the system beyond twice the largest block, of up to 32 MB, that was ever freed. A
    small network frees none so large: each of its steps would ask for thousands of pages anew.
    """
    torch.empty(_LEARNED_AT_MOST - _HEADER_AND_ALIGNMENT, dtype=torch.uint8)  # freed at once, and never touched
