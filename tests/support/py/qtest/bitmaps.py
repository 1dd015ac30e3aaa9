# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent bitmaps: what QEMU sees of them, and how tests damage them."""

import json
import struct

from . import env, qcow2
from .procs import run

EXT_BITMAPS = 0x23852875
AUTOCLEAR_AT, BITMAPS_BIT = 88, 1
IN_USE, AUTO = 1, 2


def theirs(image, name):
    """[(start, length, is_dirty)] as QEMU tells it, with equal neighbours joined."""
    extents = json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", "--", "[",
                             "qemu-nbd", "-r", "-f", "qcow2", "-B", name, image, "]").text)
    joined = []
    for extent in extents:
        dirty = extent["type"] == 1
        if joined and joined[-1][2] == dirty:
            joined[-1] = (joined[-1][0], joined[-1][1] + extent["length"], dirty)
        else:
            joined.append((extent["offset"], extent["length"], dirty))
    return joined


def ours(image, name):
    text = run(env.qimg(), "bitmap", "--extents", "--output=json", image, name).text
    return from_json(json.loads(text))


def from_json(shown):
    assert shown["inconsistent"] is False
    return [(e["start"], e["length"], e["dirty"]) for e in shown["extents"]]


def dirty(extents):
    """[(start, end)] of the dirty extents."""
    return [(start, start + length) for start, length, is_dirty in extents if is_dirty]


def listed(image):
    """{name: object} as qimg bitmap lists them."""
    text = run(env.qimg(), "bitmap", "--list", "--output=json", image).text
    return {bitmap["name"]: bitmap for bitmap in json.loads(text)}


def extension_at(file):
    """The offset of the data of the bitmaps extension, and its fields."""
    at, data = next((at, data) for at, kind, data in file.extensions() if kind == EXT_BITMAPS)
    return at + 8, struct.unpack(">IIQQ", data)


def entries(image):
    """{name: (offset of its entry, table offset, table entries, flags)}"""
    found = {}
    with qcow2.Qcow2File(image) as file:
        if not any(kind == EXT_BITMAPS for _, kind, _ in file.extensions()):
            return found
        _, (n_bitmaps, _, _, at) = extension_at(file)
        for _ in range(n_bitmaps):
            table, n_entries, flags, _, _, n_name, n_extra = struct.unpack(
                ">QIIBBHI", file.read(at, 24))
            name = file.read(at + 24 + n_extra, n_name).decode()
            found[name] = (at, table, n_entries, flags)
            at += (24 + n_extra + n_name + 7) // 8 * 8
    return found


def flags(image):
    return {name: entry[3] for name, entry in entries(image).items()}


def are_valid(image):
    with qcow2.Qcow2File(image) as file:
        return struct.unpack(">Q", file.read(AUTOCLEAR_AT, 8))[0] & BITMAPS_BIT != 0
