# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of the benchmark: what each reads, how it is timed, what qcowfs must reach.

A row's `measure` gets a Job and returns the value in the row's unit. It raises CannotDo
where the contender cannot do the work, and WrongData where it lies.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable

import images
from content import BLOCK_BYTES
from contenders import CannotDo, WrongData, reading

MB = 1_000_000
_PASS_BYTES = 1 << 20  # how much a buffered reader asks for at once
_N_SAMPLES = 96        # blocks that are verified before a row is timed
_N_WALKS = 3


@dataclasses.dataclass
class Job:
    """One measurement: a contender that serves a disk (but in rows that start it
    themselves), and the options of the run."""
    contender: object
    disk: images.Disk
    options: object
    round_index: int
    scratch: str                # name of a file that the row may write
    new_contender: Callable     # another contender of the same kind, not yet started
    cpu_seconds: float = 0      # of servers that the row itself started and stopped
    peak_rss_mib: float = 0


# -- verification


def _read_block(fd, buffer, block_index):
    n_read = os.preadv(fd, [buffer], block_index * BLOCK_BYTES)
    return buffer[:n_read]


def verify(path, disk, seed, direct=True):
    """Compares random blocks with what the disk must hold. O_DIRECT, so that nothing
    is left in the page cache, unless the caller wants to see just that."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    with reading(), contextlib.ExitStack() as stack:
        fd = os.open(path, flags | (os.O_DIRECT if direct else 0))
        stack.callback(os.close, fd)
        size_bytes = os.fstat(fd).st_size
        if size_bytes != disk.size_bytes:
            raise WrongData(f"size {size_bytes} instead of {disk.size_bytes}")
        buffer = stack.enter_context(mmap.mmap(-1, BLOCK_BYTES))  # aligned
        for block_index in disk.sample_blocks(random.Random(seed), _N_SAMPLES):
            if _read_block(fd, buffer, block_index) != disk.block(block_index):
                raise WrongData(f"wrong data at {block_index * BLOCK_BYTES}")


# -- clients


def _fio(job, rw, *, block, engine="psync", depth=1, n_jobs=1):
    """Runs fio on the disk, returns its figures of reading."""
    command = ["fio", "--name=bench", f"--filename={job.contender.path}", f"--rw={rw}",
               f"--bs={block}", f"--ioengine={engine}", f"--iodepth={depth}",
               f"--numjobs={n_jobs}", "--group_reporting", "--thread", "--direct=1",
               "--readonly", "--norandommap", f"--randseed={job.round_index + 1}",
               "--time_based", f"--runtime={int(job.options.seconds * 1000)}ms",
               "--eta=never", "--output-format=json"]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=job.options.limit)
    except subprocess.TimeoutExpired:
        raise CannotDo(f"no end after {job.options.limit:g} s") from None
    try:
        figures = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]
    except (ValueError, LookupError):
        raise RuntimeError(f"fio: {result.stderr.strip() or result.stdout}") from None
    if result.returncode != 0 or figures["error"] != 0:
        raise CannotDo(f"fio: {os.strerror(figures['error'])}")
    return figures["read"]


def _fio_mb_per_s(job, rw, **how):
    return _fio(job, rw, **how)["bw_bytes"] / MB


def _fio_iops(job, rw, **how):
    return _fio(job, rw, **how)["iops"]


def _warm_memory(n_bytes):
    """Takes memory and gives it back, so that the next who needs it does not wait for
    the host of a virtual machine to provide the pages: the first who asked would."""
    mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE).close()


def _read_through(path):
    """Reads a file from its begin to its end by a new open, returns the bytes read."""
    buffer = memoryview(bytearray(_PASS_BYTES))
    total_bytes = 0
    with reading(), open(path, "rb", buffering=0) as file:
        while n_read := file.readinto(buffer):
            total_bytes += n_read
    return total_bytes


# -- measurements


def sequential_direct(job):
    return _fio_mb_per_s(job, "read", block="1M")


def sequential_cold(job):
    path = job.contender.path
    with reading(), open(path, "rb", buffering=0) as file:
        # The start has read the first block.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    _warm_memory(job.disk.data_bytes)
    start = time.perf_counter()
    total_bytes = _read_through(path)
    elapsed_s = time.perf_counter() - start
    verify(path, job.disk, job.round_index, direct=False)
    return total_bytes / elapsed_s / MB


def sequential_hot(job):
    path = job.contender.path
    _read_through(path)
    total_bytes, elapsed_s = 0, 0.0
    start = time.perf_counter()
    while elapsed_s < job.options.seconds:
        total_bytes += _read_through(path)
        elapsed_s = time.perf_counter() - start
    verify(path, job.disk, job.round_index, direct=False)
    return total_bytes / elapsed_s / MB


def random_qd1(job):
    return _fio_iops(job, "randread", block="4k")


def random_qd4(job):
    return _fio_iops(job, "randread", block="4k", engine="libaio", depth=4)


def random_qd16(job):
    return _fio_iops(job, "randread", block="4k", engine="libaio", depth=16)


def random_4_threads(job):
    return _fio_iops(job, "randread", block="4k", n_jobs=4)


def sparse_copy(job):
    """Seconds of cp, which finds the data with SEEK_DATA and SEEK_HOLE."""
    path = job.contender.path
    with reading(), open(path, "rb", buffering=0) as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == job.disk.size_bytes:
            raise CannotDo("no SEEK_DATA: would read all the holes, for hours")
    _warm_memory(2 * job.disk.data_bytes)  # page cache and copy
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


# -- targets: each gets the results and gives a text and whether it is reached (None:
#    cannot be judged in this run). results.median(row, contender) is None where absent.


def no_target(_results, _row):
    return "", None


def share_of_ceiling(share):
    def judge(results, row):
        ceiling = results.median(row.id, "ceiling")
        return (f"≥ {share * 100:.0f} % of the ceiling",
                results.reaches(row.id, ceiling and ceiling * share))
    return judge


def times_ceiling(factor):
    def judge(results, row):
        ceiling = results.median(row.id, "ceiling")
        text = "≤ the ceiling" if factor == 1 else f"≤ {factor:g} × the ceiling"
        return text, results.reaches(row.id, ceiling and ceiling * factor)
    return judge


def times_best_peer(factor):
    def judge(results, row):
        peer = results.best_peer(row.id)
        return (f"≥ {factor:g} × the best peer",
                results.reaches(row.id, peer and peer * factor))
    return judge


def at_most(limit):
    def judge(results, row):
        return f"≤ {limit:g} {row.unit}", results.reaches(row.id, limit)
    return judge


def share_of_row(share, other_id, words):
    def judge(results, row):
        other = results.median(other_id, "qcowfs")
        return (f"≥ {share * 100:.0f} % of our {words}",
                results.reaches(row.id, other and other * share))
    return judge


def share_of_decoder(share):
    def judge(results, row):
        speed = results.median(row.id, "decoder")
        n_cores = len(os.sched_getaffinity(0))
        goal = speed and n_cores * speed * share
        text = f"≥ {n_cores} cores × {row.decoder}'s {speed or 0:.0f} × {share:g}"
        return (f"{text} = {goal:.0f}" if goal else text), results.reaches(row.id, goal)
    return judge


@dataclasses.dataclass(frozen=True)
class Row:
    id: str
    title: str
    unit: str
    build: Callable             # makes the disk that the row reads
    measure: Callable[[Job], float]
    judge: Callable
    group: str                  # neighbours of one group take turns within each round
    more_is_better: bool = True
    pinned: bool = False        # client and server share one CPU
    starts_itself: bool = False
    decoder: str = ""           # whose speed on one core the target counts in
    plain_too: bool = True      # raw file and ceiling take part


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
        images.build_plain, start_to_first_byte, at_most(6), more_is_better=False,
        starts_itself=True, group="small"),
    Row("start-16t", "start to first byte, 16 TiB", "ms",
        images.build_huge, start_to_first_byte, at_most(6), more_is_better=False,
        starts_itself=True, group="huge"),
    Row("zlib-seq", "zlib image, sequential O_DIRECT", "MB/s",
        images.build_zlib, sequential_direct, share_of_decoder(0.8),
        decoder="libdeflate", plain_too=False, group="zlib"),
    Row("zlib-rand", "zlib image, random 4 KiB QD4", "IOPS",
        images.build_zlib, random_qd4, times_best_peer(5), plain_too=False,
        group="zlib"),
    Row("zstd-seq", "zstd image, sequential O_DIRECT", "MB/s",
        images.build_zstd, sequential_direct, share_of_decoder(0.8), decoder="zstd",
        plain_too=False, group="zstd"),
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
)
