# SPDX-License-Identifier: GPL-2.0-or-later
"""Writable raw images: the file is the disk, so its holes, its space and its length are those of
the disk at any moment; and block devices."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from qtest import env, extents, loop, pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.writing import (KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, Disk, allocated_bytes,
                           assert_reads, fallocate, opened, pwrite)

MIB = 1 << 20
PAGE = 4096
PIECES = [(0, 300_000, "words", 1), (2 * MIB, 65536, "noise", 2), (5 * MIB - PAGE, PAGE, "noise", 3)]
# Whole pages, whole sectors, neither.
SIZES = [8 * MIB, 8 * MIB + 512, 8 * MIB - 1001]


def original(size):
    content = bytearray(size)
    for offset, length, kind, salt in PIECES:
        content[offset:offset + length] = pattern.KINDS[kind](offset, length, salt)
    return content


@pytest.fixture(params=SIZES)
def image(request, tmp_path):
    """(path, content) of a disk that is mostly holes."""
    folder = tmp_path / "images"
    folder.mkdir()
    return qemu.make_raw(folder / "disk.img", request.param, *PIECES), original(request.param)


def same_holes(mount, path, where):
    """SEEK_DATA, SEEK_HOLE and the space of the disk are those of the file."""
    raw = mount.raw(path)
    assert extents.seek_data(raw) == extents.seek_data(path), where
    host, here = os.stat(path), os.stat(raw)
    assert here.st_size == host.st_size, where
    assert here.st_blocks == min(max(host.st_blocks, 1), -(-host.st_size // 512)), where


# ---- holes ----------------------------------------------------------------------------


def test_holes_and_space_follow_every_change(image, mnt, rng):
    path, content = image
    with Mount(path, mnt, "-o", "rw") as mount:
        same_holes(mount, path, "at first")
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, content)
            disk.write(rng.randbytes(10_000), 3 * MIB)
            same_holes(mount, path, "after a write into a hole")
            disk.zero(PUNCH_HOLE, 0, 2 * PAGE)
            same_holes(mount, path, "after a punch into data")
            for number in range(60):
                disk.change(rng)
                same_holes(mount, path, f"after change {number}")
            disk.resize(len(content) - MIB)
            same_holes(mount, path, "after it became smaller")
            disk.resize(len(content) + MIB + 1)
            same_holes(mount, path, "after it grew")
        assert_reads(mount.raw(path), disk.content)
        shown = json.loads(mount.facts("disk", "map.json").read_text())
        assert extents.data_of_map(shown) == extents.seek_data(path)
    assert path.read_bytes() == bytes(disk.content)


def test_full_file_gets_holes(tmp_path, mnt):
    """An image without any hole when it was opened."""
    path = tmp_path / "disk.img"
    path.write_bytes(pattern.noise(0, 2 * MIB))
    with Mount(path, mnt, "-o", "rw") as mount:
        same_holes(mount, path, "at first")
        with opened(mount.raw(path)) as fd:
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 512 * 1024, MIB)
        same_holes(mount, path, "after a punch")
        assert extents.seek_data(mount.raw(path)) == [(0, 512 * 1024), (1536 * 1024, 2 * MIB)]


@pytest.mark.parametrize("mode,keeps", [(PUNCH_HOLE | KEEP_SIZE, False), (ZERO_RANGE, True),
                                        (ZERO_RANGE | KEEP_SIZE, True)])
def test_zeros_without_writing(mode, keeps, image, mnt):
    """A punched hole is one in the file; a zeroed range keeps its space for later writes."""
    path, content = image
    before = allocated_bytes(path)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            fallocate(fd, mode, 8192 + 5, 200_000)
            content[8197:208_197] = bytes(200_000)
            assert_reads(mount.raw(path), content)
            gone = before - allocated_bytes(path)
            assert gone == 0 if keeps else 180_000 < gone <= 200_000
    assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize("mode", ["unmap", "zero", "ignore"])
def test_discard_option(mode, image, mnt):
    path, content = image
    before = allocated_bytes(path)
    with Mount(path, mnt, "-o", f"rw,discard={mode}") as mount:
        with opened(mount.raw(path)) as fd:
            if mode == "ignore":
                with pytest.raises(OSError) as caught:
                    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 65536)
                assert caught.value.errno == errno.EOPNOTSUPP
            else:
                fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 65536)
                content[:65536] = bytes(65536)
        assert before - allocated_bytes(path) == (65536 if mode == "unmap" else 0)
        assert_reads(mount.raw(path), content)


def test_allocation(image, mnt):
    """fallocate reserves the space for later writes, and no byte changes."""
    path, content = image
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            fallocate(fd, KEEP_SIZE, 3 * MIB, MIB)
            assert os.fstat(fd).st_size == len(content)
            assert allocated_bytes(path) >= 300_000 + MIB
            assert_reads(mount.raw(path), content)
            fallocate(fd, 0, len(content), 5000)
            content.extend(bytes(5000))
            assert os.fstat(fd).st_size == os.stat(path).st_size == len(content)
    assert path.read_bytes() == bytes(content)


def copy_sparse(source, target, tmp_path):
    procs.run("cp", "--sparse=auto", source, target)


def copy_tar(source, target, tmp_path):
    procs.run("tar", "-S", "-C", source.parent, "-cf", tmp_path / "copy.tar", source.name)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    procs.run("tar", "-S", "-C", folder, "-xf", tmp_path / "copy.tar")
    (folder / source.name).rename(target)


def copy_qemu(source, target, tmp_path):
    qemu.img("convert", "-f", "raw", "-O", "raw", source, target)


@pytest.mark.parametrize("options", ["ro", "rw"])
@pytest.mark.parametrize("copy", [copy_sparse, copy_tar, copy_qemu])
def test_copies_stay_sparse(copy, options, image, mnt, tmp_path):
    path, content = image
    with Mount(path, mnt, "-o", options) as mount:
        copy(mount.raw(path), tmp_path / "copy", tmp_path)
    assert (tmp_path / "copy").read_bytes()[:len(content)] == bytes(content)
    assert allocated_bytes(tmp_path / "copy") <= allocated_bytes(path) + 2 * PAGE


def test_qimg_sees_holes(image, tmp_path):
    path, content = image
    entries = json.loads(procs.run(env.qimg(), "map", "--output=json", path).stdout)
    extents.assert_complete(entries, len(content))
    assert extents.data_of_map(entries) == extents.seek_data(path)
    with Unchanged(path):
        procs.run(env.qimg(), "copy-out", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(content)
    assert allocated_bytes(tmp_path / "copy") <= allocated_bytes(path)
    result = procs.run(env.qimg(), "check", path, check=False)
    assert result.status == 63 and "is a raw image, for which there is no check" in result.errors


# ---- the length -----------------------------------------------------------------------


def test_last_bytes_of_an_odd_size(mnt, tmp_path, rng):
    """The file is the disk to the byte, at any length; writes grow it by their own length."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 1001)
    content = bytearray(b"x" * 1001)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, content)
            for offset, length in ((1000, 1), (1001, 1), (1002, 511), (4096, 1), (10_000, 3)):
                disk.write(rng.randbytes(length), offset)
                assert os.fstat(fd).st_size == path.stat().st_size == len(disk.content)
                assert_reads(mount.raw(path), disk.content)
            for size in (9_999, 513, 1, 0, 7, 5001):
                disk.resize(size)
                assert os.fstat(fd).st_size == path.stat().st_size == size
                assert_reads(mount.raw(path), disk.content)
    assert path.read_bytes() == bytes(disk.content)


def test_nogrowable(image, mnt):
    path, content = image
    with Mount(path, mnt, "-o", "rw,nogrowable") as mount:
        with opened(mount.raw(path)) as fd:
            for offset, length in ((len(content), 1), (len(content) + MIB, 10)):
                with pytest.raises(OSError) as caught:
                    os.pwrite(fd, b"y" * length, offset)
                assert caught.value.errno == errno.ENOSPC
            pwrite(fd, b"last", len(content) - 4)
            content[-4:] = b"last"
        assert_reads(mount.raw(path), content)
    assert path.read_bytes() == bytes(content)


def test_overlay_of_an_odd_size(image, mnt, tmp_path):
    """An overlay's disk has whole sectors, the image below stays as it is."""
    path, content = image
    with Unchanged(path), Mount(path, mnt, "-o", "cow") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"overlay", len(content) - 7)
            content[-7:] = b"overlay"
        got = read_all(mount.raw(path))
        assert got == bytes(content) + bytes(-len(content) % 512)


def test_nolock(image, mnt):
    path, content = image
    with qemu.held(path, "-f", "raw"):
        refused("-o", "rw", path, mnt, file=path, contains=["lock"])
        with Mount(path, mnt, "-o", "rw,nolock") as mount:
            with opened(mount.raw(path)) as fd:
                pwrite(fd, b"shared", 100)
    assert path.read_bytes()[100:106] == b"shared"


def test_readers_share(image, mnt, tmp_path):
    path, content = image
    with Mount(path, mnt) as one, Mount(path, tmp_path / "other") as two:
        assert read_all(one.raw(path)) == read_all(two.raw(path)) == bytes(content)
        qemu.io(path, "read 0 512", options=("-f", "raw", "-r"))
        result = qemu.io(path, "write -P 9 0 512", options=("-f", "raw"), check=False)
        assert "lock" in result.text + result.errors


# ---- block devices --------------------------------------------------------------------


@pytest.fixture(params=[512, 4096])
def device(request, tmp_path):
    """(device, file, content): a loop device with sectors of a size."""
    loop.need_loop_devices()
    path = qemu.make_raw(tmp_path / "below", 8 * MIB, *PIECES)
    with loop.attached(path, f"--sector-size={request.param}") as node:
        yield node, path, original(8 * MIB)


def test_device_read_only(device, mnt):
    node, _, content = device
    with Mount(node, mnt) as mount:
        raw = mount.path(node.name + ".raw")
        assert read_all(raw) == bytes(content)
        facts = os.stat(raw)
        assert facts.st_size == len(content)
        assert facts.st_blocks * 512 == len(content), "nobody knows of holes in a device"
        procs.run("cp", raw, mnt.parent / "copy")
    assert (mnt.parent / "copy").read_bytes() == bytes(content)


def test_device_is_written_to(device, mnt, rng):
    node, path, content = device
    with Mount(node, mnt, "-o", "rw") as mount:
        raw = mount.path(node.name + ".raw")
        with opened(raw) as fd:
            disk = Disk(fd, content)
            for _ in range(80):
                disk.change(rng)
            # Punched ranges end anywhere; a device's blocks do not.
            for mode in (PUNCH_HOLE, ZERO_RANGE):
                for offset, length in ((5, 3), (4096, 512), (700, 100_000), (3 * MIB, MIB),
                                       (8 * MIB - 1000, 1000)):
                    disk.write(rng.randbytes(length), offset)
                    disk.zero(mode, offset, length)
            os.fsync(fd)
            assert_reads(raw, disk.content)
    assert node.read_bytes() == bytes(disk.content)
    procs.run("sync", node)
    assert path.read_bytes() == bytes(disk.content)


def test_device_has_its_length(device, mnt):
    node, _, content = device
    with Mount(node, mnt, "-o", "rw") as mount:
        raw = mount.path(node.name + ".raw")
        with opened(raw) as fd:
            with pytest.raises(OSError) as caught:
                os.pwrite(fd, b"past the end", len(content))
            assert caught.value.errno == errno.ENOSPC
            for size in (len(content) + 512, len(content) - 512):
                with pytest.raises(OSError) as caught:
                    os.ftruncate(fd, size)
                assert caught.value.errno in (errno.EOPNOTSUPP, errno.ENOSPC)
        assert os.stat(raw).st_size == len(content)
        assert read_all(raw) == bytes(content)
    result = procs.run(env.qimg(), "resize", node, "4M", check=False)
    assert result.status == 1 and result.errors.count("\n") == 1, result


def test_device_punch_reaches_below(device, mnt):
    """A loop device passes a punched hole on to its file."""
    node, path, _ = device
    with Mount(node, mnt, "-o", "rw") as mount:
        with opened(mount.path(node.name + ".raw")) as fd:
            before = allocated_bytes(path)
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 100, 290_000)
            os.fsync(fd)
    assert before - allocated_bytes(path) > 280_000
    assert path.read_bytes()[100:290_100] == bytes(290_000)


def test_device_in_use_is_refused(device, mnt, tmp_path):
    """A device with a mounted file system, or written to by another mount."""
    node, path, _ = device
    loop.need_filesystem("ext4", "mke2fs")
    procs.run("mke2fs", "-q", "-t", "ext4", node)
    with loop.mounted(node, tmp_path / "fs", kind="ext4"):
        refused("-o", "rw", node, mnt, file=node, contains=["busy", "mounted", "-o rw"])
        result = procs.run(env.qimg(), "resize", "-o", "format=raw", node, "4M", check=False)
        assert result.status == 1 and "mounted" in result.errors, result
        with Mount(node, mnt) as mount:
            assert os.stat(mount.path(node.name + ".raw")).st_size == 8 * MIB


def test_two_nodes_are_one_device(device, mnt, tmp_path):
    node, _, content = device
    second = tmp_path / "node.img"
    os.mknod(second, stat.S_IFBLK | 0o600, os.stat(node).st_rdev)
    try:
        os.close(os.open(second, os.O_RDONLY))
    except OSError as error:
        pytest.skip(f"a second node cannot be opened: {error}")
    other = tmp_path / "other"
    other.mkdir()
    with Mount(node, mnt, "-o", "rw"):
        refused("-o", "rw", second, other, file=second, contains=["busy", "another program"])
    overlay = tmp_path / "overlay.qcow2"
    refused("-o", f"cow={second}", node, mnt, file=second, contains=["image itself"])
    with Mount(node, mnt, "-o", f"cow={overlay}"):
        pass
    with Mount(second, mnt, "-o", f"cow={overlay}") as mount:
        assert read_all(mount.path("node.raw")) == bytes(content)


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qed"])
def test_enlarged_device_is_used(kind, mnt, tmp_path):
    loop.need_loop_devices()
    below = tmp_path / "below"
    if kind == "raw":
        qemu.make_raw(below, MIB)
    else:
        qemu.create(below, 8 * MIB, image_format=kind)
        os.truncate(below, MIB)
    data = os.urandom(4 * MIB)
    with loop.attached(below) as node, Mount(node, mnt, "-o", "rw") as mount:
        raw = mount.path(node.name + ".raw")
        with opened(raw) as fd:
            with pytest.raises(OSError) as caught:
                for at in range(0, len(data), 65536):
                    os.pwrite(fd, data[at:at + 65536], at)
            assert caught.value.errno == errno.ENOSPC
            os.truncate(below, 8 * MIB)
            procs.run("losetup", "-c", node)
            for at in range(0, len(data), 65536):
                assert os.pwrite(fd, data[at:at + 65536], at) == 65536
            os.fsync(fd)
        assert read_all(raw)[:len(data)] == data
        if kind == "raw":
            assert os.stat(raw).st_size == 8 * MIB


def test_device_becomes_an_image(device, mnt):
    """qimg create leaves content alone without --force; check tells the end of the image, by which
    managers of volumes enlarge them."""
    node, path, _ = device
    told = procs.run(env.qimg(), "create", node, "64M", check=False)
    assert told.status == 1 and "is a block device with content" in told.errors
    assert Path(path).read_bytes()[:8 * MIB] == bytes(original(8 * MIB))
    for kind in ("raw", "qed"):
        told = procs.run(env.qimg(), "create", "--force", "-f", kind, node, "8M", check=False)
        assert told.status == 1 and "on which only qcow2 images are made" in told.errors
    told = procs.run(env.qimg(), "create", "--force", "-o", "preallocation=full", node, "64M",
                     check=False)
    assert told.status == 1 and "No space left" in told.errors
    procs.run(env.qimg(), "create", "--force", node, "64M")
    qemu.io(node, "write -P 7 3M 200k")
    ours = json.loads(procs.run(env.qimg(), "check", "--output=json", node).text)
    theirs = json.loads(qemu.img("check", "--output=json", "-f", "qcow2", node).text)
    assert ours["image-end-offset"] == theirs["image-end-offset"] < 8 * MIB
    assert ours["allocated-clusters"] == theirs["allocated-clusters"] == 4
    with Mount(node, mnt, "-o", "rw"):
        told = procs.run(env.qimg(), "create", "--force", node, "64M", check=False)
        assert told.status == 1 and "Device or resource busy" in told.errors
    with Mount(node, mnt) as mount:
        content = read_all(mount.path(node.name + ".raw"))
        assert content == bytes(3 * MIB) + b"\7" * 204800 + bytes(61 * MIB - 204800)
