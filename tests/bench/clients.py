# SPDX-License-Identifier: GPL-2.0-or-later
"""The clients of the disk that a contender serves: fio, plain readers, and the comparison with the
expected content."""

import contextlib
import dataclasses
import json
import mmap
import os
import random
import subprocess
from collections.abc import Callable

import images
from content import BLOCK_BYTES
from contenders import CannotDo, WrongData, reading

MB = 1_000_000
_PASS_BYTES = 1 << 20  # the request size of a buffered reader
_N_SAMPLES = 96        # blocks verified before a row is timed


@dataclasses.dataclass
class Job:
    """One measurement: a contender that serves a disk (except in rows that start it themselves),
    and the options of the run."""
    contender: object
    disk: images.Disk
    options: object
    round_index: int
    scratch: str                # name of a file that the row may write
    new_contender: Callable     # another contender of the same kind, not yet started
    n_written_blocks: int = 0   # by a row that writes
    cpu_seconds: float = 0      # of servers that the row itself started and stopped
    peak_rss_mib: float = 0


# -- verification


@contextlib.contextmanager
def _open_direct(path, n_bytes, direct=True):
    """A descriptor of path that bypasses the page cache, and an aligned buffer of n_bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
    try:
        with mmap.mmap(-1, n_bytes) as buffer:
            yield fd, buffer
    finally:
        os.close(fd)


def check_size(fd, disk):
    size_bytes = os.fstat(fd).st_size
    if size_bytes != disk.size_bytes:
        raise WrongData(f"size {size_bytes} instead of {disk.size_bytes}")


def verify(path, disk, seed, direct=True):
    """Compares random blocks with the expected content. Uses O_DIRECT, so that nothing is left in
    the page cache, unless the caller wants to test the cache."""
    with reading(), _open_direct(path, BLOCK_BYTES, direct) as (fd, buffer):
        check_size(fd, disk)
        for block_index in disk.sample_blocks(random.Random(seed), _N_SAMPLES):
            n_read = os.preadv(fd, [buffer], block_index * BLOCK_BYTES)
            if buffer[:n_read] != disk.block(block_index):
                raise WrongData(f"wrong data at {block_index * BLOCK_BYTES}")


def all_blocks(path, disk):
    """Yields index and bytes of each block of the disk, bypassing the page cache."""
    with reading(), _open_direct(path, _PASS_BYTES) as (fd, buffer):
        check_size(fd, disk)
        for offset in range(0, disk.size_bytes, _PASS_BYTES):
            n_read = os.preadv(fd, [buffer], offset)
            if n_read != min(_PASS_BYTES, disk.size_bytes - offset):
                raise WrongData(f"short read of {n_read} bytes at {offset}")
            for start in range(0, n_read, BLOCK_BYTES):
                yield ((offset + start) // BLOCK_BYTES,
                       buffer[start:start + BLOCK_BYTES])


# -- clients


def fio(job, rw, *, block, engine="psync", depth=1, n_jobs=1, direct=True, more=()):
    """Runs fio on the disk, returns its figures of reading or writing."""
    command = ["fio", "--name=bench", f"--filename={job.contender.path}", f"--rw={rw}",
               f"--bs={block}", f"--ioengine={engine}", f"--iodepth={depth}",
               f"--numjobs={n_jobs}", "--group_reporting", "--thread",
               f"--direct={direct:d}", f"--randseed={job.round_index + 1}",
               "--eta=never", "--output-format=json", *more]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=job.options.limit,
                                env=job.contender.client_environment)
    except subprocess.TimeoutExpired:
        raise CannotDo(f"no end after {job.options.limit:g} s") from None
    try:
        figures = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]
    except (ValueError, LookupError):
        raise RuntimeError(f"fio: {result.stderr.strip() or result.stdout}") from None
    if result.returncode != 0 or figures["error"] != 0:
        raise CannotDo(f"fio: {os.strerror(figures['error'])}")
    return figures["write" if job.contender.writable else "read"]


def for_seconds(job):
    """fio's option for the duration."""
    return ["--time_based", f"--runtime={int(job.options.seconds * 1000)}ms"]


def warm_memory(n_bytes):
    """Takes and frees memory, so that the next allocation does not wait until the host of a
    virtual machine provides the pages."""
    mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE).close()


def read_through(path):
    """Reads a whole file by a new open, returns the bytes read."""
    buffer = memoryview(bytearray(_PASS_BYTES))
    total_bytes = 0
    with reading(), open(path, "rb", buffering=0) as file:
        while n_read := file.readinto(buffer):
            total_bytes += n_read
    return total_bytes
