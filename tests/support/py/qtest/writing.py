# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes to files of a mount in all ways open to a program, and checks the image by QEMU
afterwards."""

import contextlib
import ctypes
import mmap
import os

from . import pattern, procs, qemu
from .checks import drop_cached, read_all

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = (
    1, 2, 8, 16, 32, 64)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    """fallocate(2), which Python offers without its modes."""
    if _libc.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def pwrite(fd, data, offset):
    """One pwrite, which must write everything."""
    n = os.pwrite(fd, data, offset)
    assert n == len(data), f"pwrite of {len(data)} bytes at {offset} took {n}"


def pwrite_direct(fd, data, offset):
    """As pwrite, from an aligned buffer, for descriptors with O_DIRECT."""
    buffer = mmap.mmap(-1, max(len(data), 1))
    try:
        buffer[:len(data)] = data
        with memoryview(buffer) as view, view[:len(data)] as part:
            n = os.pwritev(fd, [part], offset)
        assert n == len(data), f"direct write of {len(data)} bytes at {offset} took {n}"
    finally:
        buffer.close()


def write_mapped(fd, data, offset):
    """Through a shared mapping, and on to the server by msync."""
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(fd, offset + len(data) - start, offset=start) as shared:
        shared[offset - start:offset - start + len(data)] = data
        shared.flush()


def read_mapped(path):
    with opened(path, os.O_RDONLY) as fd:
        size = os.fstat(fd).st_size
        if size == 0:
            return b""
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as shared:
            return shared[:]


def assert_reads(path, wanted, where="the disk"):
    """All ways to read agree: the kernel's pages, a mapping, the server, and reread pages."""
    wanted = bytes(wanted)
    pattern.assert_same(read_all(path), wanted, f"{where}, buffered")
    pattern.assert_same(read_mapped(path), wanted, f"{where}, mapped")
    pattern.assert_same(read_all(path, os.O_DIRECT), wanted, f"{where}, direct")
    drop_cached(path)
    pattern.assert_same(read_all(path), wanted, f"{where}, after its pages were dropped")


def check(image, image_format="qcow2", leaks_allowed=False):
    """qemu-img check: no error, and no leak unless a process was killed."""
    # There, since qemu-img takes the name of a data file as relative to its current directory.
    result = qemu.img("check", "-f", image_format, image.name, cwd=image.parent, check=False,
                      limit_s=120)
    assert result.status in ((0, 3) if leaks_allowed else (0,)), result


def assert_content(image, wanted, scratch, image_format=None):
    """Compares QEMU's read of the image."""
    out = qemu.to_raw(image, scratch, image_format=image_format)
    try:
        pattern.assert_same(out.read_bytes(), bytes(wanted), f"{image} read by QEMU")
    finally:
        out.unlink()


class Disk:
    """A disk and its expected content. Sizes are the disk's: multiples of a sector."""

    def __init__(self, fd, content):
        self.fd, self.content = fd, bytearray(content)

    def write(self, data, offset):
        pwrite(self.fd, data, offset)
        end = offset + len(data)
        if end > len(self.content):
            self.content.extend(bytes(end - len(self.content)))
        self.content[offset:end] = data

    def zero(self, mode, offset, length):
        fallocate(self.fd, mode | KEEP_SIZE, offset, length)
        end = min(offset + length, len(self.content))
        if offset < end:
            self.content[offset:end] = bytes(end - offset)

    def resize(self, size):
        os.ftruncate(self.fd, size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def change(self, rng, largest=200_000):
        """One random change."""
        size = len(self.content)
        offset = rng.randrange(size)
        length = min(rng.choice([1, 511, 512, 4096, 65536, rng.randrange(1, largest)]), size - offset)
        kind = rng.randrange(8)
        if kind < 5:
            self.write(rng.randbytes(length), offset)
        elif kind == 5:
            self.zero(PUNCH_HOLE, offset, length)
        elif kind == 6:
            self.zero(ZERO_RANGE, offset, length)
        else:
            os.fsync(self.fd)


@contextlib.contextmanager
def small_tmpfs(directory, size):
    """A separate tmpfs, so that it can be full. For root."""
    directory.mkdir()
    procs.run("mount", "-t", "tmpfs", "-o", f"size={size}", "qcowfs-test", directory)
    try:
        yield directory
    finally:
        procs.run("umount", directory)


def allocated_bytes(path):
    return os.stat(path).st_blocks * 512
