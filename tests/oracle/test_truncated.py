# SPDX-License-Identifier: GPL-2.0-or-later
"""Images cut at several places: opening says so after a few reads, and the map lists the missing
parts. A sound image causes no such warning."""

import json
import os

import pytest

from qtest import env, procs, qed, qemu
from qtest.mount import Mount
from qtest.qcow2 import Qcow2File

MIB = 1 << 20
ADVICE = "qimg map lists"


def qcow2_image(folder, **options):
    """Two L2 tables, a snapshot, and data behind all of them."""
    image = qemu.create(folder / "disk.qcow2", 40 * MIB, cluster_size="4096", **options)
    qemu.write(image, (0, 65536, "words", 1))
    if "data_file" not in options:
        qemu.img("snapshot", "-c", "before", image)
    qemu.write(image, (39 * MIB, 65536, "words", 2))
    return image


def qed_image(folder):
    image = qed.create(folder / "disk.qed", 40 * MIB, cluster_size=4096)
    procs.run("qemu-io", "-f", "qed", "-c", "write -P 1 0 64k", "-c", "write -P 2 39M 64k", image)
    return image


def before_table(image):
    """Cuts the L2 table that was made last."""
    with (qed.QedFile if image.suffix == ".qed" else Qcow2File)(image) as file:
        file.truncate(file.l1_entry(39 * MIB) & 0x00fffffffffffe00)


def inside_table(image):
    with (qed.QedFile if image.suffix == ".qed" else Qcow2File)(image) as file:
        file.truncate((file.l1_entry(39 * MIB) & 0x00fffffffffffe00) + 512)


def last_cluster(image):
    os.truncate(image, os.path.getsize(image) - 4096)


def before_snapshot_table(image):
    with Qcow2File(image) as file:
        file.truncate(file.get("snapshots_offset"))


def after_header(image):
    os.truncate(image, 4096)


CUTS = [(make, cut, wanted) for make in (qcow2_image, qed_image) for cut, wanted in (
    (before_table, "is truncated: the file has "), (inside_table, "is truncated: the file has "),
    (last_cluster, "ends too early: the file has " if make is qcow2_image
     else "is truncated: the file has "), (after_header, "the L1 table is cut"))]
CUTS.append((qcow2_image, before_snapshot_table, "is truncated: the file has "))


@pytest.mark.parametrize("make, cut, wanted", CUTS,
                         ids=[f"{make.__name__}-{cut.__name__}" for make, cut, _ in CUTS])
def test_cut(make, cut, wanted, tmp_path):
    image = make(tmp_path)
    size = os.path.getsize(image)
    cut(image)
    assert os.path.getsize(image) < size
    shown = procs.run(env.qimg(), "info", image)
    assert wanted in shown.errors and f"warning: {image}" in shown.errors, shown
    facts = json.loads(procs.run(env.qimg(), "info", "--output=json", image).text)
    assert any(wanted in warning for warning in facts["warnings"])
    extents = json.loads(procs.run(env.qimg(), "map", "--output=json", image).text)
    missing = [e for e in extents if e["start"] + e["length"] > 39 * MIB and "error" in e]
    assert missing, extents
    human = procs.run(env.qimg(), "map", image)
    assert "damaged" in human.text and wanted in human.errors


@pytest.mark.parametrize("make", [qcow2_image, qed_image])
def test_cut_mount(make, tmp_path):
    """The mount says it, and map.json lists what is missing."""
    env.need_fuse()
    image = make(tmp_path)
    before_table(image)
    with Mount(image, tmp_path / "mnt") as mount:
        text = (tmp_path / "mnt/.qcowfs/disk/map.json").read_text()
        assert any("error" in e for e in json.loads(text))
        assert "warning" in mount.stderr() and ADVICE in mount.stderr()


def test_short_data_file(tmp_path):
    image = qcow2_image(tmp_path, data_file="disk.data", data_file_raw="on")
    os.truncate(tmp_path / "disk.data", 20 * MIB)
    shown = procs.run(env.qimg(), "info", image)
    assert "its data file is truncated: it has 20971520 bytes, the disk 41943040" in shown.errors


SOUND = {
    "empty": lambda d: qemu.create(d / "disk.qcow2", 40 * MIB),
    "qcow2": qcow2_image,
    "metadata": lambda d: qemu.create(d / "disk.qcow2", 40 * MIB, preallocation="metadata"),
    "1-bit": lambda d: qcow2_image(d, data_file="disk.data", refcount_bits="1"),
    "64-bit": lambda d: qcow2_image(d, refcount_bits="64"),
    "v2": lambda d: qcow2_image(d, compat="0.10"),
    "data-file": lambda d: qcow2_image(d, data_file="disk.data", data_file_raw="on"),
    "qed": qed_image,
    "qed-empty": lambda d: qed.create(d / "disk.qed", 40 * MIB),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound(name, tmp_path):
    shown = procs.run(env.qimg(), "info", SOUND[name](tmp_path))
    assert shown.errors == ""
