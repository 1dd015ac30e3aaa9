# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent bitmaps as qimg info lists them, compared with qemu-img."""

import json
import struct

import pytest

from qtest import env, qemu
from qtest.evidence import Unchanged
from qtest.procs import run
from qtest.qcow2 import Qcow2File

MIB = 1 << 20
EXT_BITMAPS = 0x23852875
NAMES = ["first", "with space", "ü", "x" * 1023]


def with_bitmaps(path, **options):
    qemu.create(path, 8 * MIB, **options)
    for number, name in enumerate(NAMES):
        more = ["--disable"] if number % 2 else []
        qemu.img("bitmap", "--add", "-g", str(4096 << number), *more, path, name)
    return path


def listed(image):
    info = json.loads(run(env.qimg(), "info", "--output=json", image).stdout)
    assert info["chain"][0]["format-specific"] == info["format-specific"]
    return info["format-specific"]["data"]


@pytest.mark.parametrize("cluster", [512, 4096, 65536, 2 * MIB])
def test_list(cluster, tmp_path):
    image = with_bitmaps(tmp_path / "disk.qcow2", cluster_size=cluster)
    theirs = qemu.info_json(image)["format-specific"]["data"]["bitmaps"]
    with Unchanged(image):
        ours = listed(image)["bitmaps"]
    key = lambda bitmap: bitmap["name"]  # noqa: E731
    assert sorted(ours, key=key) == sorted(theirs, key=key)
    text = run(env.qimg(), "info", image).text
    assert "    first: granularity 4.0 KiB, auto\n" in text
    assert "    with space: granularity 8.0 KiB\n" in text


def test_in_use(tmp_path):
    image = with_bitmaps(tmp_path / "disk.qcow2")
    with Qcow2File(image) as file:
        data = next(d for _, t, d in file.extensions() if t == EXT_BITMAPS)
        directory = struct.unpack(">Q", data[16:24])[0]
        flags = struct.unpack(">I", file.read(directory + 12, 4))[0]
        file.write(directory + 12, struct.pack(">I", flags | 1))
    assert "in-use" in listed(image)["bitmaps"][0]["flags"]
    assert "in-use" not in listed(image)["bitmaps"][1]["flags"]


def test_stale(tmp_path):
    """A program without support for bitmaps has written: they are invalid."""
    image = with_bitmaps(tmp_path / "disk.qcow2")
    with Qcow2File(image) as file:
        file.write(88, bytes(8))
    assert "bitmaps" not in listed(image)


@pytest.mark.parametrize("where", ["directory", "entry"])
def test_damaged(where, tmp_path):
    """The rest of the facts is shown."""
    image = with_bitmaps(tmp_path / "disk.qcow2")
    with Qcow2File(image) as file:
        data = next(d for _, t, d in file.extensions() if t == EXT_BITMAPS)
        directory = struct.unpack(">Q", data[16:24])[0]
        if where == "directory":
            at = next(at for at, kind, _ in file.extensions() if kind == EXT_BITMAPS)
            file.write(at + 8 + 16, struct.pack(">Q", 1 << 40))
        else:
            file.write(directory + 18, b"\xff\xff")     # the length of a name
    shown = listed(image)
    assert "bitmaps" not in shown and shown["bitmaps-error"]


def test_none(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", MIB)
    assert "bitmaps" not in listed(image)
