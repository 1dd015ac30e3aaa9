# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of the benchmark: the work of each, its timing, and the target of qcowfs.

A row's `measure` gets a Job and returns the value in the row's unit. It raises CannotDo if the
contender cannot do the work, and WrongData on wrong bytes."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable

import images
import loop_mount
import untar
import writes
from clients import MB, Job, fio, for_seconds, read_through, verify, warm_memory
from contenders import CannotDo, WrongData, reading
from targets import (at_most, no_target, share_of_ceiling, share_of_decoder,
                     share_of_raw, share_of_row, times_best_peer, times_ceiling)

_N_WALKS = 3


# -- measurements of reading; those of writing are in writes.py and untar.py


def _read(job, rw, region=(), **how):
    return fio(job, rw, more=["--readonly", "--norandommap", *for_seconds(job), *region],
               **how)


def _read_mb_per_s(job, rw, **how):
    return _read(job, rw, **how)["bw_bytes"] / MB


def _read_iops(job, rw, **how):
    return _read(job, rw, **how)["iops"]


def sequential_direct(job):
    return _read_mb_per_s(job, "read", block="1M")


def sequential_cold(job):
    path = job.contender.path
    with reading(), open(path, "rb", buffering=0) as file:
        # The start has read the first block.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    warm_memory(job.disk.data_bytes)
    start = time.perf_counter()
    total_bytes = read_through(path)
    elapsed_s = time.perf_counter() - start
    verify(path, job.disk, job.round_index, direct=False)
    return total_bytes / elapsed_s / MB


def sequential_hot(job):
    path = job.contender.path
    read_through(path)
    total_bytes, elapsed_s = 0, 0.0
    start = time.perf_counter()
    while elapsed_s < job.options.seconds:
        total_bytes += read_through(path)
        elapsed_s = time.perf_counter() - start
    verify(path, job.disk, job.round_index, direct=False)
    return total_bytes / elapsed_s / MB


def random_qd1(job):
    return _read_iops(job, "randread", block="4k")


def random_qd4(job):
    return _read_iops(job, "randread", block="4k", engine="libaio", depth=4)


def random_qd16(job):
    return _read_iops(job, "randread", block="4k", engine="libaio", depth=16)


def sequential_4_readers(job):
    """MB/s of four readers, each of a quarter of the disk."""
    return _read_mb_per_s(job, "read", block="1M", n_jobs=4,
                          region=("--size=25%", "--offset_increment=25%"))


def _cold_iops(job, depth):
    """Each block once, for some seconds at most."""
    return fio(job, "randread", block="4k", engine="libaio", depth=depth,
               more=["--readonly", f"--runtime={int(job.options.seconds * 1000)}ms"]
               )["iops"]


def cold_qd16(job):
    return _cold_iops(job, 16)


def cold_qd64(job):
    return _cold_iops(job, 64)


def random_4_threads(job):
    return _read_iops(job, "randread", block="4k", n_jobs=4)


def sparse_copy(job):
    """Seconds of cp, which finds the data with SEEK_DATA and SEEK_HOLE."""
    path = job.contender.path
    with reading(), open(path, "rb", buffering=0) as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == job.disk.size_bytes:
            raise CannotDo("no SEEK_DATA: would read all the holes, for hours")
    warm_memory(2 * job.disk.data_bytes)  # page cache and copy
    start = time.perf_counter()
    try:
        result = subprocess.run(["cp", "--sparse=always", path, job.scratch],
                                stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=job.options.limit)
        elapsed_s = time.perf_counter() - start
        if result.returncode != 0:
            raise CannotDo(result.stderr.strip())
        verify(job.scratch, job.disk, job.round_index)
    except subprocess.TimeoutExpired:
        raise CannotDo(f"not done after {job.options.limit:g} s") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(job.scratch)
    return elapsed_s


def seek_walk(job):
    """Milliseconds of a walk over all extents."""
    program = os.path.join(job.options.tools, "bench-seek-walk")
    walks_ms = []
    for _ in range(_N_WALKS):
        result = subprocess.run([program, job.contender.path, str(job.options.limit)],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode != 0:
            raise CannotDo(result.stderr.strip().rpartition(": ")[2])
        walk = json.loads(result.stdout)
        if walk["data_bytes"] == job.disk.size_bytes:
            raise CannotDo("no SEEK_DATA: all of the disk counts as data")
        if not walk["complete"]:
            raise CannotDo(f"not done after {job.options.limit:g} s")
        if (walk["extents"], walk["data_bytes"]) != (job.disk.n_extents,
                                                     job.disk.data_bytes):
            raise WrongData(f"finds {walk['extents']} extents with "
                            f"{walk['data_bytes']} bytes")
        walks_ms.append(walk["ms"])
    return statistics.median(walks_ms)


def start_to_first_byte(job):
    """Milliseconds from before the exec of the server until a read returned."""
    starts_ms = []
    for _ in range(job.options.n_starts):
        contender = job.new_contender()
        try:
            starts_ms.append(contender.start(job.disk))
            if len(starts_ms) == 1:
                verify(contender.path, job.disk, job.round_index)
            job.cpu_seconds += contender.cpu_seconds()
            job.peak_rss_mib = max(job.peak_rss_mib, contender.peak_rss_mib())
        finally:
            contender.stop()
    return statistics.median(starts_ms)


@dataclasses.dataclass(frozen=True)
class Row:
    id: str
    title: str
    unit: str
    build: Callable             # makes the disk for the row
    measure: Callable[[Job], float]
    judge: Callable
    group: str                  # neighbours of one group take turns within each round
    more_is_better: bool = True
    pinned: bool = False        # client and server share one CPU
    starts_itself: bool = False
    decoder: str = ""           # the target counts in its speed on one core
    plain_too: bool = True      # raw file and ceiling take part
    writes: bool = False        # each run gets a fresh copy of the disk
    verify_after: Callable | None = None  # compares the written content, after the timing
    missing: Callable = lambda: None      # the reason why this machine cannot run the row, or None
    on_disk: bool = False       # images on a file system of a disk, caches dropped before
    mount_options: str = ""     # for qcowfs, which then runs beside the raw file only
    quick: bool = True          # part of the smoke run


ROWS = (
    Row("seq-direct", "sequential read 1 MiB O_DIRECT", "MB/s",
        images.build_plain, sequential_direct, share_of_ceiling(0.85), group="small"),
    Row("seq-cold", "sequential buffered read, cold", "MB/s",
        images.build_plain, sequential_cold, share_of_ceiling(0.90), group="small"),
    Row("seq-hot", "the same again by a new open (hot)", "MB/s",
        images.build_plain, sequential_hot, share_of_ceiling(0.95), group="small"),
    Row("rand-qd1", "random 4 KiB O_DIRECT QD1, client and server on one CPU", "IOPS",
        images.build_plain, random_qd1, share_of_ceiling(0.85), pinned=True,
        group="small"),
    Row("rand-qd16", "random 4 KiB O_DIRECT libaio QD16", "IOPS",
        images.build_plain, random_qd16, share_of_ceiling(0.85), group="small"),
    Row("rand-1tib", "random 4 KiB QD16 over 1 TiB (L2 tables 128 MiB)", "IOPS",
        images.build_large, random_qd16,
        share_of_row(0.60, "rand-qd16", "small-image figure"), group="small"),
    Row("rand-4jobs", "random 4 KiB O_DIRECT, 4 threads", "IOPS",
        images.build_plain, random_4_threads, share_of_ceiling(0.85), group="small"),
    Row("start", "start to first byte", "ms",
        images.build_plain, start_to_first_byte, at_most(3), more_is_better=False,
        starts_itself=True, group="small"),
    Row("start-16t", "start to first byte, 16 TiB", "ms",
        images.build_huge, start_to_first_byte, at_most(3), more_is_better=False,
        starts_itself=True, group="huge"),
    Row("zlib-seq", "zlib image, sequential O_DIRECT", "MB/s",
        images.build_zlib, sequential_direct, share_of_decoder(0.8),
        decoder="libdeflate", plain_too=False, group="zlib"),
    Row("zlib-rand", "zlib image, random 4 KiB QD4", "IOPS",
        images.build_zlib, random_qd4, times_best_peer(5), plain_too=False,
        group="zlib"),
    Row("zlib-4readers", "zlib image, 4 sequential readers O_DIRECT", "MB/s",
        images.build_zlib, sequential_4_readers, share_of_decoder(0.8),
        decoder="libdeflate", plain_too=False, group="zlib"),
    Row("zstd-seq", "zstd image, sequential O_DIRECT", "MB/s",
        images.build_zstd, sequential_direct, share_of_decoder(0.8), decoder="zstd",
        plain_too=False, group="zstd"),
    Row("zstd-4readers", "zstd image, 4 sequential readers O_DIRECT", "MB/s",
        images.build_zstd, sequential_4_readers, share_of_decoder(0.8), decoder="zstd",
        plain_too=False, group="zstd", quick=False),
    Row("sparse-cp", "cp --sparse=always, 1 TiB with 1 GiB in 2048 extents", "s",
        images.build_sparse, sparse_copy, times_ceiling(1), more_is_better=False,
        group="sparse"),
    Row("sparse-walk", "SEEK_DATA/SEEK_HOLE walk of it", "ms",
        images.build_sparse, seek_walk, times_ceiling(1.2), more_is_better=False,
        group="sparse"),
    Row("chain-1", "random 4 KiB QD16, backing chain of 1", "IOPS",
        images.build_chain_1, random_qd16, no_target, group="chain"),
    Row("chain-16", "random 4 KiB QD16, backing chain of 16", "IOPS",
        images.build_chain_16, random_qd16, share_of_row(0.90, "chain-1", "depth 1"),
        group="chain"),
    Row("chain-64", "random 4 KiB QD16, backing chain of 64", "IOPS",
        images.build_chain_64, random_qd16, share_of_row(0.90, "chain-1", "depth 1"),
        group="chain"),
    Row("write-seq-new", "sequential write 1 MiB O_DIRECT, empty image", "MB/s",
        images.build_empty, writes.sequential_once, share_of_ceiling(0.80),
        group="write", writes=True, verify_after=writes.verify_written),
    Row("write-seq", "sequential overwrite 1 MiB O_DIRECT", "MB/s",
        images.build_plain, writes.sequential, share_of_ceiling(0.85),
        group="write", writes=True, verify_after=writes.verify_written),
    Row("write-qd16", "random overwrite 4 KiB O_DIRECT QD16", "IOPS",
        images.build_plain, writes.random_qd16, share_of_ceiling(0.85),
        group="write", writes=True, verify_after=writes.verify_written),
    Row("write-bitmap", "the same with a dirty bitmap", "IOPS",
        images.build_bitmap, writes.random_qd16,
        share_of_row(0.98, "write-qd16", "figure without one"),
        group="write", writes=True, verify_after=writes.verify_written),
    Row("write-bitmaps", "the same with eight dirty bitmaps", "IOPS",
        images.build_bitmaps, writes.random_qd16,
        share_of_row(0.95, "write-qd16", "figure without one"),
        group="write", writes=True, verify_after=writes.verify_written, quick=False),
    Row("write-new", "random write 4 KiB O_DIRECT QD16, empty image", "IOPS",
        images.build_empty, writes.allocating_qd16, no_target,
        group="write", writes=True, verify_after=writes.verify_written),
    Row("write-cow", "random write 4 KiB O_DIRECT QD16, empty overlay (COW)", "IOPS",
        images.build_overlay, writes.allocating_qd16, times_best_peer(4),
        group="write-cow", writes=True, verify_after=writes.verify_written),
    Row("write-cow-fsync", "the same QD1 with fsync each 32", "IOPS",
        images.build_overlay, writes.allocating_qd1_fsync, times_best_peer(4),
        group="write-cow", writes=True, verify_after=writes.verify_written),
    Row("write-buffered", "buffered 4 KiB sequential writes, empty image", "MB/s",
        images.build_empty, writes.buffered, share_of_ceiling(0.85),
        group="write-buffered", writes=True, verify_after=writes.verify_written),
    Row("luks-seq", "LUKS: sequential read 1 MiB O_DIRECT", "MB/s",
        images.build_luks, sequential_direct, times_best_peer(2), group="luks", quick=False),
    Row("luks-rand", "LUKS: random 4 KiB O_DIRECT libaio QD16", "IOPS",
        images.build_luks, random_qd16, share_of_row(0.8, "rand-qd16", "figure of a plain image"),
        group="luks", quick=False),
    Row("luks-write-seq", "LUKS: sequential overwrite 1 MiB O_DIRECT", "MB/s",
        images.build_luks, writes.sequential, times_best_peer(2),
        group="luks-write", writes=True, verify_after=writes.verify_written, quick=False),
    Row("luks-write", "LUKS: random overwrite 4 KiB O_DIRECT QD16", "IOPS",
        images.build_luks, writes.random_qd16,
        share_of_row(0.8, "write-qd16", "figure of a plain image"),
        group="luks-write", writes=True, verify_after=writes.verify_written, quick=False),
    Row("qed-rand", "QED: random 4 KiB O_DIRECT libaio QD16", "IOPS",
        images.build_plain_qed, random_qd16, share_of_ceiling(0.85), group="qed"),
    Row("qed-write", "QED: random overwrite 4 KiB O_DIRECT QD16", "IOPS",
        images.build_plain_qed, writes.random_qd16, share_of_ceiling(0.85),
        group="qed-write", writes=True, verify_after=writes.verify_written),
    Row("qed-write-new", "QED: random write 4 KiB O_DIRECT QD16, empty image", "IOPS",
        images.build_empty_qed, writes.allocating_qd16, no_target,
        group="qed-write", writes=True, verify_after=writes.verify_written),
    Row("untar", "tar -x of 4000 small files, ext4 on a loop device", "s",
        images.build_ext4, untar.extract, no_target, more_is_better=False,
        group="untar", writes=True, verify_after=untar.compare,
        missing=loop_mount.missing),
    Row("disk-cow-qd1", "disk: random write 4 KiB QD1, empty overlay (COW)", "IOPS",
        images.build_overlay, writes.allocating_qd1, times_best_peer(1.5),
        group="disk-cow", on_disk=True, writes=True, verify_after=writes.verify_written),
    Row("disk-cow-qd16", "disk: the same QD16", "IOPS",
        images.build_overlay, writes.allocating_qd16, times_best_peer(1.5),
        group="disk-cow", on_disk=True, writes=True, verify_after=writes.verify_written,
        quick=False),
    Row("disk-cow-fsync", "disk: the same QD1 with fsync each 32", "IOPS",
        images.build_overlay, writes.allocating_qd1_fsync, times_best_peer(1.5),
        group="disk-cow", on_disk=True, writes=True, verify_after=writes.verify_written,
        quick=False),
    Row("disk-cow-64k", "disk: random write 64 KiB QD4, empty overlay (COW)", "MB/s",
        images.build_overlay, writes.clusters_qd4, times_best_peer(1.5),
        group="disk-cow", on_disk=True, writes=True, verify_after=writes.verify_written,
        quick=False),
    Row("disk-loop", "disk: loop device over an empty overlay: mkfs.ext4, tar -x of 4000 "
        "small files, sync", "s", images.build_overlay_for_ext4, untar.make_and_extract,
        times_best_peer(1.3), more_is_better=False, group="disk-loop", on_disk=True,
        writes=True, verify_after=untar.compare, missing=loop_mount.missing),
    Row("disk-db", "disk: random overwrite 4 KiB QD1, fdatasync each", "IOPS",
        images.build_plain, writes.database, no_target, group="disk-plain", on_disk=True,
        writes=True, verify_after=writes.verify_written),
    Row("disk-new", "disk: random write 4 KiB QD16, empty image", "IOPS",
        images.build_empty, writes.allocating_qd16, no_target, group="disk-plain",
        on_disk=True, writes=True, verify_after=writes.verify_written, quick=False),
    Row("disk-qd16", "disk: random read 4 KiB QD16, cold", "IOPS",
        images.build_plain, cold_qd16, share_of_raw(0.7), group="disk-plain",
        on_disk=True),
    Row("disk-qd16-16t", "disk: the same with threads=16", "IOPS",
        images.build_plain, cold_qd16, share_of_raw(0.7), group="disk-plain",
        on_disk=True, mount_options="threads=16", quick=False),
    Row("disk-qd64", "disk: random read 4 KiB QD64, cold", "IOPS",
        images.build_plain, cold_qd64, share_of_raw(0.7), group="disk-plain",
        on_disk=True, quick=False),
    Row("disk-qd64-16t", "disk: the same with threads=16", "IOPS",
        images.build_plain, cold_qd64, share_of_raw(0.7), group="disk-plain",
        on_disk=True, mount_options="threads=16", quick=False),
    Row("disk-chain-1", "disk: random read 4 KiB QD16, cold, backing chain of 1", "IOPS",
        images.build_chain_1, cold_qd16, no_target, group="disk-chain", on_disk=True,
        quick=False),
    Row("disk-chain-16", "disk: the same, backing chain of 16", "IOPS",
        images.build_chain_16, cold_qd16, share_of_row(0.8, "disk-chain-1", "depth 1"),
        group="disk-chain", on_disk=True, quick=False),
)
