# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg bitmap: the actions beside qemu-img's, in the order given, all of them or none."""

import pytest

from qtest import bitmaps, env, qemu
from qtest.bitmaps import AUTO, IN_USE
from qtest.procs import run
from qtest.qcow2 import Qcow2File
from qtest.writing import check

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB


def bitmap(*argv, check_status=True):
    return run(env.qimg(), "bitmap", *argv, check=check_status)


@pytest.fixture(params=[512, 65536])
def image(request, tmp_path):
    """An image with a backing name, so that the header has no room behind its extensions."""
    qemu.make_raw(tmp_path / "base.img", SIZE, (0, SIZE, "words", 3))
    return qemu.create(tmp_path / "disk.qcow2", SIZE, "base.img", "raw",
                       cluster_size=request.param)


def extents(image, name):
    found = bitmaps.ours(image, name)
    assert found == bitmaps.theirs(image, name)
    return bitmaps.dirty(found)


# Actions, as qemu-img takes them, on bitmaps "a" (4 KiB, dirty at 1 MiB) and "b" (64 KiB).
ACTIONS = {
    "add": ["--add", "-g", "512", "new"],
    "add-default": ["--add", "new"],
    "add-disabled": ["--add", "--disable", "new"],
    "add-and-merge": ["--add", "--merge", "a", "new"],
    "remove": ["--remove", "a"],
    "replace": ["--remove", "--add", "a"],
    "clear": ["--clear", "a"],
    "disable": ["--disable", "a"],
    "enable": ["--disable", "--enable", "a"],
    "merge-finer": ["--merge", "a", "b"],
    "merge-coarser": ["--merge", "b", "a"],
    "clear-then-merge": ["--clear", "--merge", "b", "a"],
    "merge-finest": ["--add", "-g", "512", "--merge", "a", "--merge", "b", "new"],
}


@pytest.mark.parametrize("action", ACTIONS)
def test_same_as_qemu(action, image, tmp_path):
    for name, granularity in (("a", "4k"), ("b", "64k")):
        bitmap("--add", "-g", granularity, image, name)
    qemu.io(image, "write 1M 4k")
    bitmap("--disable", image, "a")
    qemu.io(image, "write 3M 3333k")
    bitmap("--enable", image, "a")
    other = tmp_path / "other.qcow2"
    other.write_bytes(image.read_bytes())
    *options, name = ACTIONS[action]
    bitmap(*options, image, name)
    qemu.img("bitmap", *options, other, name)
    check(image)
    key = lambda item: item["name"]  # noqa: E731
    assert sorted(bitmaps.listed(image).values(), key=key) == \
        sorted(bitmaps.listed(other).values(), key=key)
    for name in bitmaps.listed(image):
        assert extents(image, name) == extents(other, name)


@pytest.mark.parametrize("granularity", ["512", "1M"])
def test_merge_from_another_image(granularity, image, tmp_path):
    source = qemu.create(tmp_path / "source.qcow2", SIZE, cluster_size=4096)
    bitmap("--add", "-g", granularity, source, "from")
    qemu.io(source, "write 3M 5k", "write -z 6M 512")
    bitmap("--add", "-g", "4k", image, "to")
    qemu.io(image, "write 1M 4k")
    other = tmp_path / "other.qcow2"
    other.write_bytes(image.read_bytes())
    argv = ["--merge", "from", "-b", source, "-F", "qcow2"]
    bitmap(*argv, image, "to")
    qemu.img("bitmap", *argv, other, "to")
    check(image)
    assert extents(image, "to") == extents(other, "to")
    failed = bitmap("--merge", "to", "-b", source, image, "to", check_status=False)
    assert failed.status == 1 and "no bitmap" in failed.errors
    qemu.img("resize", source, "9M")
    failed = bitmap(*argv, image, "to", check_status=False)
    assert failed.status == 1 and "bytes" in failed.errors
    at, *_ = bitmaps.entries(source)["from"]
    with Qcow2File(source) as file:
        file.write(at + 12, (AUTO | IN_USE).to_bytes(4, "big"))
    failed = bitmap(*argv, image, "to", check_status=False)
    assert failed.status == 1 and "in use" in failed.errors
    assert extents(image, "to") == extents(other, "to")


def test_remove_all(image):
    header = image.read_bytes()[:512]
    for name in "ab":
        bitmap("--add", image, name)
    bitmap("--remove-all", image)
    assert bitmaps.listed(image) == {} and bitmaps.entries(image) == {}
    assert not bitmaps.are_valid(image)
    check(image)
    assert qemu.info_json(image)["backing-filename"] == "base.img"
    assert len(header) == 512


@pytest.mark.parametrize("argv, text", [
    (["--add", "IMAGE", "a"], "already"),
    (["--remove", "IMAGE", "x"], "no bitmap"),
    (["--merge", "x", "IMAGE", "a"], "no bitmap"),
    (["--add", "-g", "1000", "IMAGE", "x"], "power of two"),
    (["--add", "-g", "4G", "IMAGE", "x"], "power of two"),
    (["--add", "IMAGE", "x" * 1024], "1023"),
    (["--clear", "--add", "IMAGE", "a"], "already"),
    (["--remove", "--clear", "IMAGE", "a"], "no bitmap"),
    (["--clear", "IMAGE"], "give"),
    (["IMAGE", "a"], "give"),
    (["--clear", "-b", "x", "IMAGE", "a"], "--merge"),
    (["--merge", "a", "-F", "raw", "IMAGE", "a"], "--merge"),
])
def test_all_or_nothing(argv, text, image):
    """A failing action leaves everything as it was, also what the earlier ones did."""
    bitmap("--add", image, "a")
    qemu.io(image, "write 1M 4k")
    before = bitmaps.entries(image), extents(image, "a")
    failed = bitmap(*[image if word == "IMAGE" else word for word in argv], check_status=False)
    assert failed.status == 1 and text in failed.errors, failed
    assert (bitmaps.entries(image), extents(image, "a")) == before
    check(image)


def test_too_large(tmp_path):
    """2 TiB is the largest disk with a granularity of 512."""
    image = qemu.create(tmp_path / "disk.qcow2", (2 << 40) + 512)
    failed = bitmap("--add", "-g", "512", image, "a", check_status=False)
    assert failed.status == 1 and "larger granularity" in failed.errors
    bitmap("--add", "-g", "1k", image, "a")
    check(image)


def test_merge_of_all_takes_no_space(tmp_path):
    """Full entries of the table need no clusters of bits."""
    image = qemu.create(tmp_path / "disk.qcow2", 1 << 40)
    bitmap("--add", "-g", "1M", image, "all")
    with Qcow2File(image) as file:
        file.write(bitmaps.entries(image)["all"][0] + 12, (AUTO | IN_USE).to_bytes(4, "big"))
    bitmap("--recover", image, "all")
    bitmap("--add", "-g", "512", "--merge", "all", image, "fine")
    assert image.stat().st_size < MIB
    assert bitmaps.dirty(bitmaps.ours(image, "fine")) == [(0, 1 << 40)]
    check(image)


@pytest.mark.parametrize("backing_name", [None, "base.img"])
def test_room_in_a_small_header(backing_name, tmp_path):
    """The names of features make room."""
    image, options = tmp_path / "disk.qcow2", "cluster_size=512"
    if backing_name:
        qemu.make_raw(tmp_path / backing_name, MIB, (0, MIB, "words", 3))
        options += f",backing_file={backing_name},backing_fmt=raw"
    run(env.qimg(), "create", "-o", options, image, str(MIB))
    bitmap("--add", image, "a")
    qemu.io(image, "write 64k 4k")
    assert extents(image, "a") == [(64 * KIB, 68 * KIB)]
    assert qemu.info_json(image).get("backing-filename") == backing_name
    check(image)
    bitmap("--remove", image, "a")
    check(image)
    bitmap("--add", image, "a")
    assert extents(image, "a") == []


def test_no_room_in_the_header(tmp_path):
    """One line with the cure, and nothing is changed."""
    qemu.make_raw(tmp_path / "base.img", MIB, (0, MIB, "words", 3))
    image = qemu.create(tmp_path / "disk.qcow2", MIB, "./" * 170 + "base.img", "raw",
                        cluster_size=512)
    before = image.read_bytes()
    failed = bitmap("--add", image, "a", check_status=False)
    assert failed.status == 1 and "larger clusters" in failed.errors
    assert bitmaps.entries(image) == {} and image.read_bytes()[:512] == before[:512]
    check(image, leaks_allowed=True)


def test_recover(image):
    """All bits are set: the next backup is a full one."""
    bitmap("--add", image, "a")
    with Qcow2File(image) as file:
        file.write(bitmaps.entries(image)["a"][0] + 12, (AUTO | IN_USE).to_bytes(4, "big"))
    for action in ("--clear", "--disable", "--enable"):
        failed = bitmap(action, image, "a", check_status=False)
        assert failed.status == 1 and "--recover" in failed.errors
    bitmap("--recover", image, "a")
    assert bitmaps.flags(image) == {"a": AUTO}
    assert extents(image, "a") == [(0, SIZE)]
    check(image)


def test_remove_damaged(image):
    """Even where the directory cannot be read: all of it goes, its clusters are leaked."""
    bitmap("--add", image, "a")
    with Qcow2File(image) as file:
        at, _ = bitmaps.extension_at(file)
        file.write(at + 16, (1 << 40).to_bytes(8, "big"))
    bitmap("--remove-all", image)
    assert bitmaps.entries(image) == {}
    check(image, leaks_allowed=True)
    bitmap("--add", image, "a")
    assert bitmaps.flags(image) == {"a": AUTO}
