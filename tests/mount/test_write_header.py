# SPDX-License-Identifier: GPL-2.0-or-later
"""The effect of opening for writing on an image: nothing before the first write; then the
necessary changes to the header, and no more. And which images may not be written to at all."""

import errno
import os
import struct

import pytest

from qtest import env, pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import file_digest
from qtest.mount import Mount, refused
from qtest.qcow2 import CORRUPT, DIRTY, Qcow2File
from qtest.writing import assert_content, assert_reads, check, opened, pwrite

MIB = 1 << 20
LAZY = 1            # compatible bit 0
BITMAPS = 1         # autoclear bit 0
RAW_DATA_FILE = 2   # autoclear bit 1
UNKNOWN_AUTOCLEAR = 1 << 40
UNKNOWN_COMPATIBLE = 1 << 33
UNKNOWN_EXTENSION = 0x71746573


def change_header(path, **fields):
    with Qcow2File(path) as image:
        for name, value in fields.items():
            image.set(name, image.get(name) | value)


def make(kind, folder):
    folder.mkdir()
    path = folder / "disk.qcow2"
    if kind == "raw":
        return qemu.make_raw(folder / "disk.img", MIB, (0, 70_144, "words", 1))
    qemu.create(path, MIB, **({"lazy_refcounts": "on"} if "lazy" in kind else {}))
    qemu.write(path, (0, 70_144, "words", 1))
    if kind == "bitmaps":
        qemu.img("bitmap", "--add", path, "b0")
    if "dirty" in kind:
        change_header(path, incompatible=DIRTY)
    if kind == "autoclear":
        change_header(path, autoclear=UNKNOWN_AUTOCLEAR)
    if kind == "snapshot":
        qemu.img("snapshot", "-c", "before", path)
    return path


def facts(path):
    status = os.stat(path)
    return file_digest(path), status.st_size, status.st_blocks, status.st_mtime_ns, status.st_ctime_ns


@pytest.mark.parametrize("kind", ["raw", "plain", "lazy", "dirty lazy", "dirty", "autoclear",
                                  "bitmaps", "snapshot"])
def test_without_a_write_nothing_changes(kind, tmp_path, mnt):
    path = make(kind, tmp_path / "images")
    before = facts(path)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            content = read_all(mount.raw(path))
            os.fsync(fd)
            os.ftruncate(fd, len(content))      # its own size
            os.utime(mount.raw(path))
            assert os.pwrite(fd, b"", 0) == 0
        procs.run("qemu-img", "info", "-U", path)
        assert facts(path) == before
    assert facts(path) == before


def test_what_the_first_write_changes(tmp_path, mnt, rng):
    """Unknown extensions and compatible bits are kept, unknown autoclear bits are cleared: their
    writer must learn that a program without knowledge of them has written."""
    path = make("plain", tmp_path / "images")
    data = rng.randbytes(13)
    with Qcow2File(path) as image:
        kept = [(kind, body) for _, kind, body in image.extensions()]
        image.set_extensions([*kept, (UNKNOWN_EXTENSION, data)])
    change_header(path, compatible=UNKNOWN_COMPATIBLE, autoclear=UNKNOWN_AUTOCLEAR)
    header = path.read_bytes()[:65536]
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 512, 300_000)
        with Qcow2File(path) as image:      # at once, not only at the end
            assert image.get("autoclear") == 0
    after = bytearray(path.read_bytes()[:65536])
    after[88:96] = header[88:96]
    assert bytes(after) == header
    with Qcow2File(path) as image:
        assert image.get("compatible") == UNKNOWN_COMPATIBLE
        assert (UNKNOWN_EXTENSION, data) in [(kind, body) for _, kind, body in image.extensions()]
    check(path)


def test_raw_data_file_stays_raw(tmp_path, mnt):
    """Its autoclear bit is known: the data file is the disk, to the byte."""
    path = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data", data_file_raw="on")
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"A" * 70_000, 100_000)
        content = read_all(mount.raw(path))
    with Qcow2File(path) as image:
        assert image.get("autoclear") == RAW_DATA_FILE
    assert (tmp_path / "disk.data").read_bytes() == content
    check(path)
    assert_content(path, content, tmp_path / "out")


def test_bitmaps_do_not_lie_afterwards(tmp_path, mnt):
    """With bitmaps=drop a bitmap misses writes and must not count as complete: QEMU shows none, or
    shows it as in use, and its clusters as leaks, as after any program without bitmaps."""
    path = make("bitmaps", tmp_path / "images")
    with Mount(path, mnt, "-o", "rw,bitmaps=drop") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 65536, 524_288)
    check(path, leaks_allowed=True)
    bitmaps = qemu.info_json(path)["format-specific"]["data"].get("bitmaps", [])
    assert all("in-use" in bitmap["flags"] for bitmap in bitmaps), bitmaps


@pytest.mark.parametrize("kind", ["dirty", "dirty lazy"])
def test_dirty_images_can_be_written_to(kind, tmp_path, mnt):
    """Untrustworthy refcounts cannot be used for allocation: they are corrected, or the image is
    refused with a way out."""
    path = make(kind, tmp_path / "images")
    content = bytearray(pattern.words(0, 70_144, 1) + bytes(MIB - 70_144))
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 100_000, 400_000)
        content[400_000:500_000] = b"x" * 100_000
        assert_reads(mount.raw(path), content)
    check(path)
    assert_content(path, content, tmp_path / "out")


def test_corrupt_bit(disk, mnt, disk_content):
    change_header(disk, incompatible=CORRUPT)
    before = facts(disk)
    refused("-o", "rw", disk, mnt, file=disk, contains=["corrupt", "check"])
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content
    assert facts(disk) == before


@pytest.mark.parametrize("options", [[], ["-o", "rw"], ["-o", "cow"]])
def test_unknown_incompatible_bit(options, disk, mnt):
    change_header(disk, incompatible=1 << 50)
    before = facts(disk)
    refused(*options, disk, mnt, file=disk, contains=["incompatible", "50"])
    assert facts(disk) == before


def test_image_without_permission_to_write(disk, mnt):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    disk.chmod(0o444)
    refused("-o", "rw", disk, mnt, file=disk, contains=["Permission denied"])
    with Mount(disk, mnt):
        pass


def test_image_on_a_read_only_file_system(tmp_path, mnt):
    env.need_root("a mount of its own")
    path = make("plain", tmp_path / "images")
    procs.run("mount", "--bind", path.parent, path.parent)
    try:
        procs.run("mount", "-o", "remount,bind,ro", path.parent)
        refused("-o", "rw", path, mnt, file=path, contains=["read-only file system"])
        with Mount(path, mnt):
            pass
    finally:
        procs.run("umount", path.parent)


def test_only_the_image_is_opened_for_writing(chain, mnt, chain_content):
    """The backing files are never written to, and other programs may continue to read them."""
    folder = chain.parent
    below = {name: facts(folder / name) for name in ("middle.qcow2", "base.img")}
    content = bytearray(chain_content)
    with Mount(chain, mnt, "-o", "rw") as mount:
        writable = set()
        for fd in os.listdir(f"/proc/{mount.pid}/fd"):
            link = os.readlink(f"/proc/{mount.pid}/fd/{fd}")
            with open(f"/proc/{mount.pid}/fdinfo/{fd}", encoding="ascii") as file:
                flags = int(next(line for line in file if line.startswith("flags:")).split()[1], 8)
            if link.startswith(str(folder)) and flags & os.O_ACCMODE and not flags & os.O_PATH:
                writable.add(os.path.basename(link))
        assert writable == {"top.qcow2"}
        with opened(mount.raw(chain)) as fd:
            for start in range(0, MIB, 65536):
                pwrite(fd, b"new", start + 100)
                content[start + 100:start + 103] = b"new"
        assert_reads(mount.raw(chain), content)
        qemu.img("info", folder / "middle.qcow2")
    assert below == {name: facts(folder / name) for name in below}
    check(chain)


def test_damage_that_a_write_would_meet(disk, mnt):
    """A table that points at the header: the write must not follow it there. The place gives EIO,
    the header stays, and readable parts stay readable."""
    with Qcow2File(disk) as image:
        image.set_l2_entry(0, (1 << 63) | 0)
        image.set_l2_entry(65536, (1 << 63) | image.get("refcount_table_offset"))
        header = image.read(0, 72)
    with Mount(disk, mnt, "-o", "rw") as mount:
        with opened(mount.raw(disk)) as fd:
            with pytest.raises(OSError) as caught:
                os.pwrite(fd, b"x" * 512, 65536)
            assert caught.value.errno in (errno.EIO, errno.EROFS)
            os.pread(fd, 512, 3 * MIB)
    with Qcow2File(disk) as image:
        assert image.read(0, 72) == header
        assert struct.unpack(">Q", image.read(image.get("refcount_table_offset"), 8))[0] % 512 == 0


def test_mtime_moves_with_writes_only(tmp_path, mnt):
    """An unmount after a sync is no change, and neither is a flush without writes."""
    path = make("plain", tmp_path / "images")
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 512, 0)
            os.fsync(fd)
            before = facts(path)
            os.fsync(fd)
            read_all(mount.raw(path))
        assert facts(path) == before
    assert facts(path) == before
