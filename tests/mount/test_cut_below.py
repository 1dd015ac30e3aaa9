# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of an image cut below a mount that does not check for changes (nolock): missing bytes are
EIO, or their old content, and never zeros or an empty list."""

import errno
import json
import os
import struct

import pytest

from qtest import env, pattern, procs, qemu
from qtest.mount import Mount
from qtest.qcow2 import Qcow2File
from qtest.writing import opened

MIB = 1 << 20
EXT_BITMAPS = 0x23852875


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def assert_eio(call):
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == errno.EIO


def test_data_file(folder, mnt):
    data = folder / "disk.data"
    image = qemu.create(folder / "disk.qcow2", 4 * MIB, data_file=data)
    qemu.write(image, (0, 4 * MIB, "words", 3))
    with Mount(image, mnt, "-o", "nolock") as mount:
        os.truncate(data, 2 * MIB)
        with opened(mount.raw(image), os.O_RDONLY | os.O_DIRECT) as fd:
            assert os.pread(fd, 65536, MIB) == pattern.words(MIB, 65536, 3)
            assert_eio(lambda: os.pread(fd, 65536, 3 * MIB))


def test_vm_state(folder, mnt):
    """The rest of it is correct, the missing part an error."""
    image = qemu.create(folder / "disk.qcow2", MIB)
    qemu.write(image, (0, 2 * MIB, "words", 4, "-b"))
    qemu.img("snapshot", "-c", "running", image)
    with Qcow2File(image) as file:
        file.set_vm_state(0, 2 * MIB)
    whole = image.read_bytes()
    cut = whole.index(pattern.words(MIB, 512, 4))
    with Mount(image, mnt, "-o", "nolock") as mount:
        with opened(mount.snapshots(image) / "running" / "vmstate",
                    os.O_RDONLY | os.O_DIRECT) as fd:
            assert os.pread(fd, 4096, 0) == pattern.words(0, 4096, 4)   # the tables with it
            os.truncate(image, cut)
            assert os.pread(fd, 65536, MIB // 2) == pattern.words(MIB // 2, 65536, 4)
            assert_eio(lambda: os.pread(fd, 65536, MIB))


@pytest.mark.parametrize("kind", ["snapshots", "bitmaps"])
def test_list(kind, folder, mnt):
    """A list that cannot be read is reported as missing, also by an image opened then."""
    image = qemu.create(folder / "disk.qcow2", MIB)
    qemu.write(image, (0, MIB, "words", 4))
    if kind == "snapshots":
        qemu.img("snapshot", "-c", "the one", image)
    else:
        qemu.img("bitmap", "--add", image, "the one")
    with Qcow2File(image) as file:
        if kind == "snapshots":
            table = struct.unpack(">Q", file.read(64, 8))[0]
        else:
            data = next(d for _, t, d in file.extensions() if t == EXT_BITMAPS)
            table = struct.unpack(">Q", data[16:24])[0]
    with Mount(image, mnt, "-o", "nolock") as mount:
        os.truncate(image, table)
        facts = json.loads(mount.facts("disk", "info.json").read_text())
        if kind == "snapshots":     # as of the opening
            assert [s["name"] for s in facts["snapshots"]] == ["the one"]
        else:
            assert facts["format-specific"]["data"]["bitmaps-error"] == "Input/output error"
    facts = json.loads(procs.run(env.qimg(), "info", "--output=json", image).text)
    assert any(kind[:-1] in warning for warning in facts["warnings"]) or \
        "bitmaps-error" in facts["format-specific"]["data"], facts
