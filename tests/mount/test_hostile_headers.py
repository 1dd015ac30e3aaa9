# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rule of a header, broken alone in an otherwise sound image: one line that names the file
and the field, within seconds, in little memory. Spec: qcow2, "Checks at open"."""

import errno
import json
import os
import struct

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.qcow2 import HEADER, Qcow2File

MIB = 1 << 20
TOP = 1 << 63

# field, value, word required in the line (one of a tuple)
BROKEN = [
    ("version", 4, ["version"]),
    ("version", 0xffffffff, ["version"]),
    *[("cluster_bits", bits, ["cluster_bits"])
      for bits in (0, 8, 22, 31, 32, 63, 64, 255, 0x80000010, 0xffffffff)],
    ("size", TOP, ["size"]),
    ("size", (1 << 64) - 1, ["size"]),
    ("size", (1 << 64) - 512, ["size"]),
    ("size", 1 << 50, [("l1_size", "size")]),
    ("crypt_method", 3, ["crypt_method"]),
    ("crypt_method", 0xffffffff, ["crypt_method"]),
    ("l1_size", 0, ["l1_size"]),
    ("l1_size", 4194305, ["l1_size"]),
    ("l1_size", 0xffffffff, ["l1_size"]),
    ("l1_table_offset", 0, ["l1_table_offset"]),
    ("l1_table_offset", 0x30200, ["l1_table_offset"]),
    ("l1_table_offset", 0x30001, ["l1_table_offset"]),
    ("l1_table_offset", TOP, ["l1_table_offset"]),
    ("l1_table_offset", (1 << 64) - 65536, ["l1_table_offset"]),
    ("refcount_table_offset", 0, ["refcount_table_offset"]),
    ("refcount_table_offset", 0x10001, ["refcount_table_offset"]),
    ("refcount_table_offset", (1 << 64) - 65536, ["refcount_table_offset"]),
    ("refcount_table_clusters", 0, ["refcount_table_clusters"]),
    ("refcount_table_clusters", 129, ["refcount_table_clusters"]),
    ("refcount_table_clusters", 0xffffffff, ["refcount_table_clusters"]),
    ("nb_snapshots", 65537, ["nb_snapshots"]),
    ("nb_snapshots", 0xffffffff, ["nb_snapshots"]),
    ("nb_snapshots", 1, ["snapshot"]),
    ("snapshots_offset", 1, ["snapshots_offset"]),
    ("snapshots_offset", TOP, ["snapshots_offset"]),
    ("refcount_order", 7, ["refcount_order"]),
    ("refcount_order", 255, ["refcount_order"]),
    ("refcount_order", 0xffffffff, ["refcount_order"]),
    *[("header_length", length, ["header_length"])
      for length in (0, 1, 72, 96, 103, 105, 108, 113, 65544, 0x80000000, 0xffffffff)],
    ("backing_file_offset", 65537, ["backing_file_offset"]),
    ("backing_file_offset", TOP, ["backing_file_offset"]),
    ("backing_file_offset", (1 << 64) - 1, ["backing_file_offset"]),
]


@pytest.mark.parametrize("field,value,words", BROKEN, ids=[f"{f}-{v:#x}" for f, v, _ in BROKEN])
def test_field(field, value, words, disk, mnt):
    with Qcow2File(disk) as file:
        file.set(field, value)
    with Unchanged(disk):
        refused(disk, mnt, file=disk, contains=words)
        result = procs.run(env.qimg(), "info", disk, check=False, limit_s=20)
        assert result.status != 0 and result.errors.count("\n") == 1


@pytest.mark.parametrize("field,value", [("magic", 0x51464900), ("version", 1), ("version", 0)])
def test_not_qcow2_at_all(field, value, disk, mnt):
    """Refused when opened as qcow2."""
    with Qcow2File(disk) as file:
        file.set(field, value)
    refused("-o", "format=qcow2", disk, mnt, file=disk, contains=[field])


# Neither a valid version of a format, nor a raw disk.
NO_RAW_DISKS = [
    ("version 0", b"QFI\xfb" + bytes(508), "version"),
    ("version 4", b"QFI\xfb\0\0\0\4" + bytes(504), "version"),
    ("magic alone", b"QFI\xfb", "header"),
    ("half a version", b"QFI\xfb\0\0", "header"),
    ("cut qcow", b"QFI\xfb\0\0\0\1" + bytes(8), "header"),
    ("cut QED", b"QED\0", "header"),
    ("VMDK", b"KDMV" + bytes(508), "VMDK"),
    ("VMDK of ESX", b"COWD" + bytes(508), "VMDK"),
    ("VMDK descriptor", b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
    ("LUKS", b"LUKS\xba\xbe\0\1" + bytes(504), "LUKS"),
    ("VDI", bytes(64) + b"\x7f\x10\xda\xbe" + bytes(444), "VDI"),
    ("Bochs", b"Bochs Virtual HD Image" + bytes(490), "Bochs"),
]


@pytest.mark.parametrize("start,word", [row[1:] for row in NO_RAW_DISKS],
                         ids=[row[0] for row in NO_RAW_DISKS])
def test_magic_is_no_raw_disk(start, word, tmp_path, mnt):
    """A file that begins with a magic number is never overwritten as a raw disk by default."""
    folder = tmp_path / "images"
    folder.mkdir()
    disk = folder / "disk.img"
    disk.write_bytes(start)
    with Unchanged(folder):
        for options in ([], ["-o", "rw"], ["-o", "cow"]):
            refused(*options, disk, mnt, file=disk, contains=[word, "format=raw"])
        result = procs.run(env.qimg(), "resize", disk, "1M", check=False)
        assert result.status == 1 and word in result.errors, result
        with Mount(folder, mnt, "-o", "rw") as mount:
            with pytest.raises(OSError) as caught:
                os.stat(mnt / "disk.raw")
            assert caught.value.errno == errno.EIO
            told = json.loads(mount.facts("errors.json").read_text())
            assert [entry["file"] for entry in told] == [str(disk)] and word in told[0]["reason"]
    with Mount(disk, mnt, "-o", "rw,format=raw") as mount:
        with open(mnt / "disk.raw", "r+b", buffering=0) as file:
            file.write(b"new")
    assert disk.read_bytes() == b"new" + start[3:]


def test_probed_backing_file_with_a_foreign_magic(tmp_path, mnt):
    """The advice is one for backing files."""
    (tmp_path / "base.img").write_bytes(b"KDMV" + bytes(MIB - 4))
    top = qemu.create(tmp_path / "top.qcow2", MIB)
    with Qcow2File(top) as file:
        file.set_backing(b"base.img")
    refused(top, mnt, file=top, contains=["VMDK", "rebase -u -F raw"])
    with Qcow2File(top) as file:
        file.set_backing(b"base.img", b"raw")
    with Mount(top, mnt) as mount:
        assert read_all(mount.raw(top))[:4] == b"KDMV"


@pytest.mark.parametrize("size,offset", [(1024, 512), (0xffffffff, 512), (100, 65500), (1023, 65000)])
def test_backing_name_bounds(size, offset, disk, mnt):
    with Qcow2File(disk) as file:
        file.set("backing_file_offset", offset)
        file.set("backing_file_size", size)
    refused(disk, mnt, file=disk, contains=["backing_file_size"])


def test_backing_name_with_nul(disk, mnt):
    with Qcow2File(disk) as file:
        file.set_backing(b"base\0.img")
    refused(disk, mnt, file=disk, contains=["backing"])


# ---- extensions -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [65536 - 112 - 8 + 1, 65536, 0x7fffffff, 0x80000000,
                                    0xfffffff8, 0xffffffff])
@pytest.mark.parametrize("kind", [0x6803f857, 0xe2792aca, 0x44415441, 0x23852875, 0x12345678])
def test_extension_longer_than_the_header_area(kind, length, disk, mnt):
    with Qcow2File(disk) as file:
        file.write(112, struct.pack(">II", kind, length))
    refused(disk, mnt, file=disk, contains=["header extension"])


def test_extensions_end_at_the_backing_name(disk, mnt):
    """An extension that reaches into the name is too long, although the cluster continues."""
    with Qcow2File(disk) as file:
        file.set_extensions([(0x12345678, b"x" * 100)], b"base.img")
        file.set("backing_file_offset", 112 + 50)
    refused(disk, mnt, file=disk, contains=["header extension"])


def test_extensions_without_end(disk, mnt, disk_content):
    """The area full of empty extensions ends where the cluster ends."""
    with Qcow2File(disk) as file:
        file.write(112, struct.pack(">II", 0x12345678, 0) * ((65536 - 112) // 8))
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content


@pytest.mark.parametrize("kind,data", [(0xe2792aca, b"raw"), (0x44415441, b"x.data")])
def test_known_extension_twice(kind, data, disk, mnt):
    with Qcow2File(disk) as file:
        file.set_extensions([(kind, data), (kind, data)])
    refused(disk, mnt, file=disk, contains=["header extension"])


@pytest.mark.parametrize("data", [b"", b"x" * 16, b"x" * 1000, b"ra\0w"])
def test_backing_format_extension(data, disk, mnt):
    with Qcow2File(disk) as file:
        file.set_extensions([(0xe2792aca, data)], b"base.img")
    refused(disk, mnt, file=disk, contains=["backing format"])


# ---- sizes claimed only by a header ----


def bounded(mount, limit_bytes=200 * MIB):
    if env.sanitizer() is None:
        rss = procs.peak_rss_bytes(mount.pid)
        assert rss < limit_bytes, f"{rss >> 20} MiB"


def test_largest_l1_table_of_a_small_file(disk, mnt, disk_content):
    """32 MiB of L1 that the file does not have, and a disk of 2 PiB."""
    with Qcow2File(disk) as file:
        file.set("l1_size", 4194304)
        file.set("size", 4194304 * 8192 * 65536)
    with Mount(disk, mnt) as mount:
        assert_no_invented_bytes(mount.raw(disk), (1 << 40, 4194304 * 8192 * 65536 - 4096))
        with open(mount.raw(disk), "rb", buffering=0) as file:
            assert file.read(MIB) == disk_content[:MIB]
        bounded(mount, 100 * MIB)


def assert_no_invented_bytes(path, places):
    """For a table beyond the end of the file, QEMU shows zeros; an error is the safer answer."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for at in places:
            try:
                assert os.pread(fd, 4096, at) == bytes(4096)
            except OSError as error:
                assert error.errno == errno.EIO
    finally:
        os.close(fd)


@pytest.mark.parametrize("field,value", [("refcount_table_clusters", 128),
                                         ("refcount_table_offset", (1 << 62)),
                                         ("refcount_table_offset", 0x30000)])
def test_refcounts_do_not_matter_for_reading(field, value, disk, mnt, disk_content):
    """Sizes within the limits, places beyond the file, tables that overlap."""
    with Qcow2File(disk) as file:
        file.set(field, value)
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content
        bounded(mount)


def test_hundred_hostile_headers_in_one_mount(tmp_path, mnt):
    """Each claims tables of the largest size; together they stay small."""
    images = []
    for number in range(100):
        image = qemu.create(tmp_path / f"{number}.qcow2", MIB, cluster_size=512)
        with Qcow2File(image) as file:
            file.set("l1_size", 4194304)
            file.set("refcount_table_clusters", (8 << 20) // 512)
            file.set("size", 4194304 * 64 * 512)
        images.append(image)
    with Mount(images, mnt) as mount:
        for image in images:
            assert_no_invented_bytes(mount.raw(image), (1 << 20, 1 << 36))
        bounded(mount)


# ---- snapshot table -------------------------------------------------------------------


@pytest.fixture
def snapshotted(disk):
    qemu.img("snapshot", "-c", "one", disk)
    qemu.img("snapshot", "-c", "two", disk)
    qemu.write(disk, (0, 65536, "noise", 8))
    return disk


@pytest.mark.parametrize("offset,data", [
    (36, struct.pack(">I", 1025)), (36, struct.pack(">I", 0xffffffff)), (12, b"\xff\xff"),
    (14, b"\xff\xff")])
def test_snapshot_entry_beyond_its_limits(offset, data, snapshotted, mnt):
    """Strings or extra data that the file does not have: the earlier entries are saved, and a
    warning says that something is missing."""
    expected = qemu.to_raw(snapshotted, snapshotted.with_suffix(".raw")).read_bytes()
    first = qemu.to_raw(snapshotted, snapshotted.with_suffix(".one"), "one").read_bytes()
    with Qcow2File(snapshotted) as file:
        file.write_snapshots(file.snapshots())      # the last part of the file
        entry = file.snapshots()[-1]
        file.write(entry["place"] + offset, data)
        file.truncate(entry["place"] + 40 + entry["extra"] + len(entry["id"]) + len(entry["name"]))
    with Mount(snapshotted, mnt) as mount:
        told = [line for line in mount.stderr().splitlines() if "snapshot table" in line]
        assert len(told) == 1 and "disk.qcow2" in told[0], mount.stderr()
        assert read_all(mount.raw(snapshotted)) == expected
        assert os.listdir(mount.snapshots(snapshotted)) == ["one"]
        assert read_all(mount.snapshots(snapshotted) / "one" / "disk.raw") == first
        bounded(mount)


@pytest.mark.parametrize("field,value", [("l1_offset", 1), ("l1_offset", TOP), ("l1_offset", 0),
                                         ("l1_size", 0xffffffff), ("l1_size", 4194305)])
def test_damaged_snapshot_alone_is_lost(field, value, snapshotted, mnt):
    """The disk and the other snapshot stay readable."""
    expected = qemu.to_raw(snapshotted, snapshotted.with_suffix(".raw")).read_bytes()
    other = qemu.to_raw(snapshotted, snapshotted.with_suffix(".two"), "two").read_bytes()
    with Qcow2File(snapshotted) as file:
        place = file.snapshots()[0]["place"]
        if field == "l1_offset":
            file.write(place, struct.pack(">Q", value))
        else:
            file.write(place + 8, struct.pack(">I", value))
    with Mount(snapshotted, mnt) as mount:
        assert read_all(mount.raw(snapshotted)) == expected
        folder = mount.snapshots(snapshotted)
        assert read_all(folder / "two" / "disk.raw") == other
        with pytest.raises(OSError):
            read_all(folder / "one" / "disk.raw")
        bounded(mount)


def test_snapshot_table_in_the_header(snapshotted, mnt):
    """A table at the place of other data is read as it is, or refused: no crash."""
    for place in (0, 65536, 65536 * 3):
        with Qcow2File(snapshotted) as file:
            file.set("snapshots_offset", place)
            file.set("nb_snapshots", 5)
        result = procs.run(env.qimg(), "info", "--output=json", snapshotted, check=False, limit_s=20)
        assert result.status in (0, 1)


def test_every_header_field_has_a_row():
    """A field that is added to the format's description gets a test."""
    tested = {row[0] for row in BROKEN} | {"magic", "backing_file_size"}
    elsewhere = {"incompatible", "compatible", "autoclear", "compression_type"}
    assert set(HEADER) == tested | elsewhere
