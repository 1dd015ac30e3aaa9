# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory on a disk, for tests that a tmpfs cannot run, and the amount of a file in the page
cache."""

import contextlib
import ctypes
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from . import procs

GIB = 1 << 30


@contextlib.contextmanager
def directory_on_a_disk():
    folder = Path(tempfile.mkdtemp(prefix="qcowfs-test-", dir="/var/tmp"))
    try:
        if procs.run("stat", "-f", "-c", "%T", folder).text.strip() in ("tmpfs", "ramfs"):
            pytest.skip("/var/tmp lies in memory")
        if shutil.disk_usage(folder).free < GIB:
            pytest.skip("/var/tmp has less than a gigabyte left")
        yield folder
    finally:
        shutil.rmtree(folder)


def drop_cached(path):
    """Drops a file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    assert cached_bytes(path) == 0


def cached_bytes(path):
    """The bytes of a file in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = os.path.getsize(path)
    n_pages = -(-size // mmap.PAGESIZE)
    is_cached = (ctypes.c_ubyte * n_pages)()
    # Shared and writable, since only then its address can be taken.
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size) as pages:
        start = ctypes.c_char.from_buffer(pages)
        result = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size),
                              is_cached)
        del start
    assert result == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in is_cached) * mmap.PAGESIZE
