# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads that wait for the disk are answered with the right bytes, in any mixture with others, with
writes through another view of the same disk, and by any number of serving threads."""

import mmap
import os
import random
import tempfile
import threading

import pytest

from qtest import pattern, procs, qemu
from qtest.mount import Mount

MIB = 1 << 20
DISK_BYTES = 16 * MIB
BLOCK_BYTES = 4096
N_READERS = 6
N_ROUNDS = 60
N_BLOCKS = 8
N_WRITES = 400
SIZES = (512, 4096, 12288, 65536, 131072)


@pytest.fixture
def place():
    """A directory on a disk, if there is one: elsewhere no read waits."""
    with tempfile.TemporaryDirectory(prefix="qcowfs-test-", dir="/var/tmp") as path:
        yield path


def evict(path):
    """Drops the file's pages, as far as the file system can."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def run_all(works):
    failures = []

    def run(work, n):
        try:
            work(n)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work, n)) for n, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def read_at_random(path, expected, seed, paths_to_evict):
    """Reads past the page cache of the mount, of sizes that wait in different ways."""
    choose = random.Random(seed)
    buffer = mmap.mmap(-1, max(SIZES))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for i in range(N_ROUNDS):
            if i % 16 == 0:
                for image in paths_to_evict:
                    evict(image)
            size = choose.choice(SIZES)
            at = choose.randrange(0, (DISK_BYTES - size) // 512) * 512
            view = memoryview(buffer)[:size]
            assert os.preadv(fd, [view], at) == size
            pattern.assert_same(bytes(view), expected(at, size), f"seed {seed} read {i}", at)
    finally:
        os.close(fd)


@pytest.mark.parametrize("n_threads", ["1", "2", "5"])
@pytest.mark.parametrize("kind", ["plain", "chain", "compressed"])
def test_random_reads(kind, n_threads, place, mnt, rng):
    content = "words" if kind == "compressed" else "noise"
    base = qemu.create(f"{place}/base.qcow2", DISK_BYTES, cluster_size=65536)
    qemu.write(base, (0, DISK_BYTES, content, 1))
    image, images = base, [base]
    if kind == "chain":
        image = qemu.create(f"{place}/top.qcow2", DISK_BYTES, backing=base,
                            cluster_size=4096)
        qemu.write(image, (4 * MIB, 2 * MIB, "noise", 1))
        images.append(image)
    elif kind == "compressed":
        image = f"{place}/small.qcow2"
        qemu.img("convert", "-c", "-O", "qcow2", base, image)
        qemu.write(image, (MIB, 5 * MIB, content, 1))  # not compressed
        images = [image]
    seed = rng.getrandbits(32)
    with Mount(image, mnt, "-o", f"threads={n_threads}") as mount:
        path = mount.raw(image)

        def work(n):
            read_at_random(path, lambda at, size: getattr(pattern, content)(at, size, 1),
                           seed + n, images)

        run_all([work] * N_READERS)


def test_reads_beside_writes_to_a_view(place, mnt, rng):
    """A write to a partition drops pages of the disk's file, which waits for reads into them, and
    these for the disk: all end, and the disk's file shows the last writes."""
    image = f"{place}/disk.raw"
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    procs.run("sfdisk", "-q", image, stdin=b"label: dos\nstart=2048\n")
    seed = rng.getrandbits(32)
    with Mount(image, mnt, "-o", "rw,format=raw") as mount:
        disk, part = mount.raw(image), mnt / "disk.partitions" / "1.raw"
        stop, last = threading.Event(), {}

        def read_disk(n):
            choose = random.Random(seed + n)
            with open(disk, "rb", buffering=0) as file:
                while not stop.is_set():
                    evict(image)
                    at = MIB + choose.randrange(N_BLOCKS) * BLOCK_BYTES
                    assert len(os.pread(file.fileno(), BLOCK_BYTES, at)) == BLOCK_BYTES

        def write_part(n):
            choose = random.Random(seed + n)
            with open(part, "r+b", buffering=0) as file:
                for i in range(N_WRITES):
                    block = choose.randrange(N_BLOCKS)
                    last[block] = i % 256
                    os.pwrite(file.fileno(), bytes([i % 256]) * BLOCK_BYTES,
                              block * BLOCK_BYTES)
                    os.fsync(file.fileno())
            stop.set()

        run_all([read_disk] * N_READERS + [write_part])
        assert disk.read_bytes()[MIB:] == part.read_bytes()
        for n, value in last.items():
            block = MIB + n * BLOCK_BYTES
            assert disk.read_bytes()[block:block + BLOCK_BYTES] == bytes([value]) * BLOCK_BYTES
