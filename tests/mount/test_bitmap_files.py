# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent bitmaps below .qcowfs: names, extents equal to QEMU's, and those without usable
bits."""

import json
import os
import struct

import pytest

from qtest import bitmaps, qemu
from qtest.mount import Mount
from qtest.qcow2 import Qcow2File
from qtest.writing import opened, pwrite

KIB, MIB = 1 << 10, 1 << 20
DISK = 3 * MIB + 512


def shown(mount, name, image="disk"):
    return json.loads(mount.facts(image, "bitmaps", name).read_text())


def add(image, *names, granularity="4k"):
    for name in names:
        qemu.img("bitmap", "--add", "-g", granularity, image, name)
    return image


def test_layers(tmp_path, mnt):
    """One directory for all layers; each bitmap covers the disk of its layer."""
    base = add(qemu.create(tmp_path / "base.qcow2", MIB, cluster_size=512), "both", "base")
    qemu.io(base, "write 64k 8k", "write 1023k 1k")
    disk = add(qemu.create(tmp_path / "disk.qcow2", DISK, "base.qcow2"), "both", "top@1")
    qemu.io(disk, "write 3M 512", "write 2M 70k")
    layers = {"both.json": (disk, "both", 0), "top@1.json": (disk, "top@1", 0),
              "both@1.json": (base, "both", 1), "base.json": (base, "base", 1)}
    with Mount(disk, mnt) as mount:
        assert sorted(os.listdir(mount.facts("disk", "bitmaps"))) == sorted(layers)
        for file, (image, name, layer) in layers.items():
            facts = shown(mount, file)
            assert bitmaps.from_json(facts) == bitmaps.theirs(image, name)
            assert (facts["name"], facts["layer"]) == (name, layer)
            assert facts["disk-size"] == (MIB if layer else DISK) and facts["enabled"]
        with pytest.raises(FileNotFoundError):
            shown(mount, "both")
        with pytest.raises(OSError):
            open(mount.facts("disk", "bitmaps", "both.json"), "r+b")
        assert os.listdir(mount.facts("disk")).count("bitmaps") == 1


NAMES = ["plain", "with/slash", "100%", ".hidden", "new\nline", "x" * 1023, "x" * 1000, "x" * 300]


def test_names(tmp_path, mnt):
    """Any bytes are a name; the JSON has the name itself."""
    disk = add(qemu.create(tmp_path / "disk.qcow2", MIB), *NAMES, "raw-")
    at, *_ = bitmaps.entries(disk)["raw-"]
    with Qcow2File(disk) as file:
        file.write(at + 24, b"raw\xff")
    with Mount(disk, mnt) as mount:
        files = os.listdir(os.fsencode(mount.facts("disk", "bitmaps")))
        assert all(len(file) <= 255 for file in files)
        assert {b"plain.json", b"with%2Fslash.json", b"100%25.json", b"%2Ehidden.json",
                b"new%0Aline.json", b"raw%FF.json"} <= set(files)
        assert {shown(mount, os.fsdecode(file))["name"] for file in files} == {*NAMES, "raw%FF"}


def put(file, at, form, value):
    file.write(at, struct.pack(form, value))


UNUSABLE = {
    "in-use": (lambda file, at, table: put(file, at + 12, ">I", 3), "in use"),
    "stale": (lambda file, at, table: file.write(bitmaps.AUTOCLEAR_AT, bytes(8)), "stale"),
    "damaged": (lambda file, at, table: put(file, table, ">Q", 1 << 40), "beyond the end"),
    "same-name": (lambda file, at, table: file.write(at + 24, b"c"), "same name"),
}


@pytest.mark.parametrize("kind, options", [("in-use", "rw"), ("stale", "ro"), ("damaged", "rw"),
                                           ("same-name", "ro")])
def test_unusable(kind, options, tmp_path, mnt):
    """Listed with the reason, and the disk is read as ever."""
    disk = add(qemu.create(tmp_path / "disk.qcow2", MIB), "b", "c")
    qemu.io(disk, "write -P 7 64k 1k")
    change, reason = UNUSABLE[kind]
    at, table, *_ = bitmaps.entries(disk)["b"]
    with Qcow2File(disk) as file:
        change(file, at, table)
    with Mount(disk, mnt, "-o", options) as mount:
        files = sorted(os.listdir(mount.facts("disk", "bitmaps")))
        assert len(files) == 2
        facts = shown(mount, files[0])
        assert facts["inconsistent"] is True and reason in facts["reason"]
        assert "extents" not in facts
        assert shown(mount, files[1])["inconsistent"] == (kind in ("stale", "same-name"))
        with opened(mount.raw(disk), os.O_RDONLY) as fd:
            assert os.pread(fd, KIB, 64 * KIB) == b"\7" * KIB


def test_live(tmp_path, mnt):
    """A writable mount shows the bits that are not stored yet."""
    disk = add(qemu.create(tmp_path / "disk.qcow2", MIB), "b")
    qemu.img("bitmap", "--disable", disk, "b")
    add(disk, "e")
    with Mount(disk, mnt, "-o", "rw") as mount, opened(mount.raw(disk)) as fd:
        assert bitmaps.dirty(bitmaps.from_json(shown(mount, "e.json"))) == []
        pwrite(fd, b"x", 64 * KIB)
        assert bitmaps.dirty(bitmaps.from_json(shown(mount, "e.json"))) == [(64 * KIB, 68 * KIB)]
        assert bitmaps.dirty(bitmaps.from_json(shown(mount, "b.json"))) == []
        assert mount.facts("disk", "bitmaps", "e.json").stat().st_size == 0
    assert bitmaps.dirty(bitmaps.theirs(disk, "e")) == [(64 * KIB, 68 * KIB)]


def test_none(tmp_path, mnt):
    disk = qemu.make_raw(tmp_path / "disk.img", MIB)
    with Mount(disk, mnt) as mount:
        assert os.listdir(mount.facts("disk", "bitmaps")) == []
