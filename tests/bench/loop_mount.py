# SPDX-License-Identifier: GPL-2.0-or-later
"""An ext4 in a file, mounted over a loop device, and its cleaning up."""

import contextlib
import os
import shutil
import subprocess

import interrupts
from contenders import CannotDo

# Nothing is left for the kernel to do in the background.
MKFS_EXT4 = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0")

_LOOP_CONTROL = "/dev/loop-control"
_attached = []  # of LoopMount: to be undone


def missing():
    """The reason why this machine cannot do it, or None."""
    if os.geteuid() != 0:
        return "loop devices and mounts need root"
    for program in ("losetup", "mkfs.ext4", "mount", "umount", "tar"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if not os.path.exists(_LOOP_CONTROL):
        return "there are no loop devices"
    probe = run("losetup", "--find")
    return None if probe.returncode == 0 else f"losetup: {probe.stderr.strip()}"


def run(*command, timeout=None):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)


def last_words(result):
    lines = (result.stdout + result.stderr).strip().splitlines()
    return lines[-1].replace("|", "/") if lines else f"exit code {result.returncode}"


def must(*command):
    result = run(*command)
    if result.returncode != 0:
        raise CannotDo(f"{command[0]}: {last_words(result)}")
    return result.stdout.strip()


class LoopMount:
    """A file system in a file, mounted over a loop device; direct: bypasses the page cache of the
    file; make: creates it first."""

    def __init__(self, path, mountpoint, *, direct=False, make=False):
        self.path = path
        self.direct = direct
        self.make = make
        self.mountpoint = mountpoint
        self.device = None
        self.is_mounted = False

    def __enter__(self):
        _attached.append(self)
        try:
            os.mkdir(self.mountpoint)
            with interrupts.held():
                self.device = must("losetup", "--find", "--show",
                                   *["--direct-io=on"] * self.direct, self.path)
            if self.make:
                must(*MKFS_EXT4, self.device)
            with interrupts.held():
                must("mount", "-t", "ext4", self.device, self.mountpoint)
                self.is_mounted = True
        except BaseException:
            self.undo()
            raise
        return self

    def __exit__(self, *_):
        self.undo()

    def sync(self):
        """Returns when everything is on stable storage."""
        must("sync", "--file-system", self.mountpoint)

    def unmount(self):
        """Returns when everything has reached the file."""
        with interrupts.held():
            must("umount", self.mountpoint)
            self.is_mounted = False

    def undo(self):
        """Unmounts and detaches what is mounted and attached."""
        with interrupts.held():
            if self.is_mounted and run("umount", self.mountpoint).returncode != 0:
                run("umount", "--lazy", self.mountpoint)
            self.is_mounted = False
            if self.device:
                run("losetup", "--detach", self.device)
                self.device = None
            with contextlib.suppress(OSError):
                os.rmdir(self.mountpoint)
            if self in _attached:
                _attached.remove(self)


def clean_up(*, but=None):
    """Undoes the leftovers of an interruption, except for `but`."""
    for mount in reversed(_attached):
        if mount is not but:
            mount.undo()
