# SPDX-License-Identifier: GPL-2.0-or-later
"""Every requested read waits for the disk at the same time, with the default options; afterwards
the additional threads end."""

import mmap
import os
import threading
from pathlib import Path

import pytest

from qtest import env, pattern, procs, qemu
from qtest.mount import Mount

MIB = 1 << 20
N_READS = 16
N_MAIN = 1  # threads that serve no requests
# Cluster 0 is the header's, then follow the refcount table, a refcount block and the L1 table,
# then L2 tables and data.
CLUSTER_BYTES = 4096
FIRST_TABLE_OFFSET = 4 * CLUSTER_BYTES
TABLE_SPAN = CLUSTER_BYTES // 8 * CLUSTER_BYTES  # guest bytes of an L2 table
READ_BYTES = 3 * CLUSTER_BYTES


def gathering(n_reads, n_bytes):
    """A wrapper that makes reads of @n_bytes wait until @n_reads of them are in flight."""
    if env.sanitizer():
        pytest.skip("a sanitizer's library must be the first")
    library = Path(env.qcowfs()).resolve().parents[1] / "tests/support/libgather-reads.so"
    if not library.exists():
        pytest.skip(f"{library} is not built")
    return ["env", f"LD_PRELOAD={library}", f"GATHER_READS={n_reads}",
            f"GATHER_BYTES={n_bytes}", f"GATHER_FROM={FIRST_TABLE_OFFSET}",
            f"GATHER_LIMIT_S={int(20 * env.slow())}"]


@pytest.fixture
def scattered(tmp_path):
    """Three clusters of data in the middle of the range of each of N_READS L2 tables."""
    image = qemu.create(tmp_path / "disk.qcow2", N_READS * TABLE_SPAN,
                        cluster_size=CLUSTER_BYTES)
    qemu.write(image, *[(place(n), READ_BYTES, "noise", n) for n in range(N_READS)])
    return image


def place(n):
    return n * TABLE_SPAN + TABLE_SPAN // 2


def read_one(fd, n, n_bytes):
    buffer = mmap.mmap(-1, n_bytes)
    assert os.preadv(fd, [buffer], place(n)) == n_bytes
    pattern.assert_same(buffer[:], pattern.noise(place(n), READ_BYTES, n)[:n_bytes],
                        f"read {n}", place(n))


def read_together(path, n_bytes):
    """Reads all places at the same time, bypassing the page cache."""
    failures = []
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def work(n):
        try:
            read_one(fd, n, n_bytes)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(N_READS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert not failures, failures[0]


@pytest.mark.parametrize("what", ["data", "tables"])
def test_reads_in_flight_together(what, scattered, mnt):
    gathered_bytes = READ_BYTES if what == "data" else CLUSTER_BYTES
    n_bytes = READ_BYTES if what == "data" else 2 * CLUSTER_BYTES
    with Mount(scattered, mnt, wrapper=gathering(N_READS, gathered_bytes)) as mount:
        read_together(mount.raw(scattered), n_bytes)


def n_threads(mount):
    return len(os.listdir(f"/proc/{mount.process.pid}/task"))


def test_threads_go_when_all_is_hot(scattered, mnt):
    with Mount(scattered, mnt, "-o", "threads=2",
               wrapper=gathering(N_READS, READ_BYTES)) as mount:
        path = mount.raw(scattered)
        # The first request is answered before they are started.
        procs.wait_until(lambda: n_threads(mount) >= N_MAIN + 2, "two serving threads")
        read_together(path, READ_BYTES)
        assert n_threads(mount) >= N_READS
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        n_left = 200_000
        while n_threads(mount) > N_MAIN + 2 and n_left > 0:
            read_one(fd, 0, CLUSTER_BYTES)
            n_left -= 1
        os.close(fd)
        assert n_threads(mount) == N_MAIN + 2


def test_one_thread_stays_one(scattered, mnt):
    """With one requested thread there is only one: its reads are in flight one after the other."""
    with Mount(scattered, mnt, "-s", wrapper=gathering(1, READ_BYTES)) as mount:
        read_together(mount.raw(scattered), READ_BYTES)
        assert n_threads(mount) == N_MAIN + 1
