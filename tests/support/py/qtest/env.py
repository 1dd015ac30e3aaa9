# SPDX-License-Identifier: GPL-2.0-or-later
"""The environment of the suites: the built programs, the tools of the host, the place for scratch
files, the seed of random tests, a factor for slow machines."""

import functools
import os
import random
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import pytest


def program(variable):
    """Path of a built program, from its environment variable."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} does not name the built program")
    if not os.access(path, os.X_OK):
        # A wrong path must not look like a machine without FUSE.
        pytest.fail(f"{variable}={path} is not an executable")
    return path


def qcowfs():
    return program("QCOWFS")


def qimg():
    return program("QIMG")


def need_tools(*names):
    for name in names:
        if find_tool(name) is None:
            pytest.skip(f"{name} is not installed")


def find_tool(name):
    """Tools for disks are in sbin, which the PATH of an ordinary user lacks."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return shutil.which(name, path=path)


def need_fuse():
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be opened")
    need_tools("fusermount3")


def need_root(why):
    if os.geteuid() != 0:
        pytest.skip(f"needs root: {why}")


def scratch_root():
    """TMPDIR if set; else the tmpfs, which makes the suites several times faster."""
    if "TMPDIR" in os.environ:
        return Path(tempfile.gettempdir())
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK):
        return shm
    return Path(tempfile.gettempdir())


@functools.lru_cache(maxsize=None)
def session_seed():
    text = os.environ.get("QCOWFS_TEST_SEED")
    return int(text, 0) if text else int.from_bytes(os.urandom(4), "big")


def rng(name):
    """A separate random generator for each test or case: running one alone gives the same numbers
    as running all. The seed is printed and so appears in a failure's report."""
    seed = session_seed()
    print(f"QCOWFS_TEST_SEED={seed} ({name})", file=sys.stdout)
    return random.Random((seed << 32) | zlib.crc32(name.encode()))


@functools.lru_cache(maxsize=None)
def sanitizer():
    """Name of the sanitizer that the program was built with, or None. Bounds of time and memory
    mean nothing under one."""
    path = os.environ.get("QCOWFS")
    if not path or not os.path.isfile(path):
        return None
    needles = {b"__asan_init": "address", b"__tsan_init": "thread", b"__msan_init": "memory"}
    candidates = [path]
    # Only the shared library next to the program may be instrumented.
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    for needle, name in needles.items():
        if needle in data:
            return name
    return None


def slow():
    """Factor for time limits."""
    factor = float(os.environ.get("QCOWFS_TEST_SLOW", "1"))
    return factor * (10 if sanitizer() else 1)
