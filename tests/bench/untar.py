# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows that extract a source tree into ext4, on a loop device over the served file."""

import subprocess
import time

from contenders import CannotDo, WrongData
from loop_mount import LoopMount, last_words, run


def _extract_to(mount, job):
    try:
        result = run("tar", "-xf", job.disk.archive, "-C", mount.mountpoint,
                     timeout=job.options.limit)
    except subprocess.TimeoutExpired:
        raise CannotDo(f"not done after {job.options.limit:g} s") from None
    if result.returncode != 0:
        raise CannotDo(f"tar: {last_words(result)}")


def extract(job):
    """Seconds of tar and umount, after which the server has everything."""
    with LoopMount(job.contender.path, job.scratch) as mount:
        start = time.perf_counter()
        _extract_to(mount, job)
        mount.unmount()
        return time.perf_counter() - start


def make_and_extract(job):
    """Seconds of mkfs.ext4, tar and sync, after which everything is on the disk."""
    start = time.perf_counter()
    with LoopMount(job.contender.path, job.scratch, make=True) as mount:
        _extract_to(mount, job)
        mount.sync()
        return time.perf_counter() - start


def compare(job):
    """Compares the extracted files, as served, with the archive."""
    with LoopMount(job.contender.path, job.scratch, direct=True) as mount:
        result = run("tar", "--compare", "-f", job.disk.archive, "-C", mount.mountpoint)
    if result.returncode != 0:
        raise WrongData(f"an extracted file differs: {last_words(result)}")
