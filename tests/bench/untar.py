# SPDX-License-Identifier: GPL-2.0-or-later
"""The row that extracts a source tree into ext4, on a loop device over the served file."""

import contextlib
import os
import shutil
import subprocess
import time

import interrupts
from contenders import CannotDo, WrongData

_LOOP_CONTROL = "/dev/loop-control"
_attached = []  # of LoopMount: what is still to be undone


def missing():
    """Why this machine cannot run the row, or None."""
    if os.geteuid() != 0:
        return "loop devices and mounts need root"
    for program in ("losetup", "mkfs.ext4", "mount", "umount", "tar"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if not os.path.exists(_LOOP_CONTROL):
        return "there are no loop devices"
    probe = _run("losetup", "--find")
    return None if probe.returncode == 0 else f"losetup: {probe.stderr.strip()}"


def _run(*command, timeout=None):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)


def _last_words(result):
    lines = (result.stdout + result.stderr).strip().splitlines()
    return lines[-1].replace("|", "/") if lines else f"exit code {result.returncode}"


def _must(*command):
    result = _run(*command)
    if result.returncode != 0:
        raise CannotDo(f"{command[0]}: {_last_words(result)}")
    return result.stdout.strip()


class LoopMount:
    """A file system in a file, mounted over a loop device; direct: past the page cache
    of the file."""

    def __init__(self, path, mountpoint, direct=False):
        self.path = path
        self.direct = direct
        self.mountpoint = mountpoint
        self.device = None
        self.is_mounted = False

    def __enter__(self):
        _attached.append(self)
        try:
            os.mkdir(self.mountpoint)
            with interrupts.held():
                self.device = _must("losetup", "--find", "--show",
                                    *["--direct-io=on"] * self.direct, self.path)
            with interrupts.held():
                _must("mount", "-t", "ext4", self.device, self.mountpoint)
                self.is_mounted = True
        except BaseException:
            self.undo()
            raise
        return self

    def __exit__(self, *_):
        self.undo()

    def unmount(self):
        """Returns when all has reached the file."""
        with interrupts.held():
            _must("umount", self.mountpoint)
            self.is_mounted = False

    def undo(self):
        """Unmounts and detaches what is mounted and attached."""
        with interrupts.held():
            if self.is_mounted and _run("umount", self.mountpoint).returncode != 0:
                _run("umount", "--lazy", self.mountpoint)
            self.is_mounted = False
            if self.device:
                _run("losetup", "--detach", self.device)
                self.device = None
            with contextlib.suppress(OSError):
                os.rmdir(self.mountpoint)
            if self in _attached:
                _attached.remove(self)


def clean_up():
    """Undoes what an interruption has left."""
    for mount in list(_attached):
        mount.undo()


def extract(job):
    """Seconds of tar and umount, after which the server has all of it."""
    with LoopMount(job.contender.path, job.scratch) as mount:
        start = time.perf_counter()
        try:
            result = _run("tar", "-xf", job.disk.archive, "-C", mount.mountpoint,
                          timeout=job.options.limit)
        except subprocess.TimeoutExpired:
            raise CannotDo(f"not done after {job.options.limit:g} s") from None
        if result.returncode != 0:
            raise CannotDo(f"tar: {_last_words(result)}")
        mount.unmount()
        return time.perf_counter() - start


def compare(job):
    """Compares the extracted files, as the server has them, with the archive."""
    with LoopMount(job.contender.path, job.scratch, direct=True) as mount:
        result = _run("tar", "--compare", "-f", job.disk.archive, "-C", mount.mountpoint)
    if result.returncode != 0:
        raise WrongData(f"an extracted file differs: {_last_words(result)}")
