# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows that write with fio, and the verification of their writes.

fio writes the same block everywhere and, until it has been everywhere, never twice to one place:
so the number of these blocks must equal fio's number of writes, and the others must be as
before."""

import random

import images
from clients import MB, all_blocks, fio, for_seconds, warm_memory
from content import BLOCK_BYTES
from contenders import WrongData

_PATTERN = "71636f7766732d77"  # of 8 bytes, as hexadecimal digits; no zeros
WRITTEN_BLOCK = bytes.fromhex(_PATTERN) * (BLOCK_BYTES * 2 // len(_PATTERN))
_N_UNTOUCHED_SAMPLES = 200
_FSYNC_EACH = 32  # writes
_PATIENCE = 8     # times --seconds, for a fixed amount of work


def _write(job, rw, *, more, **how):
    """Runs fio; returns its figures of writing."""
    # The image's need of memory on its first write.
    warm_memory(job.disk.size_bytes)
    figures = fio(job, rw, more=[f"--size={job.disk.size_bytes}", "--fallocate=none",
                                 f"--buffer_pattern=0x{_PATTERN}",
                                 "--scramble_buffers=0", *more], **how)
    job.n_written_blocks = figures["io_bytes"] // BLOCK_BYTES
    return figures


def _to_each_cluster(disk):
    """Options of fio: one write of 4 KiB per cluster of the disk, so that most of them meet a new
    cluster. More would be overwrites."""
    return [f"--io_size={disk.size_bytes // images.CLUSTER_BLOCKS}"]


def _at_most(seconds):
    """Options of fio: until the time is over, or all is done."""
    return [f"--runtime={int(seconds * 1000)}ms"]


def _allocating(job):
    return [*_to_each_cluster(job.disk), *_at_most(_PATIENCE * job.options.seconds)]


# -- measurements


def sequential_once(job):
    """Through the whole disk."""
    return _write(job, "write", block="1M", more=[])["bw_bytes"] / MB


def sequential(job):
    return _write(job, "write", block="1M", more=for_seconds(job))["bw_bytes"] / MB


def random_qd16(job):
    return _write(job, "randwrite", block="4k", engine="libaio", depth=16,
                  more=for_seconds(job))["iops"]


def allocating_qd16(job):
    return _write(job, "randwrite", block="4k", engine="libaio", depth=16,
                  more=_allocating(job))["iops"]


def allocating_qd1(job):
    return _write(job, "randwrite", block="4k", more=_allocating(job))["iops"]


def allocating_qd1_fsync(job):
    return _write(job, "randwrite", block="4k",
                  more=[f"--fsync={_FSYNC_EACH}", *_allocating(job)])["iops"]


def clusters_qd4(job):
    return _write(job, "randwrite", block=str(images.CLUSTER_BYTES), engine="libaio",
                  depth=4,
                  more=_at_most(_PATIENCE * job.options.seconds))["bw_bytes"] / MB


def database(job):
    return _write(job, "randwrite", block="4k",
                  more=["--fdatasync=1", *for_seconds(job)])["iops"]


def buffered(job):
    """From the start of the disk, for some seconds or up to its end."""
    return _write(job, "write", block="4k", direct=False,
                  more=_at_most(job.options.seconds))["bw_bytes"] / MB


# -- verification


def verify_written(job):
    """Compares the disk with its former content and the writes."""
    rng = random.Random(job.round_index)
    n_blocks = job.disk.size_bytes // BLOCK_BYTES
    n_expected = min(job.n_written_blocks, n_blocks)
    share_of_samples = _N_UNTOUCHED_SAMPLES / n_blocks
    n_found = 0
    for block_index, block in all_blocks(job.contender.path, job.disk):
        if block == WRITTEN_BLOCK:
            n_found += 1
        elif rng.random() < share_of_samples and block != job.disk.block(block_index):
            raise WrongData(f"wrong data at {block_index * BLOCK_BYTES} after writing")
    if n_found != n_expected:
        raise WrongData(f"{n_found} blocks found of {n_expected} written")
