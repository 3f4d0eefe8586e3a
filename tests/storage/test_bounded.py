"""Bounds on the size of files, and on memory while they are read."""

import os
import resource
import sys
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.storage.bounded import memory_limit, read_bytes


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(DataError, match="the file has 5 bytes, at most 4 are read"):
        read_bytes(path, 4)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no regular file"):
        read_bytes(tmp_path / "pipe", 4)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", 4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_memory_is_bounded_inside_the_block_only() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), memory_limit(300_000_000):
        assert len(bytearray(100_000_000)) == 100_000_000
        bytearray(1_000_000_000)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(1_000_000_000)) == 1_000_000_000
