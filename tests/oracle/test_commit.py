# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg commit: the base holds the overlay's disk afterwards, as after qemu-img commit; the overlay
shows the same disk; bitmaps of the base record the writes."""

import pytest

from qtest import env, procs, qemu


def build(path, base_size="2500k", base_format="qcow2", **options):
    """base <- mid <- top; mid is shorter than both may be."""
    base = qemu.create(path / "base", base_size, image_format=base_format)
    qemu.io(base, "write -P 1 0 2M", image_format=base_format)
    mid = qemu.create(path / "mid.qcow2", "3M", "base", base_format)
    qemu.io(mid, "write -P 2 1M 300k", "write -z 0 128k")
    top = qemu.create(path / "top.qcow2", "4M", "mid.qcow2", **options)
    qemu.io(top, "write -P 3 1536k 65k", "write -z 1100k 64k", "write -P 4 3500k 100k")
    qemu.img("convert", "-O", "raw", top, path / "want.raw")
    return top


def commit(image, *argv, check=True):
    return procs.run(env.qimg(), "commit", *argv, image.name, cwd=image.parent, check=check)


def assert_same(path, image, image_format="qcow2"):
    qemu.img("compare", "-f", image_format, "-F", "raw", image, path / "want.raw")
    if image_format == "qcow2":
        qemu.img("check", image)


def held_bytes(image):
    return sum(e["length"] for e in qemu.map_json(image) if e["depth"] == 0 and e["present"])


@pytest.mark.parametrize("options", [
    {}, {"compat": "0.10"}, {"extended_l2": "on"}, {"cluster_size": "512"},
], ids=str)
def test_as_qemu_img(options, tmp_path):
    image = build(tmp_path, **options)
    assert commit(image, "-p").text == "Image committed.\n"
    for one in (image, tmp_path / "mid.qcow2"):
        assert_same(tmp_path, one)
    assert held_bytes(image) == 0
    # Nothing of it is lost where it was not asked for.
    qemu.io(tmp_path / "base", "read -P 1 0 2M")


@pytest.mark.parametrize("base_format, base_size", [
    ("qcow2", "2500k"), ("qcow2", "6M"), ("raw", "2500k"), ("qed", "5M"),
])
def test_further_down(base_format, base_size, tmp_path):
    image = build(tmp_path, base_size, base_format)
    before = image.read_bytes()
    commit(image, "-b", "base", "-q")
    assert image.read_bytes() == before
    assert_same(tmp_path, image)
    qemu.img("convert", "-f", base_format, "-O", "raw", tmp_path / "base", tmp_path / "base.raw")
    disk = (tmp_path / "base.raw").read_bytes()
    want = (tmp_path / "want.raw").read_bytes()
    assert disk[:len(want)] == want


def test_keep(tmp_path):
    image = build(tmp_path)
    before = image.read_bytes()
    commit(image, "-d")
    assert image.read_bytes() == before
    assert_same(tmp_path, tmp_path / "mid.qcow2")


def test_bitmaps_of_the_base(tmp_path):
    image = build(tmp_path)
    # The size of a disk with a bitmap can be changed, too.
    qemu.img("bitmap", "--add", "-g", "64k", tmp_path / "mid.qcow2", "bits")
    commit(image)
    result = procs.run(env.qimg(), "bitmap", "--extents", tmp_path / "mid.qcow2", "bits")
    dirty = [line for line in result.text.splitlines() if "dirty" in line]
    assert dirty, result.text
    assert_same(tmp_path, image)


@pytest.mark.parametrize("argv, answer", [
    (["-b", "other"], "is none of its backing files"),
])
def test_refused(argv, answer, tmp_path):
    image = build(tmp_path)
    before = [one.read_bytes() for one in (image, tmp_path / "mid.qcow2", tmp_path / "base")]
    result = commit(image, *argv, check=False)
    assert result.status == 1 and answer in result.errors
    assert [one.read_bytes()
            for one in (image, tmp_path / "mid.qcow2", tmp_path / "base")] == before


def test_snapshot_refused(tmp_path):
    image = build(tmp_path)
    qemu.img("snapshot", "-c", "one", image)
    before = (tmp_path / "mid.qcow2").read_bytes()
    assert "internal snapshots" in commit(image, check=False).errors
    assert (tmp_path / "mid.qcow2").read_bytes() == before
    assert "no backing file" in commit(tmp_path / "base", check=False).errors


def test_in_use(tmp_path):
    image = build(tmp_path)
    with qemu.held(tmp_path / "mid.qcow2", "-r"):
        assert "in use" in commit(image, check=False).errors
    with qemu.held(image):
        assert "in use" in commit(image, check=False).errors
