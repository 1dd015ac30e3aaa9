# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg check on damaged bitmaps: QEMU does not open such an image; ours names the fault, calls
nothing leaked that the bitmap may refer to, and frees nothing until the bitmap is removed."""

import json
import struct

import pytest

from qtest import bitmaps, env, qemu
from qtest.evidence import Unchanged
from qtest.procs import run
from qtest.qcow2 import Qcow2File

KIB, MIB = 1 << 10, 1 << 20
CLEAN, CORRUPTED, LEAKED = 0, 2, 3


def check(image, *options):
    result = run(env.qimg(), "check", "--output=json", *options, image, check=False)
    return result.status, json.loads(result.text)


@pytest.fixture
def image(tmp_path):
    """Bitmaps "a" to "c", each with two clusters of bits."""
    path = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, cluster_size=512)
    for name in "abc":
        qemu.img("bitmap", "--add", "-g", "512", path, name)
    qemu.io(path, "write 0 1k", "write 2M 4k")
    return path


def put(file, at, form, value):
    file.write(at, struct.pack(form, value))


# Damage of the entry at a place (or of its table), and the finding.
DAMAGES = {
    "type": (lambda f, at, table: f.write(at + 16, b"\2"), "type is unknown"),
    "flags": (lambda f, at, table: put(f, at + 12, ">I", 6), "unknown flags"),
    "granularity": (lambda f, at, table: f.write(at + 17, b"\x20"), "granularity"),
    "table-short": (lambda f, at, table: put(f, at + 8, ">I", 1), "size that the disk needs"),
    "table-long": (lambda f, at, table: put(f, at + 8, ">I", 17), "size that the disk needs"),
    "table-unaligned": (lambda f, at, table: put(f, at, ">Q", table + 8), "no valid place"),
    "table-beyond": (lambda f, at, table: put(f, at, ">Q", 1 << 40), "beyond the end"),
    "bits-reserved": (lambda f, at, table: put(f, table, ">Q", 3), "no place"),
    "extra-data": (lambda f, at, table: f.write(at + 18, struct.pack(">HI", 0, 1)), "extra data"),
    "name-twice": (lambda f, at, table: f.write(at + 24, b"c"), "same name"),
    "directory": (lambda f, at, table: put(f, at + 20, ">I", 0xffffffff), "directory"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(damage, image):
    change, text = DAMAGES[damage]
    at, table, *_ = bitmaps.entries(image)["b"]
    with Qcow2File(image) as file:
        change(file, at, table)
    with Unchanged(image):
        status, found = check(image)
    assert status == CORRUPTED and found["leaks"] == 0
    assert any(text in finding["text"] for finding in found["findings"]), found["findings"]
    assert qemu.img("check", image, check=False).status != CLEAN or damage == "name-twice"
    before = image.read_bytes()
    for options in (("-r", "leaks"), ("-r", "all")):
        assert check(image, *options)[0] == CORRUPTED
    assert image.read_bytes() == before
    if damage in ("directory", "extra-data"):
        run(env.qimg(), "bitmap", "--remove-all", image)
    else:
        run(env.qimg(), "bitmap", "--remove", image, "c" if damage == "name-twice" else "b")
        assert bitmaps.dirty(bitmaps.ours(image, "a")) == [(0, KIB), (2 * MIB, 2 * MIB + 4 * KIB)]
    assert check(image)[0] == LEAKED
    assert check(image, "-r", "leaks")[0] == CLEAN
    qemu.img("check", image)


def test_in_use(image):
    """A bitmap left in use is no fault, whatever its size is, and its clusters are counted."""
    at, *_ = bitmaps.entries(image)["b"]
    with Qcow2File(image) as file:
        put(file, at + 8, ">I", 1)
        put(file, at + 12, ">I", 3)
    status, found = check(image)
    theirs = qemu.img("check", "--output=json", image, check=False)
    assert status == theirs.status == LEAKED
    assert found["leaks"] == json.loads(theirs.text)["leaks"] == 1
    shown = qemu.info_json(image)["format-specific"]["data"]["bitmaps"]
    ours = json.loads(run(env.qimg(), "info", "--output=json", image).text)
    key = lambda item: item["name"]  # noqa: E731
    assert sorted(ours["format-specific"]["data"]["bitmaps"], key=key) == sorted(shown, key=key)
