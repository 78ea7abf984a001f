"""Memory that was freed is kept, so that the next large array costs no page faults."""

import platform
import subprocess
import sys

import pytest

CHILD = """
import resource
import sys
import numpy as np
from tse_lib.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
np.ones(1 << 24, np.float32)  # 64 MiB
first = faults() - before
for _ in range(5):
    np.ones(1 << 24, np.float32)
print(first, faults() - before - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
@pytest.mark.parametrize("mode", ["keep", "give back"])
def test_large_arrays_are_taken_from_what_was_freed(mode):
    command = [sys.executable, "-c", CHILD, mode]
    first, later = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert first > 10  # pages, large or small
    assert later < first if mode == "keep" else later > 3 * first
