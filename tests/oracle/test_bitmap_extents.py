# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents of bitmaps, compared with QEMU; and bitmaps without usable bits, with the reason."""

import json
import struct

import pytest

from qtest import bitmaps, env, qemu
from qtest.evidence import Unchanged
from qtest.procs import run
from qtest.qcow2 import Qcow2File

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

MATRIX = [(cluster, granularity)
          for cluster in (512, 64 * KIB, 2 * MIB)
          for granularity in (512, 4 * KIB, 64 * KIB, MIB, 2 * GIB)]
SIZES = {512: 9 * MIB + 512, 64 * KIB: 3 * GIB + 7 * 512, 2 * MIB: 5 * GIB + 513 * 512}


def scattered(size):
    """Places of writes: the ends, short runs, and neighbours."""
    return [(0, 512), (size - 512, 512), (size // 3, 70 * KIB), (size // 2 - 512, KIB),
            (MIB, 4 * KIB), (MIB + 4 * KIB, 4 * KIB), (5 * MIB + 512, 512)]


@pytest.mark.parametrize("cluster, granularity", MATRIX)
def test_same_as_qemu(cluster, granularity, tmp_path):
    size = SIZES[cluster]
    image = qemu.create(tmp_path / "disk.qcow2", size, cluster_size=cluster)
    qemu.img("bitmap", "--add", "-g", str(granularity), image, "b")
    qemu.io(image, *[f"write -P 7 {at} {n}" for at, n in scattered(size)])
    with Unchanged(image):
        extents = bitmaps.ours(image, "b")
    assert extents == bitmaps.theirs(image, "b")
    assert len(bitmaps.dirty(extents)) > (granularity < MIB)
    assert extents[-1][0] + extents[-1][1] == size


def test_all_ones_and_zeros(tmp_path):
    """Entries of the table without a cluster of bits, of either kind."""
    image = qemu.create(tmp_path / "disk.qcow2", 64 * MIB, cluster_size=512)
    qemu.img("bitmap", "--add", "-g", "4k", image, "b")
    qemu.io(image, "write -z 16M 16M", "write -z 40M 4k")
    _, table, n_entries, _ = bitmaps.entries(image)["b"]
    with Qcow2File(image) as file:
        file.write(table, struct.pack(">Q", 1))
        words = struct.unpack(f">{n_entries}Q", file.read(table, 8 * n_entries))
    assert words[0] == 1 and 0 in words and max(words) > 1
    extents = bitmaps.ours(image, "b")
    assert extents == bitmaps.theirs(image, "b")
    assert bitmaps.dirty(extents)[0] == (0, 32 * MIB)


def test_backing_file(tmp_path):
    base = qemu.create(tmp_path / "base.qcow2", 3 * MIB)
    qemu.img("bitmap", "--add", "-g", "4k", base, "b")
    qemu.io(base, "write 1M 64k")
    top = qemu.create(tmp_path / "top.qcow2", 8 * MIB, "base.qcow2")
    qemu.img("bitmap", "--add", "-g", "1M", top, "c")
    qemu.io(top, "write 7M 1")
    listed = bitmaps.listed(top)
    assert {name: item["layer"] for name, item in listed.items()} == {"b": 1, "c": 0}
    assert listed["b"]["disk-size"] == 3 * MIB
    text = run(env.qimg(), "bitmap", "--list", top).text
    assert "b (layer 1): granularity 4.0 KiB, enabled\n" in text
    assert bitmaps.dirty(bitmaps.ours(base, "b")) == [(MIB, MIB + 64 * KIB)]
    assert bitmaps.ours(top, "b") == bitmaps.ours(base, "b") == bitmaps.theirs(base, "b")
    assert bitmaps.dirty(bitmaps.ours(top, "c")) == [(7 * MIB, 8 * MIB)]
    qemu.img("bitmap", "--add", top, "b")      # the upper one is meant from now on
    assert bitmaps.dirty(bitmaps.ours(top, "b")) == []


def test_human(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", MIB)
    qemu.img("bitmap", "--add", image, "b")
    qemu.img("bitmap", "--add", "--disable", "-g", "512", image, "c")
    qemu.io(image, "write 64k 1k")
    text = run(env.qimg(), "bitmap", "--list", image).text
    assert text == "b: granularity 64.0 KiB, enabled\nc: granularity 512 bytes, disabled\n"
    lines = run(env.qimg(), "bitmap", "--extents", image, "b").text.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "0x10000", "clean"], ["0x10000", "0x10000", "dirty"], ["0x20000", "0xe0000", "clean"]]
    missing = run(env.qimg(), "bitmap", "--extents", image, "d", check=False)
    assert missing.status == 1 and 'no bitmap "d"' in missing.errors


# ---- bitmaps that say nothing ------------------------------------------------------------------

def put(file, at, form, value):
    file.write(at, struct.pack(form, value))


# Changes of an entry at a place in the file (and of its table), and the reason shown.
DAMAGES = {
    "in-use": (lambda f, at, table: put(f, at + 12, ">I", 3), None),
    "flags": (lambda f, at, table: put(f, at + 12, ">I", 6), "unknown flags"),
    "type": (lambda f, at, table: f.write(at + 16, b"\2"), "type"),
    "granularity": (lambda f, at, table: f.write(at + 17, b"\x08"), "granularity"),
    "granularity-max": (lambda f, at, table: f.write(at + 17, b"\xff"), "granularity"),
    "name-empty": (lambda f, at, table: (put(f, at + 18, ">H", 0), put(f, at + 20, ">I", 1)),
                   "extra data"),
    "name-nul": (lambda f, at, table: f.write(at + 24, b"\0"), "NUL"),
    "name-twice": (lambda f, at, table: f.write(at + 24, b"c"), "same name"),
    "table-unaligned": (lambda f, at, table: put(f, at, ">Q", table + 8), "table"),
    "table-zero": (lambda f, at, table: put(f, at, ">Q", 0), "table"),
    "table-beyond": (lambda f, at, table: put(f, at, ">Q", 1 << 40), "beyond the end"),
    "table-longer": (lambda f, at, table: put(f, at + 8, ">I", 2), "size"),
    "table-huge": (lambda f, at, table: put(f, at + 8, ">I", 0x8000000), "no valid place or size"),
    "table-long": (lambda f, at, table: put(f, at + 8, ">I", 0x2000), "size"),
    "table-none": (lambda f, at, table: put(f, at + 8, ">I", 0), "table"),
    "bits-beyond": (lambda f, at, table: put(f, table, ">Q", 1 << 40), "beyond the end"),
    "bits-unaligned": (lambda f, at, table: put(f, table, ">Q", 0x10200), "no place"),
    "bits-reserved": (lambda f, at, table: put(f, table, ">Q", 3), "no place"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(damage, tmp_path):
    """The reason is shown, nothing is said of the bits, and the other bitmap and the disk are
    read as ever."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB)
    for name in "bc":
        qemu.img("bitmap", "--add", image, name)
    qemu.io(image, "write -P 7 64k 1k")
    change, reason = DAMAGES[damage]
    at, table, _, _ = bitmaps.entries(image)["b"]
    with Qcow2File(image) as file:
        change(file, at, table)
    with Unchanged(image):
        text = run(env.qimg(), "bitmap", "--list", "--output=json", image).text
        first, second = json.loads(text)
        assert first["in-use"] == (reason is None)
        assert (reason or "") in first.get("damaged", "")
        refused = run(env.qimg(), "bitmap", "--extents", image, first["name"], check=False)
        assert refused.status == 1
        assert "cannot be told" in refused.errors or damage == "name-nul"
        if damage != "name-twice":
            assert bitmaps.dirty(bitmaps.ours(image, "c")) == [(64 * KIB, 128 * KIB)]
        raw = tmp_path / "out.raw"
        run(env.qimg(), "copy-out", image, raw)
        assert raw.read_bytes()[64 * KIB:65 * KIB] == b"\7" * KIB


def test_stale(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", MIB)
    qemu.img("bitmap", "--add", image, "b")
    with Qcow2File(image) as file:
        file.write(bitmaps.AUTOCLEAR_AT, bytes(8))
    assert bitmaps.listed(image)["b"]["stale"] is True
    refused = run(env.qimg(), "bitmap", "--extents", image, "b", check=False)
    assert refused.status == 1 and "stale" in refused.errors


@pytest.mark.parametrize("field, value", [("n", 2), ("bytes", 4096), ("offset", 1 << 40)])
def test_damaged_directory(field, value, tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", MIB)
    qemu.img("bitmap", "--add", image, "b")
    with Qcow2File(image) as file:
        at, _ = bitmaps.extension_at(file)
        place, form = {"n": (0, ">I"), "bytes": (8, ">Q"), "offset": (16, ">Q")}[field]
        put(file, at + place, form, value)
    result = run(env.qimg(), "bitmap", "--list", image)
    assert "director" in result.errors
