# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounts of qcow version 1: read-only, below an overlay, in chains; hostile headers and tables.
tests/oracle/test_qcow1.py checks every byte."""

import os
import struct

import pytest
from test_hostile_tables import assert_damage

from qtest import env, pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.qcow1 import COMPRESSED, Qcow1File, Qcow1Writer, deflate, stream_entry

MIB = 1 << 20
CLUSTER = 4096
N = 16
TWO_TABLES = 64 + 4                 # clusters: with tables of 64 entries


def content(n=N, salt=1):
    return pattern.words(0, n * CLUSTER, salt)


def make(path, n=N, l2_bits=9, salt=1, backing=b"", compressed=()):
    """@n clusters of known content."""
    image = Qcow1Writer(n * CLUSTER, 12, l2_bits, backing)
    for number in range(n):
        data = content(n, salt)[number * CLUSTER:][:CLUSTER]
        if number in compressed:
            assert image.add_compressed(number, data)
        else:
            image.add_data(number, data)
    return image.save(path)


@pytest.fixture
def image(tmp_path):
    (tmp_path / "images").mkdir()
    return make(tmp_path / "images" / "disk.qcow", compressed=(2, 3, 9))


# ---- supported actions ----


def test_mount_ro(image, mnt):
    with Unchanged(image.parent), Mount(image, mnt) as mount:
        assert read_all(mount.raw(image)) == content()
        assert read_all(mount.raw(image), os.O_DIRECT) == content()
        with pytest.raises(OSError):
            os.open(mount.raw(image), os.O_WRONLY)


@pytest.mark.parametrize("option", ["rw", "rw,format=qcow"])
def test_rw_is_refused(option, image, mnt):
    with Unchanged(image.parent):
        refused("-o", option, image, mnt, file=image,
                contains=["qcow version 1", "read only", "-o cow", "convert"])


def test_cow(image, mnt):
    with Unchanged(image.parent), Mount(image, mnt, "-o", "cow") as mount:
        with open(mount.raw(image), "r+b", buffering=0) as file:
            file.seek(2 * CLUSTER + 100)            # inside a compressed cluster
            file.write(b"overlay")
            os.fsync(file.fileno())
        expected = bytearray(content())
        expected[2 * CLUSTER + 100:2 * CLUSTER + 107] = b"overlay"
        assert read_all(mount.raw(image)) == bytes(expected)


def test_cow_file_is_an_overlay_for_qemu(image, mnt, tmp_path):
    overlay = image.parent / "overlay.qcow2"
    with Unchanged(image), Mount(image, mnt, "-o", f"cow={overlay}") as mount:
        with open(mount.raw(image), "r+b", buffering=0) as file:
            file.write(b"kept")
    theirs = qemu.to_raw(overlay, tmp_path / "theirs").read_bytes()
    assert theirs == b"kept" + content()[4:]
    assert qemu.info_json(overlay)["backing-filename-format"] == "qcow"
    with Unchanged(image.parent), Mount(overlay, mnt) as mount:
        assert read_all(mount.raw(overlay)) == theirs


def test_chain_needs_leave_to_follow_probed_names(tmp_path, mnt):
    """qcow over qcow over raw: the top cannot store the format of the middle."""
    folder = tmp_path / "images"
    folder.mkdir()
    qemu.make_raw(folder / "base.img", N * CLUSTER, (0, N * CLUSTER, "words", 4))
    Qcow1Writer(N * CLUSTER, backing=b"base.img").save(folder / "middle.qcow")
    image = Qcow1Writer(N * CLUSTER, backing=b"middle.qcow")
    image.add_data(5, content()[5 * CLUSTER:6 * CLUSTER])
    top = image.save(folder / "top.qcow")
    below = pattern.words(0, N * CLUSTER, 4)
    expected = bytearray(below)
    expected[5 * CLUSTER:6 * CLUSTER] = content()[5 * CLUSTER:6 * CLUSTER]
    with Unchanged(folder):
        refused(top, mnt, file=top, contains=["middle.qcow", "probed as qcow", "qcow images cannot record it: allow",
                                            "backing=any"])
        for policy in ("any", str(folder)):
            with Mount(top, mnt, "-o", f"backing={policy}") as mount:
                assert read_all(mount.raw(top)) == bytes(expected)
                assert read_all(mount.facts("top", "layers", "1.raw")) == below
        refused("-o", "backing=none", top, mnt, file=top, contains=["middle.qcow"])


def test_backing_missing_and_loops(tmp_path, mnt):
    gone = Qcow1Writer(MIB, backing=b"gone.img").save(tmp_path / "a.qcow")
    refused(gone, mnt, file=gone, contains=["gone.img"])
    own = Qcow1Writer(MIB, backing=b"b.qcow").save(tmp_path / "b.qcow")
    refused("-o", "backing=any", own, mnt, file=own, contains=["loop"])
    for one, two in ((b"c.qcow", b"d.qcow"), (b"d.qcow", b"c.qcow")):
        Qcow1Writer(MIB, backing=two).save(tmp_path / one.decode())
    refused("-o", "backing=any", tmp_path / "c.qcow", mnt, contains=["loop"])


def test_encrypted_is_refused(image, mnt):
    with Qcow1File(image) as file:
        file.set("crypt_method", 1)
    refused(image, mnt, file=image, contains=["encrypted (aes)"])
    result = procs.run(env.qimg(), "info", image)
    assert "its data need its passphrase" in result.errors and "encrypted: yes" in result.text


# ---- hostile headers ------------------------------------------------------------------


HEADERS = {
    "cluster_bits-8": ({"cluster_bits": 8}, "must be 9 to 16"),
    "cluster_bits-17": ({"cluster_bits": 17}, "must be 9 to 16"),
    "cluster_bits-255": ({"cluster_bits": 255}, "must be 9 to 16"),
    "l2_bits-5": ({"l2_bits": 5}, "must be 6 to 13"),
    "l2_bits-14": ({"l2_bits": 14}, "must be 6 to 13"),
    "crypt-2": ({"crypt_method": 2}, "must be 0 or 1"),
    "size-0": ({"size": 0}, "must be at least 2"),
    "size-1": ({"size": 1}, "must be at least 2"),
    "size-max": ({"size": (1 << 64) - 1}, "more than the format can map"),
    "size-l1-limit": ({"size": ((1 << 31) // 8) << 21}, "more than the format can map"),
    "l1-odd": ({"l1_table_offset": 52}, "must be a multiple of 8"),
    "l1-on-header": ({"l1_table_offset": 40}, "must be a multiple of 8"),
    "l1-last": ({"l1_table_offset": (1 << 64) - 8}, "must be a multiple of 8"),
    "l1-63": ({"l1_table_offset": (1 << 63) - 8}, "must be a multiple of 8"),
    "name-long": ({"backing_file_offset": 48, "backing_file_size": 1024}, "at most 1023"),
    "name-max": ({"backing_file_offset": 48, "backing_file_size": (1 << 32) - 1}, "at most 1023"),
    "name-far": ({"backing_file_offset": (1 << 64) - 1, "backing_file_size": 2}, "at most 1023"),
    "name-nul": ({"backing_file_offset": 4, "backing_file_size": 4}, "NUL"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_header(name, image, mnt):
    fields, text = HEADERS[name]
    with Qcow1File(image) as file:
        for field, value in fields.items():
            file.set(field, value)
    with Unchanged(image):
        refused(image, mnt, file=image, contains=[text])


@pytest.mark.parametrize("length", [8, 47])
def test_cut_header(length, image, mnt):
    with Qcow1File(image) as file:
        file.truncate(length)
    refused(image, mnt, file=image, contains=["shorter than its header"])


def test_version_0_is_refused(image, mnt):
    """Never an existing version: neither the disk of version 1 nor, by default, a raw one."""
    with Qcow1File(image) as file:
        file.set("version", 0)
    refused(image, mnt, file=image, contains=["version", "format=raw"])
    with Mount(image, mnt, "-o", "format=raw") as mount:
        assert read_all(mount.raw(image)) == image.read_bytes()
    refused("-o", "format=qcow", image, mnt, file=image, contains=["must be 1"])


def test_largest_disk_needs_no_memory(tmp_path, mnt):
    """An L1 table of 2 GiB, in a sparse file."""
    n_l1 = ((1 << 31) - 1) // 8
    image = Qcow1Writer(2, 16, 13)
    image.l1_offset = 65536
    last = n_l1 - 1
    size = n_l1 << 29
    struct.pack_into(">Q", image.bytes, 24, size)
    struct.pack_into(">Q", image.bytes, 40, image.l1_offset)
    path = image.save(tmp_path / "huge.qcow")
    with Qcow1File(path) as file:
        table = 65536 + (n_l1 + 1) * 8 // 65536 * 65536 + 65536
        file.write(65536 + last * 8, struct.pack(">Q", table))
        file.write(table + 8191 * 8, struct.pack(">Q", table + 65536))
        file.write(table + 65536, b"end".ljust(65536, b"!"))
    with Unchanged(path), Mount(path, mnt) as mount:
        assert os.stat(mount.raw(path)).st_size == size
        with open(mount.raw(path), "rb", buffering=0) as file:
            for at, wanted in ((0, bytes(4)), (size // 2, bytes(4)), (size - 65536, b"end!")):
                assert os.pread(file.fileno(), 4, at) == wanted
            assert os.lseek(file.fileno(), size - (1 << 32), os.SEEK_DATA) == size - 65536
        if env.sanitizer() is None:
            assert procs.peak_rss_bytes(mount.pid) < 200 * MIB


# ---- hostile tables -------------------------------------------------------------------


ENTRIES = {
    "unaligned": lambda size: 0x4001,
    "beyond the end": lambda size: (size + 16 * CLUSTER) // 512 * 512,
    "far beyond the end": lambda size: 1 << 62,
    "the last offset": lambda size: (1 << 63) - 512,
    "compressed beyond the end": lambda size: stream_entry(12, 1 << 40, 100),
    "compressed at the last offset": lambda size: stream_entry(12, (1 << 51) - 1, 4095),
    "compressed without data": lambda size: stream_entry(12, 4096, 0),
    "not a stream": lambda size: stream_entry(12, 48, 4000),
    "everything set": lambda size: (1 << 64) - 1,
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_l2_entry(kind, image, mnt):
    with Qcow1File(image) as file:
        file.set_l2_entry(7 * CLUSTER, ENTRIES[kind](file.file_size()))
    assert_damage(image, mnt, {7}, content(), reason=kind != "not a stream", cluster=CLUSTER)


@pytest.mark.parametrize("extra", [b"", b"more behind the end"])
@pytest.mark.parametrize("length", [-1, 1])
def test_stream_of_another_length(length, extra, image, mnt):
    """A stream that inflates to less than a cluster is damage; of a longer one, the first part
    counts (QEMU)."""
    data = content()[7 * CLUSTER:8 * CLUSTER]
    whole = data[:length] if length < 0 else data + b"!"
    with Qcow1File(image) as file:
        stream = deflate(whole)
        at = file.file_size()
        file.write(at, stream + extra)
        file.set_l2_entry(7 * CLUSTER, stream_entry(12, at, len(stream) + len(extra)))
    assert_damage(image, mnt, {7} if length < 0 else set(), content(), reason=False, cluster=CLUSTER)


TABLES = {
    "odd": lambda size: 0x2001,
    "half a word": lambda size: 0x2004,
    "beyond the end": lambda size: size // 8 * 8 + 8 * CLUSTER,
    "far beyond the end": lambda size: 1 << 60,
    "the last offset": lambda size: (1 << 64) - 8,
}


@pytest.mark.parametrize("kind", TABLES)
def test_l1_entry(kind, tmp_path, mnt):
    image = make(tmp_path / "disk.qcow", TWO_TABLES, l2_bits=6)
    with Qcow1File(image) as file:
        file.set_l1_entry(0, TABLES[kind](file.file_size()))
    assert_damage(image, mnt, set(range(64)), content(TWO_TABLES), cluster=CLUSTER)


@pytest.mark.parametrize("place", [0, 48, 8])
def test_l2_table_on_the_header_or_itself(place, tmp_path, mnt):
    """Garbage is read as tables, and never hangs or crashes; other tables are correct."""
    image = make(tmp_path / "disk.qcow", TWO_TABLES, l2_bits=6)
    with Qcow1File(image) as file:
        file.set_l1_entry(0, place)
    expected = content(TWO_TABLES)
    with Unchanged(image), Mount(image, mnt) as mount:
        with open(mount.raw(image), "rb", buffering=0) as file:
            for number in range(64 if place else 0):
                try:
                    os.pread(file.fileno(), CLUSTER, number * CLUSTER)
                except OSError:
                    pass
            got = os.pread(file.fileno(), 4 * CLUSTER, 64 * CLUSTER)
            assert got == expected[64 * CLUSTER:]


def test_cut_file(tmp_path, mnt):
    """Clusters and the second table behind the cut are errors, not zeros."""
    image = make(tmp_path / "disk.qcow", TWO_TABLES, l2_bits=6)
    with Qcow1File(image) as file:
        file.truncate(file.l2_entry(40 * CLUSTER))
    assert_damage(image, mnt, set(range(40, TWO_TABLES)), content(TWO_TABLES), cluster=CLUSTER)


def test_cut_l1_table(tmp_path, mnt):
    image = Qcow1Writer(600 * 64 * 512, 9, 6)       # 600 L1 entries
    path = image.save(tmp_path / "disk.qcow")
    with Qcow1File(path) as file:
        file.truncate(48 + 8 * 58)                  # = 512
    with Unchanged(path), Mount(path, mnt) as mount:
        assert "L1 table is cut" in mount.stderr()
        with open(mount.raw(path), "rb", buffering=0) as file:
            assert os.pread(file.fileno(), 512, 57 * 64 * 512) == bytes(512)
            with pytest.raises(OSError):
                os.pread(file.fileno(), 512, 58 * 64 * 512)


def test_many_entries_of_one_stream(image, mnt):
    """Each is a separate cluster to the reader."""
    with Qcow1File(image) as file:
        word = file.l2_entry(2 * CLUSTER)
        assert word & COMPRESSED
        for number in (4, 5, 12):
            file.set_l2_entry(number * CLUSTER, word)
    expected = bytearray(content())
    for number in (4, 5, 12):
        expected[number * CLUSTER:(number + 1) * CLUSTER] = content()[2 * CLUSTER:3 * CLUSTER]
    assert_damage(image, mnt, set(), bytes(expected), cluster=CLUSTER)
