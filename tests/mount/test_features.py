# SPDX-License-Identifier: GPL-2.0-or-later
"""Feature bits, header extensions and encryption: images that open with a warning, that open
silently, and that are refused rather than shown wrongly. Spec: qcow2, "Feature bits"."""

import json
import os
import struct
import subprocess

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.qcow2 import (CORRUPT, DIRTY, EXT_BACKING_FORMAT, EXT_DATA_FILE, EXT_FEATURE_NAMES, ZONED,
                         Qcow2File)

MIB = 1 << 20


@pytest.mark.parametrize("bits,words", [(DIRTY, ["dirty"]), (CORRUPT, ["corrupt"]),
                                        (DIRTY | CORRUPT, ["dirty", "corrupt"])])
def test_opens_with_a_warning(bits, words, disk, mnt, disk_content):
    with Qcow2File(disk) as file:
        file.set("incompatible", bits)
    with Unchanged(disk):
        with Mount(disk, mnt) as mount:
            assert read_all(mount.raw(disk)) == disk_content
            told = mount.stderr().lower()
            for word in words:
                lines = [line for line in told.splitlines() if word in line]
                assert lines and "disk.qcow2" in lines[0], told
    with Qcow2File(disk) as file:
        assert file.get("incompatible") == bits


def test_dirty_image_made_by_qemu(tmp_path, mnt):
    """A lazy-refcounts image whose writer was killed: refcounts are wrong, the mapping is not."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, lazy_refcounts="on")
    writer = subprocess.Popen([env.find_tool("qemu-io"), str(image)], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_flushed():
        with Qcow2File(image) as file:
            return file.get("incompatible") & DIRTY and file.l2_entry(0)

    try:
        writer.stdin.write(b"write -P 5 0 64k\nflush\n")
        writer.stdin.flush()
        procs.wait_until(is_flushed, "the L2 entry and the dirty bit")
    finally:
        writer.kill()
        writer.wait()
        writer.stdin.close()
    with Unchanged(image), Mount(image, mnt) as mount:
        assert read_all(mount.raw(image)) == b"\5" * 65536 + bytes(MIB - 65536)
        assert "dirty" in mount.stderr()


@pytest.mark.parametrize("bit", [6, 17, 40, 62, 63])
def test_unknown_incompatible_bit(bit, disk, mnt):
    with Qcow2File(disk) as file:
        file.set("incompatible", 1 << bit)
    with Unchanged(disk):
        refused(disk, mnt, file=disk, contains=["incompatible", str(bit)])


def feature_table(*entries):
    return b"".join(struct.pack(">BB46s", kind, bit, name) for kind, bit, name in entries)


def test_unknown_bit_is_named_by_the_table(disk, mnt):
    with Qcow2File(disk) as file:
        file.set("incompatible", 1 << 40 | 1 << 41)
        file.set_extensions([(EXT_FEATURE_NAMES, feature_table(
            (0, 0, b"dirty bit"), (1, 40, b"compatible one"), (0, 40, b"time travel"),
            (2, 40, b"autoclear one"), (0, 41, b"x" * 46)))])
    match = refused(disk, mnt, file=disk, contains=["time travel", "x" * 46])
    assert "compatible one" not in match.string.replace("incompatible", "")


def test_name_of_a_bit_is_escaped(disk, mnt):
    with Qcow2File(disk) as file:
        file.set("incompatible", 1 << 40)
        file.set_extensions([(EXT_FEATURE_NAMES, feature_table((0, 40, b"a\nb\x1b[2Jc\xff")))])
    match = refused(disk, mnt, file=disk)
    assert "\x1b" not in match.string and match.string.count("\n") == 1


@pytest.mark.parametrize("table", [b"", b"\0", b"\0\x28abc", feature_table((0, 200, b"beyond")),
                                   feature_table((9, 40, b"no kind"))])
def test_odd_feature_tables(table, disk, mnt):
    with Qcow2File(disk) as file:
        file.set("incompatible", 1 << 40)
        file.set_extensions([(EXT_FEATURE_NAMES, table)])
    refused(disk, mnt, file=disk, contains=["40"])


@pytest.mark.parametrize("field,value", [("compatible", 1), ("compatible", 1 << 63 | 2),
                                         ("autoclear", 1 << 63 | 4), ("autoclear", 1)])
def test_other_bits_do_not_matter(field, value, disk, mnt, disk_content):
    """Including autoclear bit 0 without its extension: readers ignore bitmaps."""
    with Qcow2File(disk) as file:
        file.set(field, value)
    with Unchanged(disk), Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content


def test_zoned_is_refused(disk, mnt):
    with Qcow2File(disk) as file:
        file.set("incompatible", ZONED)
    refused(disk, mnt, file=disk, contains=["zoned"])


def test_unknown_extensions_are_ignored(disk, mnt, disk_content):
    with Qcow2File(disk) as file:
        file.set_extensions([(0x12345678, b"odd length!"), (0x9abcdef0, b""),
                             (0x12345678, b"twice"), (0x11111111, b"x" * 3000)])
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content


def test_longer_header(disk, mnt, disk_content):
    """The header's own length skips fields of a later version."""
    with Qcow2File(disk) as file:
        extensions = [(kind, data) for _, kind, data in file.extensions()]
        file.write(112, b"unknown!" * 2)
        file.set("header_length", 128)
        file.set_extensions(extensions)
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content


def test_shortest_header_of_version_3(disk, mnt, disk_content):
    """104 bytes: no compression type."""
    with Qcow2File(disk) as file:
        file.set("header_length", 104)
        file.set_extensions([])
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content


def test_version_2_reads_no_later_field(tmp_path, mnt):
    """Bytes from 72 on are extensions there: bits in them mean nothing."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, compat="0.10")
    qemu.write(image, (0, 65536, "words", 1))
    expected = qemu.to_raw(image, tmp_path / "expected").read_bytes()
    with Qcow2File(image) as file:
        file.set_extensions([(0x7fffffff, b"\xff" * 64)])
    with Mount(image, mnt) as mount:
        assert read_all(mount.raw(image)) == expected


# ---- data files -----------------------------------------------------------------------


def test_data_file_without_a_name(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data")
    with Qcow2File(image) as file:
        file.set_extensions([(k, d) for _, k, d in file.extensions() if k != EXT_DATA_FILE])
    refused(image, mnt, file=image, contains=["data file"])


def test_missing_data_file(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data")
    (tmp_path / "disk.data").unlink()
    refused(image, mnt, file=image, contains=["disk.data", "No such file"])


def test_raw_bit_without_data_file(disk, mnt):
    with Qcow2File(disk) as file:
        file.set("autoclear", 2)
    refused(disk, mnt, file=disk, contains=["data file"])


def test_data_file_name_with_nul(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data")
    with Qcow2File(image) as file:
        file.set_extensions([(EXT_DATA_FILE, b"disk.data\0x")])
    refused(image, mnt, file=image, contains=["data file"])


# ---- compression ----------------------------------------------------------------------


@pytest.mark.parametrize("kind,bit", [(1, 0), (0, 8), (2, 8), (255, 8), (255, 0)])
def test_compression_type(kind, bit, disk, mnt):
    with Qcow2File(disk) as file:
        file.set("compression_type", kind)
        file.set("incompatible", bit)
    refused(disk, mnt, file=disk, contains=["compression"])


# ---- encryption -----------------------------------------------------------------------


def encrypted(tmp_path, method):
    return qemu.create_encrypted(tmp_path / "secret.qcow2", MIB, method)


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_encrypted_is_refused(method, tmp_path, mnt):
    image = encrypted(tmp_path, method)
    with Unchanged(image):
        refused(image, mnt, file=image, contains=["encrypt"])


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_encrypted_backing_is_refused(method, tmp_path, mnt):
    encrypted(tmp_path, method)
    top = qemu.create(tmp_path / "top.qcow2", MIB)
    with Qcow2File(top) as file:
        file.set_backing(b"secret.qcow2", b"qcow2")
    refused(top, mnt, file=top, contains=["secret.qcow2", "encrypt"])


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_encrypted_facts_can_be_seen(method, tmp_path):
    image = encrypted(tmp_path, method)
    info = json.loads(procs.run(env.qimg(), "info", "--output=json", image).stdout)
    assert info["virtual-size"] == MIB and info.get("encrypted") is True


# ---- names of backing files -----------------------------------------------------------


def test_backing_name_is_kept_apart_from_the_extensions(tmp_path, mnt):
    """The name may lie anywhere in the first cluster, and need not end in NUL."""
    base = qemu.make_raw(tmp_path / "b", MIB, (0, MIB, "words", 1))
    image = qemu.create(tmp_path / "disk.qcow2", MIB, "b", "raw")
    with Qcow2File(image) as file:
        file.write(65535, b"b")
        file.set("backing_file_offset", 65535)
        file.set("backing_file_size", 1)
    with Mount(image, mnt) as mount:
        assert read_all(mount.raw(image)) == base.read_bytes()
        assert os.stat(mount.facts("disk", "layers", "1.raw")).st_size == MIB


def test_offset_without_a_name(disk, mnt, disk_content):
    """A name of no bytes is no backing file."""
    with Qcow2File(disk) as file:
        file.set("backing_file_offset", 512)
        file.set("backing_file_size", 0)
    with Mount(disk, mnt) as mount:
        assert read_all(mount.raw(disk)) == disk_content
