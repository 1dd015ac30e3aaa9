# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg amend of the header: the same as qemu-img amend, judged by qemu-img; what would be lost is
refused without any change."""

import pytest

from qtest import env, procs, qemu

MIB = 1 << 20


def build(path, name, **options):
    """An overlay with data and a snapshot."""
    qemu.create(path / "base.qcow2", 2 * MIB)
    qemu.io(path / "base.qcow2", "write -P 1 0 1M")
    image = qemu.create(path / name, 2 * MIB, "base.qcow2", **options)
    qemu.io(image, "write -P 2 512k 700k")
    qemu.img("snapshot", "-c", "one", image)
    qemu.io(image, "write -P 3 640k 64k")
    return image


def amend(image, options, *argv, check=True):
    return procs.run(env.qimg(), "amend", *argv, "-o", options, image.name, cwd=image.parent,
                     check=check)


def facts(image):
    info = qemu.info_json(image)
    return {**info["format-specific"]["data"],
            **{key: info.get(key) for key in ("backing-filename", "backing-filename-format")}}


def assert_same(image, other):
    assert facts(image) == facts(other)
    for number in ("-l", None):
        options = ["-l", "one"] if number else []
        copies = []
        for one in (image, other):
            qemu.img("convert", "-O", "raw", *options, one, image.parent / "raw")
            copies.append((image.parent / "raw").read_bytes())
        assert copies[0] == copies[1]
    assert qemu.img("check", image, check=False).status == 0
    assert procs.run(env.qimg(), "check", image).status == 0


@pytest.mark.parametrize("options", [
    "compat=0.10", "lazy_refcounts=on", "refcount_bits=2", "refcount_bits=64",
    "refcount_bits=64,lazy_refcounts=on",
])
def test_as_qemu_img(options, tmp_path):
    image = build(tmp_path, "a.qcow2")
    other = build(tmp_path, "b.qcow2")
    qemu.img("amend", "-f", "qcow2", "-o", options, other)
    assert amend(image, options, "-f", "qcow2", "-p").text == ""
    assert_same(image, other)
    # And on: a writer finds all in order.
    for one in (image, other):
        qemu.io(one, "write -P 9 0 300k")
    assert_same(image, other)


def test_forth_and_back(tmp_path):
    image = build(tmp_path, "a.qcow2")
    other = build(tmp_path, "b.qcow2")
    for options in ("compat=0.10", "compat=1.1", "refcount_bits=32", "refcount_bits=16",
                    "lazy_refcounts=on", "lazy_refcounts=off"):
        amend(image, options)
    assert_same(image, other)


@pytest.mark.parametrize("name, options, change, answer", [
    ("zero", {}, "compat=0.10", "zero clusters"),
    ("zstd", {"compression_type": "zstd"}, "compat=0.10", "zstd"),
    ("subclusters", {"extended_l2": "on"}, "compat=0.10", "subclusters"),
    ("width", {"refcount_bits": "8"}, "compat=0.10", "refcount_bits=16"),
    ("lazy", {"lazy_refcounts": "on"}, "compat=0.10", "lazy_refcounts=off"),
    ("bitmap", {}, "compat=0.10", "bitmaps"),
    ("narrow", {}, "refcount_bits=1", "snapshots share"),
    ("backing", {}, "backing_file=other", "qimg rebase"),
    ("raw", {}, "data_file_raw=on", "data_file_raw=on"),
    ("size", {}, "size=4M", "qimg resize"),
    ("both", {}, "compat=1.1,encrypt.keyslot=1", "two calls"),
])
def test_refused(name, options, change, answer, tmp_path):
    image = build(tmp_path, "a.qcow2", **options)
    if name == "zero":
        qemu.io(image, "write -z 0 64k")
    if name == "bitmap":
        qemu.img("bitmap", "--add", image, "bits")
    before = image.read_bytes()
    result = amend(image, change, check=False)
    assert result.status == 1 and answer in result.errors
    assert image.read_bytes() == before


def test_data_file(tmp_path):
    image = qemu.create(tmp_path / "a.qcow2", MIB, data_file="data", data_file_raw="on")
    qemu.io(image, "write -P 5 0 1M")
    (tmp_path / "data").rename(tmp_path / "moved")
    amend(image, "data_file=moved,data_file_raw=off")
    assert facts(image)["data-file"] == "moved" and not facts(image)["data-file-raw"]
    qemu.io(image, "read -P 5 0 1M")


def test_in_use(tmp_path):
    image = build(tmp_path, "a.qcow2")
    with qemu.held(image):
        assert "in use" in amend(image, "compat=0.10", check=False).errors
