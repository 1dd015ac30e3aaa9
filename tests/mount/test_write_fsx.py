# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on one disk through every interface at once, each read compared with a
model: the kernel's pages, mappings and the server must never disagree."""

import contextlib
import mmap
import os

import pytest

from qtest import env, pattern, qemu, real_disk
from qtest.mount import Mount
from qtest.writing import (KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, Disk, assert_content, assert_reads,
                           check, fallocate, opened, pwrite_direct, write_mapped)

MIB = 1 << 20
LARGEST_DISK = 2 * MIB


class Fsx:
    def __init__(self, path, content, rng, stack):
        self._path, self._rng = path, rng
        self._buffered = stack.enter_context(opened(path))
        self._direct = stack.enter_context(opened(path, os.O_RDWR | os.O_DIRECT))
        self.disk = Disk(self._buffered, content)

    def _range(self, align=1, limit=None):
        size = len(self.disk.content) if limit is None else limit
        start = self._rng.randrange(size) // align * align
        length = min(self._rng.choice([1, 512, 4096, 65536, self._rng.randrange(1, 150_000)]),
                     size - start)
        return start, max(align, length // align * align)

    def _note(self, start, data):
        content = self.disk.content
        content.extend(bytes(max(0, start + len(data) - len(content))))
        content[start:start + len(data)] = data

    def write(self):
        start, length = self._range()
        self.disk.write(self._rng.randbytes(length), start)

    def write_direct(self):
        start, length = self._range(512)
        data = self._rng.randbytes(length)
        pwrite_direct(self._direct, data, start)
        self._note(start, data)

    def write_mapped(self):
        start, length = self._range()
        data = self._rng.randbytes(length)
        write_mapped(self._buffered, data, start)
        self._note(start, data)

    def extend(self):
        start, length = self._range(512, LARGEST_DISK)
        self.disk.write(self._rng.randbytes(length), start)

    def truncate(self):
        self.disk.resize(self._rng.randrange(1, LARGEST_DISK // 512) * 512)

    def punch(self):
        self.disk.zero(PUNCH_HOLE, *self._range())

    def zero(self):
        self.disk.zero(ZERO_RANGE, *self._range())

    def allocate(self):
        fallocate(self._buffered, KEEP_SIZE, *self._range())

    def fsync(self):
        os.fsync(self._rng.choice([self._buffered, self._direct]))

    def read(self):
        start, length = self._range()
        self._compare(os.pread(self._buffered, length, start), start, "buffered")

    def read_direct(self):
        start, length = self._range(512)
        with mmap.mmap(-1, length) as buffer:
            n = os.preadv(self._direct, [buffer], start)
            assert n == min(length, len(self.disk.content) - start)
            self._compare(buffer[:n], start, "direct")

    def read_mapped(self):
        start, length = self._range()
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        with mmap.mmap(self._buffered, start + length - first, offset=first,
                       prot=mmap.PROT_READ) as shared:
            self._compare(shared[start - first:], start, "mapped")

    def size(self):
        wanted = len(self.disk.content)
        assert os.fstat(self._direct).st_size == wanted
        assert os.lseek(self._buffered, 0, os.SEEK_END) == wanted

    def _compare(self, got, start, how):
        wanted = bytes(self.disk.content[start:start + len(got)])
        pattern.assert_same(got, wanted, f"{how} read", start)

    def run(self, n_steps):
        steps = ([self.write, self.write_direct, self.write_mapped] * 3 +
                 [self.read, self.read_direct, self.read_mapped] * 4 +
                 [self.extend, self.punch, self.zero, self.allocate, self.fsync, self.size] * 2 +
                 [self.truncate])
        done = []
        for _ in range(n_steps):
            step = self._rng.choice(steps)
            done.append(step.__name__)
            try:
                step()
            except BaseException:
                print("the last steps:", done[-30:])
                raise


KINDS = ["raw", "64k", "512", "el2", "chain", "snapshot", "compressed"]
OPTIONS = {"512": "cluster_size=512", "el2": "extended_l2=on,cluster_size=128k",
           "data-file": "data_file=data.raw"}


def make_image(folder, kind):
    """A disk with a MiB of words."""
    path = folder / ("disk.img" if kind == "raw" else "disk.qcow2")
    raw = qemu.make_raw(folder / "base.img", MIB, (0, MIB, "words", 1))
    if kind == "raw":
        raw.rename(path)
    elif kind == "chain":
        qemu.create(path, MIB, "base.img", "raw")
    elif kind == "compressed":
        qemu.img("convert", "-c", "-O", "qcow2", raw, path)
    else:
        qemu.img("convert", "-O", "qcow2", "-o", OPTIONS.get(kind, "compat=1.1"), raw, path,
                 cwd=folder)
    if kind == "snapshot":
        qemu.img("snapshot", "-c", "before", path)
    return path


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind", KINDS)
def test_fsx(kind, tmp_path, mnt, rng):
    folder = tmp_path / "images"
    folder.mkdir()
    work_on(make_image(folder, kind), kind, "rw", tmp_path, mnt, rng)


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind", [*KINDS, "data-file"])
def test_fsx_past_the_page_cache(kind, tmp_path, mnt, rng):
    with real_disk.directory_on_a_disk() as folder:
        work_on(make_image(folder, kind), kind, "rw,direct", tmp_path, mnt, rng)


def work_on(path, kind, options, tmp_path, mnt, rng):
    image_format = "raw" if kind == "raw" else "qcow2"
    content = bytearray(pattern.words(0, MIB, 1))
    n_steps = 300 if env.sanitizer() or "direct" in options else 5000
    with Mount(path, mnt, "-o", options) as mount, contextlib.ExitStack() as stack:
        fsx = Fsx(mount.raw(path), content, rng, stack)
        for _ in range(3):
            fsx.run(n_steps // 3)
            assert_reads(mount.raw(path), fsx.disk.content)
        if kind == "snapshot":
            before = mount.snapshots(path) / "before" / "disk.raw"
            assert before.read_bytes() == pattern.words(0, MIB, 1)
        stack.close()
    if kind != "raw":
        check(path)
    assert_content(path, fsx.disk.content, tmp_path / "out", image_format)
