"""What one step frees, the next one need not ask the system for."""

import platform
import subprocess
import sys

import pytest


# Blocks of a megabyte each, as a small network frees them in a step, and the pages that they cost in the end.
STEPS = """
import resource, torch
from ddpm_ext.freed_memory import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(2**18) for _ in range(40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print([pages() for _ in range(5)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep freed memory by rules of theirs")
def test_freed_memory_is_not_asked_for_again():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # of 10,000
