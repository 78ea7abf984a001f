"""The C library's allocator: memory that was freed can be kept for the next large array."""

import ctypes


def keep_freed_memory() -> None:
    """Have this process keep what it frees. Where the C library is not glibc, nothing happens.

    glibc gives each large array back to the system when it is freed and takes it anew, page by page and filled with
    zeros, which costs up to a quarter of the processor's time where a network makes one after the other. Results are
    the same bits. The process stays as large as it once was, so that this is for programs, not for libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt(m_mmap_max, 0)  # a large array comes from the heap: thresholds for that end at 32 MiB in older glibc
    mallopt(m_trim_threshold, -1)  # and the heap never shrinks
