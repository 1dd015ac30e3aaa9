# SPDX-License-Identifier: GPL-2.0-or-later
"""One file of a chain, whatever its base or data file is: info, map and the list of snapshots
show it, with the trouble as a warning; copying refuses. Names that are no local files."""

import json
import os

import pytest

from qtest import env, procs, qemu
from qtest.qcow2 import Qcow2File

MIB = 1 << 20


def qimg(*argv, check=True):
    return procs.run(env.qimg(), *argv, check=check)


def facts(image, *options):
    result = qimg("info", "--output=json", *options, image)
    assert result.status == 0
    return json.loads(result.text)


@pytest.fixture
def top(tmp_path):
    """top.qcow2, 1 MiB with its first cluster written and a snapshot, over base.img."""
    qemu.make_raw(tmp_path / "base.img", MIB, (0, MIB, "words", 1))
    image = qemu.create(tmp_path / "top.qcow2", MIB, "base.img", "raw")
    qemu.write(image, (0, 65536, "words", 2))
    qemu.img("snapshot", "-c", "before", image)
    return image


def missing(top):
    os.remove(top.parent / "base.img")
    return (), "base.img"


def outside(top):
    (top.parent / "other").mkdir()
    os.rename(top.parent / "base.img", top.parent / "other/base.img")
    (top.parent / "images").mkdir()
    moved = top.parent / "images/top.qcow2"
    with Qcow2File(top) as file:
        file.set_backing(b"../other/base.img", b"raw")
    os.rename(top, moved)
    return (), "backing="


def forbidden(top):
    return ("-o", "backing=none"), "backing=none"


def foreign(top):
    (top.parent / "base.img").write_bytes(b"KDMV" + bytes(MIB - 4))
    with Qcow2File(top) as file:
        file.set_extensions([])
        file.set_backing(b"base.img")
    return (), "VMDK"


def unknown_format(top):
    with Qcow2File(top) as file:
        file.set_backing(b"base.img", b"vmdk")
    return (), "vmdk"


def protocol(top):
    with Qcow2File(top) as file:
        file.set_backing(b"nbd://host/export", b"raw")
    return (), "protocol"


def loop(top):
    with Qcow2File(top) as file:
        file.set_backing(b"top.qcow2", b"qcow2")
    return (), "loop"


def fifo(top):
    os.remove(top.parent / "base.img")
    os.mkfifo(top.parent / "base.img")
    return (), "FIFO"


@pytest.mark.parametrize("spoil", [missing, outside, forbidden, foreign, unknown_format, protocol,
                                   loop, fifo])
def test_file_is_shown(spoil, top, tmp_path):
    options, word = spoil(top)
    if not top.exists():
        top = top.parent / "images/top.qcow2"
    info = facts(top, *options)
    assert info["format"] == "qcow2" and len(info["chain"]) == 1
    assert [s["name"] for s in info["snapshots"]] == ["before"]
    assert len(info["warnings"]) == 1 and word in info["warnings"][0], info["warnings"]
    human = qimg("info", *options, top)
    assert "before" in human.text and word in human.errors
    assert "before" in qimg("snapshot", "list", *options, top).text
    extents = json.loads(qimg("map", "--output=json", *options, top).text)
    assert extents[0]["start"] == 0 and extents[0]["length"] == 65536 and extents[0]["data"]
    assert extents[1]["start"] == 65536 and "backing file" in extents[1]["error"]
    assert qimg("check", top).status == 0
    refused = qimg("copy-out", *options, top, tmp_path / "out.raw", check=False)
    assert refused.status == 1 and word in refused.errors
    assert not (tmp_path / "out.raw").exists()


def test_chain_as_far_as_it_goes(top):
    last = qemu.create(top.parent / "last.qcow2", MIB, "top.qcow2", "qcow2")
    os.remove(top.parent / "base.img")
    info = facts(last)
    assert [os.path.basename(layer["filename"]) for layer in info["chain"]] == ["last.qcow2",
                                                                              "top.qcow2"]
    assert "base.img" in info["warnings"][0]


def test_data_file_that_is_missing(tmp_path):
    image = tmp_path / "disk.qcow2"
    qemu.create(image, MIB, data_file="disk.data")
    qemu.write(image, (0, 65536, "words", 1))
    os.remove(tmp_path / "disk.data")
    info = facts(image)
    assert "disk.data" in info["warnings"][0]
    extents = json.loads(qimg("map", "--output=json", image).text)
    assert "data file" in extents[0]["error"]
    assert qimg("copy-out", image, tmp_path / "out", check=False).status == 1


def test_data_file_that_was_moved(tmp_path):
    """It is looked for where backing files are."""
    (tmp_path / "a").mkdir()
    image = tmp_path / "disk.qcow2"
    qemu.create(image, MIB, data_file=str(tmp_path / "a/disk.data"))
    qemu.write(image, (0, 65536, "words", 1))
    want = qemu.to_raw(image, tmp_path / "want").read_bytes()
    os.rename(tmp_path / "a/disk.data", tmp_path / "disk.data")
    result = qimg("copy-out", image, tmp_path / "out")
    assert "is taken for it" in result.errors
    assert (tmp_path / "out").read_bytes() == want


@pytest.mark.parametrize("name,old,new", [
    ("nbd://host/export", "nbd://host/export", "base.img"),
    ("nbd://host/dir/base.img", "nbd://host/dir", "."),
    (r"C:\disks\base.img", r"C:\\disks\\base.img", "base.img"),
    (r"C:\disks\old\base.img", r"c:\\disks", "windows"),
    ("file:gone/base.img", "file:gone/base.img", "base.img"),
])
def test_mapping_of_any_name(name, old, new, top, tmp_path):
    (tmp_path / "windows/old").mkdir(parents=True)
    os.link(tmp_path / "base.img", tmp_path / "windows/old/base.img")
    want = qemu.to_raw(top, tmp_path / "want").read_bytes()
    with Qcow2File(top) as file:
        file.set_backing(name.encode(), b"raw")
    qimg("copy-out", "-o", f"backing_map={old}={tmp_path / new}", top, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == want


def test_output_to_a_full_device(top):
    for command in (["info"], ["info", "--output=json"], ["map"], ["check"], ["snapshot", "list"]):
        result = procs.run("sh", "-c", 'exec "$@" >/dev/full', "sh", env.qimg(), *command, top,
                           check=False)
        assert result.status == 1 and "No space" in result.errors, result
