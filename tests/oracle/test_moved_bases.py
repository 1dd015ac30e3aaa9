# SPDX-License-Identifier: GPL-2.0-or-later
"""Backing files that are not at the stored place: the bytes read after finding them are those read
by QEMU with the new name; uncertain files are refused, with the places tried."""

import shutil

import pytest

from qtest import env, procs, qemu

MIB = 1 << 20
FORMATS = ["raw", "qcow2"]


@pytest.fixture(params=FORMATS)
def moved(request, tmp_path):
    """(image, base as QEMU knows it): an overlay whose base was moved out of old/vm1/ to the
    folder "away"."""
    old, images = tmp_path / "old" / "vm1", tmp_path / "images"
    old.mkdir(parents=True)
    images.mkdir()
    base = old / "base.img"
    if request.param == "raw":
        qemu.make_raw(base, MIB, (0, 500_000, "words", 5))
    else:
        qemu.create(base, MIB)
        qemu.write(base, (0, 500_000, "words", 5))
    image = qemu.create(images / "disk.qcow2", MIB, str(base), request.param)
    qemu.write(image, (65536, 65536, "words", 6))
    (tmp_path / "away").mkdir()
    shutil.move(base, tmp_path / "away" / "base.img")
    return image, request.param


def copy_out(image, out, *options, check=True):
    return procs.run(env.qimg(), "copy-out", *options, image, out, check=check)


def expected(image, base, base_format, tmp_path):
    """The disk by QEMU, from a copy of the image that names @base."""
    copy = shutil.copy(image, tmp_path / "copy.qcow2")
    qemu.img("rebase", "-u", "-F", base_format, "-b", str(base), copy)
    return qemu.to_raw(copy, tmp_path / "expected.raw").read_bytes()


def put(tmp_path, place):
    target = tmp_path / place
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copy(tmp_path / "away" / "base.img", target)


@pytest.mark.parametrize("place,options", [
    ("images/base.img", []),
    ("images/vm1/base.img", []),
    ("images/old/vm1/base.img", []),
    ("images/base.img", ["-o", "backing=any"]),
    ("new/base.img", ["-o", "backing={top}/new"]),
    ("new/vm1/base.img", ["-o", "backing={top}/new"]),
    ("new/vm1/base.img", ["-o", "backing={top}/images:{top}/new"]),
])
def test_found(place, options, moved, tmp_path):
    image, base_format = moved
    base = put(tmp_path, place)
    out = tmp_path / "out.raw"
    result = copy_out(image, out, *(o.format(top=tmp_path) for o in options))
    assert out.read_bytes() == expected(image, base, base_format, tmp_path)
    told = [line for line in result.errors.splitlines() if "warning" in line]
    assert len(told) == 1, result
    assert f"its backing file \"{tmp_path}/old/vm1/base.img\" is not there" in told[0]
    assert str(base) in told[0] and "backing_map=" in told[0]


@pytest.mark.parametrize("mapping", ["{top}/old={top}/away-tree", "{top}/old/vm1={top}/away",
                                     "{top}/old/vm1/base.img={top}/away/base.img"])
def test_mapped(mapping, moved, tmp_path):
    """With a mapping of the file or of a directory above it there is no warning."""
    image, base_format = moved
    put(tmp_path, "away-tree/vm1/base.img")
    put(tmp_path, "images/base.img")
    out = tmp_path / "out.raw"
    result = copy_out(image, out, "-o", f"backing_map={mapping}".format(top=tmp_path))
    assert "warning" not in result.errors
    assert out.read_bytes() == expected(image, tmp_path / "away" / "base.img", base_format, tmp_path)


def refused(result, *words):
    assert result.status != 0 and result.errors.count("\n") == 1, result
    for word in words:
        assert str(word) in result.errors, f"{word}\n{result}"


def test_not_found(moved, tmp_path):
    """All places tried, and the option that helps."""
    image, _ = moved
    result = copy_out(image, tmp_path / "out.raw", check=False)
    old = tmp_path / "old" / "vm1" / "base.img"
    refused(result, f'names "{old}"', "there is none of", tmp_path / "images" / "base.img",
            tmp_path / "images" / "vm1" / "base.img", f"-o backing_map='{old}'=NEW")
    assert not (tmp_path / "out.raw").exists()


def test_two_are_too_many(moved, tmp_path):
    """Either may be the right one, even if they are alike."""
    image, _ = moved
    places = [put(tmp_path, "images/base.img"), put(tmp_path, "images/vm1/base.img")]
    result = copy_out(image, tmp_path / "out.raw", check=False)
    refused(result, *places, "not taken unasked", "backing_map=")


def test_outside_of_what_is_allowed(moved, tmp_path):
    image, _ = moved
    (tmp_path / "images" / "base.img").symlink_to("../away/base.img")
    result = copy_out(image, tmp_path / "out.raw", check=False)
    refused(result, "backing_map=")


def test_of_another_format(moved, tmp_path):
    """A found file must have the format stored in the image."""
    image, base_format = moved
    if base_format == "raw":
        pytest.skip("everything is a raw image")
    qemu.make_raw(tmp_path / "images" / "base.img", MIB)
    result = copy_out(image, tmp_path / "out.raw", check=False)
    refused(result, tmp_path / "images" / "base.img", "magic")


def test_not_where_the_image_is_written_to(moved, tmp_path):
    """The wrong one would be mixed into the image for good."""
    image, _ = moved
    base = put(tmp_path, "images/base.img")
    before = image.read_bytes()
    result = procs.run(env.qimg(), "resize", image, str(2 * MIB), check=False)
    refused(result, base, "not taken unasked", "backing_map=")
    assert image.read_bytes() == before


def test_deeper_in_the_chain(moved, tmp_path):
    image, base_format = moved
    base = put(tmp_path, "images/base.img")
    top = qemu.create(tmp_path / "images" / "top.qcow2", MIB)
    qemu.img("rebase", "-u", "-F", "qcow2", "-b", "disk.qcow2", top)
    out = tmp_path / "out.raw"
    copy_out(top, out)
    assert out.read_bytes() == expected(image, base, base_format, tmp_path)
