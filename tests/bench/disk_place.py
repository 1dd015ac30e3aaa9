# SPDX-License-Identifier: GPL-2.0-or-later
"""The place of the images for rows on a disk, and how they become cold."""

import os
import shutil
import tempfile

import loop_mount
from contenders import CannotDo

_LOOP_FILE_DIR = "/var/tmp"  # usually on a disk, while /tmp may be in memory


class DiskPlace:
    """A directory on a real file system: in a given one, or in an ext4 on a loop file."""

    def __init__(self, given, scale):
        self._scale = scale
        self._given = given
        self._private = None   # our own, in the given directory or in that of the loop file
        self.mount = None      # of the loop file
        self.directory = None  # for the images
        self.facts = []

    def missing(self):
        """The reason why there is no such place, or None."""
        if not self._given and (reason := loop_mount.missing()):
            return f"{reason} (--disk names a directory instead)"
        parent = self._given or _LOOP_FILE_DIR
        if shutil.disk_usage(parent).free < self._scale.disk_free_bytes:
            return f"{parent} has less than {self._scale.disk_free_bytes >> 20} MiB free"
        return None

    def prepare(self):
        """Makes the directory. Raises CannotDo."""
        parent = self._given or _LOOP_FILE_DIR
        self._private = tempfile.mkdtemp(prefix="qcowfs-bench-", dir=parent)
        if self._given:
            self.directory = self._private
            kind = loop_mount.must("findmnt", "--noheadings", "--output=FSTYPE",
                                   "--target", parent)
            where = f"{kind} of --disk"
        else:
            loop_file = os.path.join(self._private, "ext4")
            with open(loop_file, "wb") as file:
                file.truncate(self._scale.disk_free_bytes)
            mountpoint = os.path.join(self._private, "mnt")
            try:
                self.mount = loop_mount.LoopMount(loop_file, mountpoint, direct=True,
                                                   make=True).__enter__()
            except CannotDo as error:
                raise CannotDo(f"no ext4 on a loop file in {parent}: {error}") from None
            self.directory = mountpoint
            where = f"an ext4 on a loop file in {parent}, past its page cache"
        self.facts.append(f"rows on a disk: {where}")

    def drop_caches(self):
        """Drops the images' pages from the page cache. Unlike the kernel's switch for all caches,
        this needs no root and slows down no other program."""
        loop_mount.must("sync", "--file-system", self.directory)
        for parent, _, names in os.walk(self.directory):
            for name in names:
                with open(os.path.join(parent, name), "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def clean_up(self):
        """Removes everything; it is not in use any more."""
        if self.mount:
            self.mount.undo()
        if self._private:
            shutil.rmtree(self._private, ignore_errors=True)
