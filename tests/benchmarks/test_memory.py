"""How the memory benchmark reads the kernel's account of a process."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.memory import Held, anonymous, mapped_pss, mappings

SMAPS = """\
7f0000000000-7f0000400000 r--s 00000000 fe:00 1234                       /cache/packed/ab cd/0000.em.npy
Size:               4096 kB
Rss:                2048 kB
Pss:                 512 kB
Anonymous:             0 kB
VmFlags: rd sh mr
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
Size:               1024 kB
Pss:                 700 kB
Anonymous:           700 kB
7f0000600000-7f0000700000 rw-p 00001000 fe:00 99                         /usr/lib/libx.so
Pss:                  40 kB
Anonymous:            24 kB
"""


def test_mapped_files_count_with_their_share_and_own_pages_in_full():
    assert [path for path, _ in mappings(SMAPS)] == ["/cache/packed/ab cd/0000.em.npy", "", "/usr/lib/libx.so"]
    assert mapped_pss(SMAPS, "/cache/packed") == 512 * 1024
    assert mapped_pss(SMAPS, "/cache/pack") == 0
    assert anonymous(SMAPS) == 724 * 1024
    assert Held(mapped=3, private=4).total == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/PID/smaps (Linux)")
def test_the_kernel_writes_what_is_read_here(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1 << 20, np.uint8))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    before = Path("/proc/self/smaps").read_text()
    mapped.sum()
    own = mmap.mmap(
        -1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )  # fresh pages, where an array might take freed ones
    own.write(b"1" * (1 << 22))
    after = Path("/proc/self/smaps").read_text()
    assert mapped_pss(after, str(tmp_path)) - mapped_pss(before, str(tmp_path)) >= 1 << 19
    assert anonymous(after) - anonymous(before) >= len(own) // 2
