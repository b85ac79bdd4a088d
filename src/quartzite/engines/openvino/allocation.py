"""How the C library hands out memory to OpenVINO: large pieces come from the system, and go back once they are free."""

import ctypes

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 4 << 20


def return_large_pieces() -> None:
    """Have glibc map pieces of LARGE_BYTES one by one; other C libraries are left as they are.

    By itself glibc takes pieces of up to 32 MiB from its heap once one of their size has been freed, where those of a
    row that grows leave holes that none of the next fits into: see decision 61.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGE_BYTES)
