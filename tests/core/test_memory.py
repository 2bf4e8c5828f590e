import subprocess
import sys

import pytest

TOUCHED = """
import os, resource, sys
if sys.argv[1] == "kept":
    from msseg_lightning.core.memory import keep_freed_memory
    assert keep_freed_memory() is (sys.argv[2] == "changed")
def use():
    for size in (5, 40, 70):
        block = bytearray(size << 20)
        block[::4096] = b"x" * len(block[::4096])
        del block
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(
    sys.platform != "linux", reason="the GNU C library hands freed memory back; others differ"
)


def pages(*arguments, **environment):
    """How many pages the system had to clear for 115 MiB used a second time (29,440 hold them)."""
    done = subprocess.run(
        [sys.executable, "-c", TOUCHED, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **environment},
    )
    return int(done.stdout)


@glibc
def test_freed_memory_is_used_again_without_asking_the_system():
    assert pages("left", "") > 10_000
    assert pages("kept", "changed") < 1_000


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_chose_stays(name):
    value = "131072" if name.startswith("MALLOC") else ""
    assert pages("kept", "unchanged", **{name: value}) > 10_000
