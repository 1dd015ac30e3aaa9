# SPDX-License-Identifier: GPL-2.0-or-later
"""QED images in a mount: read, written in every way, killed, grown, punched, locked; and the
format's limits."""

import errno
import json
import os
import shutil

import pytest
from test_write_kill import SIZE as KILL_SIZE
from test_write_kill import compare, work_until_killed

from qtest import env, pattern, procs, qed, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, mounts_at, refused, unmount
from qtest.qcow2 import Qcow2File
from qtest.qed import NEED_CHECK, QedFile
from qtest.writing import (KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, Disk, allocated_bytes, assert_content,
                           assert_reads, check, fallocate, opened, pwrite, pwrite_direct,
                           write_mapped)

MIB = 1 << 20
SIZE = 4 * MIB
PIECES = [(0, 300_032, "words", 1), (2 * MIB, 65536, "noise", 2)]


def original(size=SIZE):
    content = bytearray(size)
    for offset, length, kind, salt in PIECES:
        content[offset:offset + length] = pattern.KINDS[kind](offset, length, salt)
    return content


@pytest.fixture(params=["plain", "4k", "1M", "chain", "qcow2-base"])
def image(request, tmp_path):
    """disk.qed of some MiB, partly written or above a written file."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / "disk.qed"
    if request.param == "chain":
        qemu.make_raw(folder / "base.img", 3 * MIB, *PIECES)
        return qed.create(path, SIZE, "base.img", "raw")
    if request.param == "qcow2-base":
        qemu.write(qemu.create(folder / "base.qcow2", SIZE), *PIECES)
        return qed.create(path, SIZE, "base.qcow2", "qcow2", cluster_size=4096, table_size=2)
    options = {"4k": {"cluster_size": 4096, "table_size": 2},
               "1M": {"cluster_size": MIB, "table_size": 16}}.get(request.param, {})
    qemu.write(qed.create(path, SIZE, **options), *PIECES)
    return path


def finish(image, content, tmp_path):
    """After the unmount: nothing is leaked, QEMU finds nothing wrong and reads the content."""
    check(image, "qed")
    with QedFile(image) as file:
        file.assert_sound()
        assert file.get("image_size") == len(content)
    assert_content(image, content, tmp_path / "out", "qed")


def expect(number, call, *arguments):
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number, caught.value


# ---- reading ----------------------------------------------------------------------------

def test_read_only(image, mnt):
    with Unchanged(image.parent), Mount(image, mnt) as mount:
        assert_reads(mount.raw(image), original())
        assert os.stat(mount.raw(image)).st_size == SIZE
        assert json.loads(mount.facts("disk", "info.json").read_text())["format"] == "qed"
        expect(errno.EROFS, os.truncate, mount.raw(image), 0)


def test_nobody_writes(image, mnt):
    """A writable mount without a write."""
    with QedFile(image) as file:
        file.set("autoclear", 7)
    with Unchanged(image.parent), Mount(image, mnt, "-o", "rw") as mount:
        assert_reads(mount.raw(image), original())
        with opened(mount.raw(image)) as fd:
            os.fsync(fd)


@pytest.mark.parametrize("option", ["ro", "rw"])
def test_need_check_is_left_alone(option, image, mnt):
    """Reading repairs nothing; an entry outside the file is an error there, not zeros."""
    with QedFile(image) as file:
        file.set("features", file.get("features") | NEED_CHECK)
        table = file.l1_entry(0)
        if table:
            file.set_l2_entry(0, 1 << 62)
    with Unchanged(image.parent), Mount(image, mnt, "-o", option) as mount:
        with opened(mount.raw(image), os.O_RDONLY) as fd:
            if table:
                expect(errno.EIO, os.pread, fd, 512, 0)
            assert os.pread(fd, 65536, 2 * MIB) == original()[2 * MIB:2 * MIB + 65536]
        assert "was not closed properly" in mount.stderr()


def test_need_check_is_repaired_by_the_first_write(tmp_path, mnt):
    image = qed.create(tmp_path / "disk.qed", SIZE)
    qemu.write(image, *PIECES)
    with QedFile(image) as file:
        file.set("features", NEED_CHECK)
        file.set_l2_entry(0, 1 << 62)
    content = original()
    content[:65536] = bytes(65536)      # it was no place in the file
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"new", MIB)
        content[MIB:MIB + 3] = b"new"
        assert_reads(mount.raw(image), content)
        assert "has been repaired" in mount.stderr()
    check(image, "qed", leaks_allowed=True)     # the lost cluster of the entry
    with QedFile(image) as file:
        file.assert_sound(may_leak=True)
        assert file.get("features") == 0
    assert_content(image, content, tmp_path / "out", "qed")


def test_damage_without_need_check(tmp_path, mnt):
    """The sound part is read, and nothing is written: growth could make entries outside the file
    valid."""
    image = qed.create(tmp_path / "disk.qed", SIZE)
    qemu.write(image, *PIECES)
    with QedFile(image) as file:
        file.set_l2_entry(0, file.n_clusters() * file.cluster_size)
    with Unchanged(image), Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            expect(errno.EIO, os.pwrite, fd, b"x", MIB)
            expect(errno.EROFS, os.pwrite, fd, b"x", MIB)
            expect(errno.EIO, os.pread, fd, 512, 0)
            assert os.pread(fd, 512, 65536) == original()[65536:66048]
        assert "run qimg check" in mount.stderr()


def test_cut_file(tmp_path, mnt):
    """The cut part reads as errors, not as zeros."""
    image = qed.create(tmp_path / "disk.qed", SIZE)
    qemu.io(image, "write -P 1 0 64k", "write -P 2 1M 64k")
    with QedFile(image) as file:
        file.truncate(file.l2_entry(MIB) + 4096)
    with Unchanged(image), Mount(image, mnt) as mount:
        with opened(mount.raw(image), os.O_RDONLY) as fd:
            assert os.pread(fd, 65536, 0) == b"\1" * 65536
            assert os.pread(fd, 65536, 2 * MIB) == bytes(65536)
            expect(errno.EIO, os.pread, fd, 512, MIB)


@pytest.mark.parametrize("bit", [3, 40, 63])
def test_unknown_feature(bit, tmp_path, mnt):
    image = qed.create(tmp_path / "disk.qed", MIB)
    with QedFile(image) as file:
        file.set("features", 1 << bit)
    with Unchanged(image):
        refused(image, mnt, file=image, contains=["features", f"bit {bit}"])


def test_below_qcow2(tmp_path, mnt):
    """As the backing file of a qcow2 image, with its format recorded and without."""
    base = qed.create(tmp_path / "base.qed", SIZE)
    qemu.write(base, *PIECES)
    top = qemu.create(tmp_path / "top.qcow2", SIZE, "base.qed", "qed")
    content = original()
    for recorded in (b"qed", None):
        with Qcow2File(top) as file:
            file.set_backing(b"base.qed", recorded)
        with Unchanged(base):
            with Mount(top, mnt, "-o", "rw") as mount:
                assert_reads(mount.raw(top), content)
                with opened(mount.raw(top)) as fd:
                    pwrite(fd, b"top", 1000)
                content[1000:1003] = b"top"
    assert_content(top, content, tmp_path / "out")


# ---- writing ----------------------------------------------------------------------------

@pytest.mark.parametrize("way", ["buffered", "direct", "mapped"])
def test_write(way, image, mnt, tmp_path, rng):
    content = original()
    with QedFile(image) as file:
        file.set("compat", 1 << 63 | 5)
        file.set("autoclear", 1 << 40)
        before = file.read(0, file.cluster_size)
    with Mount(image, mnt, "-o", "rw") as mount:
        flags = os.O_RDWR | (os.O_DIRECT if way == "direct" else 0)
        with opened(mount.raw(image), flags) as fd:
            for start, length in ((0, 512), (4096, 70_144), (MIB - 512, 1024), (MIB, MIB),
                                  (3 * MIB + 512, 65536), (SIZE - 4096, 4096)):
                data = rng.randbytes(length)
                {"buffered": pwrite, "direct": pwrite_direct, "mapped": write_mapped}[way](
                    fd, data, start)
                content[start:start + length] = data
                assert_reads(mount.raw(image), content, f"after {length} bytes at {start}")
    finish(image, content, tmp_path)
    with QedFile(image) as file:
        assert file.read(0, file.cluster_size) == before[:32] + bytes(8) + before[40:]


def test_random_changes(image, mnt, tmp_path, rng):
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            disk = Disk(fd, original())
            for _ in range(4):
                for _ in range(40):
                    disk.change(rng)
                assert_reads(mount.raw(image), disk.content)
    finish(image, disk.content, tmp_path)


@pytest.mark.parametrize("kept", [False, True])
def test_overlay(kept, image, mnt, tmp_path, rng):
    """cow and cow=FILE leave the image as it is."""
    overlay = tmp_path / "overlay.qcow2"
    with Unchanged(image.parent):
        with Mount(image, mnt, "-o", f"cow={overlay}" if kept else "cow") as mount:
            with opened(mount.raw(image)) as fd:
                disk = Disk(fd, original())
                for _ in range(60):
                    disk.change(rng)
            assert_reads(mount.raw(image), disk.content)
    if kept:
        check(overlay)
        assert_content(overlay, disk.content, tmp_path / "out")


def test_fsync_makes_it_whole(image, mnt, tmp_path):
    """After an fsync a copy of the file is the disk; NEED_CHECK marks it as being written to."""
    content = original()
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            data = pattern.noise(3 * MIB, 200_000, 4)
            pwrite(fd, data, 3 * MIB)
            os.fsync(fd)
        content[3 * MIB:3 * MIB + len(data)] = data
        copy = tmp_path / "images" / "copy.qed"
        shutil.copy(image, copy)
    with QedFile(copy) as file:
        assert file.get("features") & NEED_CHECK
        file.assert_sound(may_leak=True)
    assert_content(copy, content, tmp_path / "out", "qed")
    finish(image, content, tmp_path)


@pytest.mark.limit(240)
@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096, "table_size": 2}, {"backing": True}],
                         ids=["64k", "4k", "backing"])
def test_kill(options, tmp_path, mnt, rng):
    """kill -9: leaks at worst, and every acknowledged byte is there."""
    options = dict(options)
    folder = tmp_path / "images"
    folder.mkdir()
    image = folder / "disk.qed"
    content = bytearray(KILL_SIZE)
    if options.pop("backing", None):
        qemu.make_raw(folder / "base.img", KILL_SIZE, (0, 8 * MIB, "words", 1))
        content[:8 * MIB] = pattern.words(0, 8 * MIB, 1)
        qed.create(image, KILL_SIZE, "base.img", "raw", **options)
    else:
        qed.create(image, KILL_SIZE, **options)
    try:
        for _ in range(3 if env.sanitizer() else 5):
            with Mount(image, mnt, "-o", "rw") as mount:
                pending = work_until_killed(mount, image, content, rng, 4)
            with QedFile(image) as file:
                file.assert_sound(may_leak=True)
            # A copy, since QEMU repairs at open.
            copy = shutil.copy(image, folder / "copy.qed")
            check(copy, "qed", leaks_allowed=True)
            compare(copy, content, pending, tmp_path / "out", "qed")
    finally:
        while mounts_at(mnt):
            unmount(mnt, lazy=True)
    # The next writer cuts off the leftovers of the last one at the end.
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            pwrite(fd, bytes(content[:512]), 0)
    check(image, "qed", leaks_allowed=True)
    with QedFile(image) as file:
        assert not file.get("features") & NEED_CHECK
    assert_content(image, content, tmp_path / "out", "qed")


# ---- size, space ------------------------------------------------------------------------

def test_growth(image, mnt, tmp_path, rng):
    content = original()
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            for start, length in ((SIZE - 512, 1024), (SIZE + 1024, 4096), (9 * MIB, 70_144)):
                data = rng.randbytes(length)
                pwrite(fd, data, start)
                content.extend(bytes(start + length - len(content)))
                content[start:] = data
                assert_reads(mount.raw(image), content, f"after {length} bytes at {start}")
            os.ftruncate(fd, 12 * MIB)
            content.extend(bytes(12 * MIB - len(content)))
    finish(image, content, tmp_path)


def test_shrinking_fails(image, mnt, tmp_path):
    """The format does not support it, and the error says so; the disk stays as it is."""
    content = original()
    with Mount(image, mnt, "-o", "rw") as mount:
        for size in (0, MIB, SIZE - 512):
            expect(errno.EOPNOTSUPP, os.truncate, mount.raw(image), size)
        result = procs.run("truncate", "-s", "1M", mount.raw(image), check=False)
        assert result.status == 1 and "not supported" in result.errors
        expect(errno.EOPNOTSUPP, os.open, mount.raw(image), os.O_WRONLY | os.O_TRUNC)
        assert os.stat(mount.raw(image)).st_size == SIZE
        os.truncate(mount.raw(image), SIZE)
        assert_reads(mount.raw(image), content)
    finish(image, content, tmp_path)


@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"cluster_size": "1M"}],
                         ids=["64k", "4k", "1M"])
def test_punched_space_goes_back_to_the_host(options, tmp_path, mnt):
    size = 12 * MIB     # in files of more than 4096 clusters QEMU counts one as leaked
    path = qed.create(tmp_path / "disk.qed", size, **options)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            for start in range(0, size, MIB):
                pwrite(fd, b"x" * MIB, start)
            full = allocated_bytes(path)
            for start in (0, size // 2):
                fallocate(fd, PUNCH_HOLE | KEEP_SIZE, start, size // 2)
                assert full - allocated_bytes(path) >= start + size // 2
            assert os.pread(fd, MIB, 5 * MIB) == bytes(MIB)
            pwrite(fd, b"again", 5 * MIB)
    content = bytearray(size)
    content[5 * MIB:5 * MIB + 5] = b"again"
    finish(path, content, tmp_path)


def test_zeros_hide_the_backing_file(tmp_path, mnt):
    """Both kinds of holes, whole clusters and parts of them."""
    qemu.make_raw(tmp_path / "base.img", SIZE, (0, SIZE, "words", 1))
    path = qed.create(tmp_path / "disk.qed", SIZE, "base.img", "raw")
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, pattern.words(0, SIZE, 1))
            for mode, start, length in ((PUNCH_HOLE, 0, 300_000), (ZERO_RANGE, MIB + 100, 300_000),
                                        (PUNCH_HOLE, 2 * MIB, 65536), (ZERO_RANGE, 3 * MIB, MIB)):
                disk.zero(mode, start, length)
                assert_reads(mount.raw(path), disk.content, f"mode {mode} at {start}")
    with QedFile(path) as file:
        assert file.l2_entry(2 * MIB) == qed.ZERO
    finish(path, disk.content, tmp_path)


# ---- beside others ----------------------------------------------------------------------

def test_locks(tmp_path, mnt):
    image = qed.create(tmp_path / "disk.qed", MIB)
    for options in ((), ("-r",)):
        with qemu.held(image, *options):
            refused("-o", "rw", image, mnt, file=image, contains=["lock"])
    with Mount(image, mnt, "-o", "rw"):
        result = qemu.io(image, "write -P 9 0 512", check=False)
        assert "lock" in result.text + result.errors, result
    with Mount(image, mnt), qemu.held(image, "-r"):
        pass


def test_there_are_no_snapshots(tmp_path, mnt):
    image = qed.create(tmp_path / "disk.qed", MIB)
    with Unchanged(image), Mount(image, mnt, "-o", "rw") as mount:
        assert os.listdir(mount.snapshots(image)) == []
        expect(errno.EOPNOTSUPP, os.mkdir, mount.snapshots(image) / "one")
        assert os.listdir(mount.snapshots(image)) == []
        assert read_all(mount.raw(image)) == bytes(MIB)
