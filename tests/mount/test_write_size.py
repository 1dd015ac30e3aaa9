# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk's size during writing: truncate, growth, bytes past the end; and all modes of
fallocate."""

import errno
import os

import pytest

from qtest import pattern, procs, qemu
from qtest.mount import Mount
from qtest.writing import (COLLAPSE_RANGE, INSERT_RANGE, KEEP_SIZE, PUNCH_HOLE, UNSHARE_RANGE,
                           ZERO_RANGE, Disk, allocated_bytes, assert_content, assert_reads, check,
                           fallocate, opened, pwrite, pwrite_direct)

MIB = 1 << 20
SIZE = MIB + 512        # not a multiple of any cluster size


@pytest.fixture(params=["raw", "qcow2", "qcow2-512", "qcow2-el2", "v2", "chain"])
def image(request, tmp_path):
    """(path, content, format): a disk full of data; the chain's base is longer than it."""
    folder = tmp_path / "images"
    folder.mkdir()
    content = bytearray(pattern.noise(0, SIZE, 1))
    if request.param == "raw":
        path = folder / "disk.img"
        path.write_bytes(content)
        return path, content, "raw"
    if request.param == "chain":
        qemu.make_raw(folder / "base.img", 3 * MIB, (0, SIZE, "noise", 1), (SIZE, MIB, "words", 2))
        return qemu.create(folder / "disk.qcow2", SIZE, "base.img", "raw"), content, "qcow2"
    options = {"qcow2-512": {"cluster_size": 512}, "v2": {"compat": "0.10"},
               "qcow2-el2": {"cluster_size": "128k", "extended_l2": "on"}}.get(request.param, {})
    path = qemu.create(folder / "disk.qcow2", SIZE, **options)
    qemu.write(path, (0, SIZE, "noise", 1))
    return path, content, "qcow2"


def finish(image, content, tmp_path):
    path, _, image_format = image
    if image_format == "qcow2":
        check(path)
        assert qemu.info_json(path)["virtual-size"] == len(content)
    assert_content(path, content, tmp_path / "out", image_format)


def expect(number, call, *arguments):
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number, caught.value


def test_truncate(image, mnt, tmp_path):
    """Down and up again: the cut part never comes back."""
    path, content, _ = image
    with Mount(path, mnt, "-o", "rw") as mount:
        raw = mount.raw(path)
        with opened(raw) as fd:
            disk = Disk(fd, content)
            for size in (MIB, 2 * MIB, 2 * MIB + 512, 70_144, 65536, 3 * MIB, 512, MIB, 0, 4096):
                disk.resize(size)
                assert os.fstat(fd).st_size == os.stat(raw).st_size == size
                assert_reads(raw, disk.content, f"after truncate to {size}")
    finish(image, disk.content, tmp_path)


def test_size_is_rounded_up_to_a_sector(image, mnt, tmp_path):
    path, content, _ = image
    with Mount(path, mnt, "-o", "rw") as mount:
        os.truncate(mount.raw(path), 1000)
        size = os.stat(mount.raw(path)).st_size
        assert size in (1000, 1024)
        assert_reads(mount.raw(path), content[:1000] + bytes(size - 1000))
        os.truncate(mount.raw(path), 70_001)
        size = os.stat(mount.raw(path)).st_size
        assert size in (70_001, 70_144)


def make_compressed(folder):
    qemu.make_raw(folder / "source.img", MIB, (0, MIB, "words", 1))
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", folder / "source.img",
             folder / "disk.qcow2")
    return folder / "disk.qcow2"


def make_shared(folder):
    path = qemu.create(folder / "disk.qcow2", MIB)
    qemu.write(path, (0, MIB, "words", 1))
    qemu.img("snapshot", "-c", "before", path)
    return path


def make_with_data_file(folder, is_raw):
    path = folder / "disk.qcow2"
    qemu.img("create", "-q", "-f", "qcow2", "-o", f"data_file=disk.data,data_file_raw={is_raw}",
             path.name, str(MIB), cwd=folder)
    qemu.write(path, (0, MIB, "words", 1))
    return path


@pytest.mark.parametrize("make", [
    make_compressed, make_shared,
    lambda folder: make_with_data_file(folder, "off"),
    lambda folder: make_with_data_file(folder, "on")],
    ids=["compressed", "snapshot", "data-file", "raw-data-file"])
def test_zeros_behind_a_cut_inside_a_sector(make, mnt, tmp_path):
    """There are zeros behind the requested size, at once and after growing again."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = make(folder)
    content = pattern.words(0, MIB, 1)
    with Mount(path, mnt, "-o", "rw") as mount:
        raw = mount.raw(path)
        os.truncate(raw, 70_001)
        assert os.stat(raw).st_size == 70_144
        assert_reads(raw, content[:70_001] + bytes(143))
        os.truncate(raw, MIB)
        expected = content[:70_001] + bytes(MIB - 70_001)
        assert_reads(raw, expected)
    check(path)
    assert_content(path, expected, tmp_path / "out", "qcow2")


def test_truncate_while_others_have_it_open(image, mnt):
    path, content, _ = image
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path), os.O_RDONLY) as reader, opened(mount.raw(path)) as writer:
            assert os.pread(reader, 4096, 65536) == content[65536:69632]
            os.ftruncate(writer, 66048)
            assert os.pread(reader, 4096, 65536) == content[65536:66048]
            assert os.lseek(reader, 0, os.SEEK_END) == 66048
            pwrite(writer, b"new", 66048)
            assert os.pread(reader, 3, 66048) == b"new"


def test_open_truncates(image, mnt, tmp_path):
    """As by cp and the shell's >."""
    path, _, _ = image
    data = pattern.words(0, 200_192, 7)
    (tmp_path / "new").write_bytes(data)
    with Mount(path, mnt, "-o", "rw") as mount:
        procs.run("cp", tmp_path / "new", mount.raw(path))
        assert_reads(mount.raw(path), data)
    finish(image, data, tmp_path)


@pytest.mark.parametrize("write", [pwrite, pwrite_direct])
def test_write_past_the_end_grows(write, image, mnt, tmp_path, rng):
    path, content, _ = image
    flags = os.O_RDWR | (os.O_DIRECT if write is pwrite_direct else 0)
    with Mount(path, mnt, "-o", "rw,growable") as mount:
        raw = mount.raw(path)
        with opened(raw, flags) as fd:
            for start, length in ((SIZE - 512, 1024), (SIZE + 512, 4096), (2 * MIB, 70_144),
                                  (5 * MIB - 512, 512)):
                data = rng.randbytes(length)
                write(fd, data, start)
                content.extend(bytes(start + length - len(content)))
                content[start:] = data
                assert os.fstat(fd).st_size == len(content)
                assert_reads(raw, content, f"after {length} bytes at {start}")
    finish(image, content, tmp_path)


@pytest.mark.parametrize("write", [pwrite, pwrite_direct])
def test_nogrowable(write, image, mnt, tmp_path):
    """As a full disk: ENOSPC, never a write of no bytes, which makes programs loop."""
    path, content, _ = image
    flags = os.O_RDWR | (os.O_DIRECT if write is pwrite_direct else 0)
    with Mount(path, mnt, "-o", "rw,nogrowable") as mount:
        raw = mount.raw(path)
        with opened(raw, flags) as fd:
            for start, length in ((SIZE, 512), (SIZE + 512, 512), (100 * MIB, 512)):
                expect(errno.ENOSPC, write, fd, b"x" * length, start)
            write(fd, b"y" * 512, SIZE - 512)
            content[SIZE - 512:] = b"y" * 512
            assert_reads(raw, content)
            os.lseek(fd, 0, os.SEEK_END)
        result = procs.run("dd", "if=/dev/zero", f"of={raw}", "bs=64K", "oflag=append",
                           "conv=notrunc", check=False, limit_s=20)
        assert result.status == 1 and "No space left on device" in result.errors
        with opened(raw) as fd:
            expect(errno.ENOSPC, fallocate, fd, 0, SIZE - 512, 1024)
            expect(errno.ENOSPC, fallocate, fd, ZERO_RANGE, SIZE - 512, 1024)
            assert os.fstat(fd).st_size == SIZE
        os.truncate(raw, 2 * MIB)       # an explicit resize
        content.extend(bytes(2 * MIB - SIZE))
        assert_reads(raw, content)
    finish(image, content, tmp_path)


def test_write_over_the_end_of_a_fixed_disk(image, mnt, tmp_path):
    """A request that straddles the end is refused whole, or ends there; never more."""
    path, content, _ = image
    with Mount(path, mnt, "-o", "rw,nogrowable") as mount:
        with opened(mount.raw(path)) as fd:
            expect(errno.ENOSPC, os.pwrite, fd, b"x" * 1024, SIZE - 512)
            assert os.fstat(fd).st_size == SIZE
            assert_reads(mount.raw(path), content)
    finish(image, content, tmp_path)


def test_sizes_that_no_image_has(image, mnt, tmp_path):
    path, content, image_format = image
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            with pytest.raises(OSError) as caught:
                os.pwrite(fd, b"x", (1 << 63) - 2)
            assert caught.value.errno in (errno.EFBIG, errno.EINVAL)
            with pytest.raises(OSError) as caught:
                os.ftruncate(fd, (1 << 63) - 1)
            assert caught.value.errno in (errno.EFBIG, errno.EINVAL)
            assert os.fstat(fd).st_size == SIZE
        assert_reads(mount.raw(path), content)
    finish(image, content, tmp_path)


# ---- fallocate ------------------------------------------------------------------------


def test_fallocate_modes(image, mnt, tmp_path):
    path, content, _ = image
    with Mount(path, mnt, "-o", "rw") as mount:
        raw = mount.raw(path)
        with opened(raw) as fd:
            disk = Disk(fd, content)
            fallocate(fd, 0, 0, SIZE)
            fallocate(fd, KEEP_SIZE, 1000, 100_000)
            fallocate(fd, KEEP_SIZE, SIZE - 512, 10 * MIB)
            fallocate(fd, KEEP_SIZE, SIZE + 512, 10 * MIB)
            assert_reads(raw, content, "after allocation")
            for mode in (PUNCH_HOLE, ZERO_RANGE):
                for start, length in ((0, 1), (65536, 65536), (100_000, 150_000), (513, 1022),
                                      (SIZE - 700, 5 * MIB), (SIZE, 4096), (SIZE + MIB, MIB)):
                    disk.zero(mode, start, length)
                    assert_reads(raw, disk.content, f"mode {mode} at {start}, {length} bytes")
            for mode in (COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE, UNSHARE_RANGE | KEEP_SIZE):
                expect(errno.EOPNOTSUPP, fallocate, fd, mode, 0, 65536)
            assert_reads(raw, disk.content, "after modes that are refused")
            assert os.fstat(fd).st_size == SIZE
            # Past the end, keeping no size: it grows.
            fallocate(fd, 0, SIZE - 512, MIB)
            disk.content.extend(bytes(MIB - 512))
            assert os.fstat(fd).st_size == len(disk.content)
            fallocate(fd, ZERO_RANGE, len(disk.content) - 1024, 4096)
            disk.content[-1024:] = bytes(4096)
            assert_reads(raw, disk.content, "after growth")
    finish(image, disk.content, tmp_path)


@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"cluster_size": "2M"},
                                     {"cluster_size": "128k", "extended_l2": "on"}],
                         ids=["64k", "4k", "2M", "el2"])
def test_punched_space_goes_back_to_the_host(options, tmp_path, mnt):
    path = qemu.create(tmp_path / "disk.qcow2", 16 * MIB, **options)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            for start in range(0, 16 * MIB, MIB):
                pwrite(fd, b"x" * MIB, start)
            full = allocated_bytes(path)
            for start in (0, 8 * MIB):
                fallocate(fd, PUNCH_HOLE | KEEP_SIZE, start, 8 * MIB)
                os.fsync(fd)
                assert full - allocated_bytes(path) >= start + 8 * MIB
    check(path)


@pytest.mark.parametrize("mode", ["zero", "ignore", "unmap"])
def test_discard_option(mode, disk, disk_content, mnt, tmp_path):
    content = bytearray(disk_content)
    with Mount(disk, mnt, "-o", f"rw,discard={mode}") as mount:
        with opened(mount.raw(disk)) as fd:
            before = allocated_bytes(disk)
            if mode == "ignore":
                expect(errno.EOPNOTSUPP, fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 0, MIB)
            else:
                fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, MIB)
                content[:MIB] = bytes(MIB)
            os.fsync(fd)
            gone = before - allocated_bytes(disk)
            assert gone >= MIB // 2 if mode == "unmap" else gone <= 65536
        assert_reads(mount.raw(disk), content)
    check(disk)
    assert_content(disk, content, tmp_path / "out")


def test_allocated_space_stays_ours(tmp_path, mnt):
    """After fallocate, writing needs no more space on the host."""
    path = qemu.create(tmp_path / "disk.qcow2", 4 * MIB)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            fallocate(fd, 0, 0, 4 * MIB)
            os.fsync(fd)
            reserved = allocated_bytes(path)
            assert reserved >= 4 * MIB
            for start in range(0, 4 * MIB, MIB):
                pwrite(fd, pattern.noise(start, MIB, 3), start)
            os.fsync(fd)
            assert allocated_bytes(path) <= reserved + 65536
    check(path)


def test_read_only_mounts_refuse(disk, mnt):
    with Mount(disk, mnt) as mount:
        with opened(mount.raw(disk), os.O_RDONLY) as fd:
            expect(errno.EBADF, fallocate, fd, 0, 0, 512)
        expect(errno.EROFS, os.truncate, mount.raw(disk), 0)
