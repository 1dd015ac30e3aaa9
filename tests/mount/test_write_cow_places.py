# SPDX-License-Identifier: GPL-2.0-or-later
"""-o cow with an unusual image, overlay or mount point: a block device, a file of any length, one
file for all three."""

import os

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Daemon, Mount, refused
from qtest.writing import check, opened, pwrite

MIB = 1 << 20


@pytest.fixture
def raw_image(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return qemu.make_raw(folder / "disk.img", MIB, (0, MIB, "words", 1))


@pytest.fixture
def loop_device(raw_image):
    env.need_root("makes a loop device")
    env.need_tools("losetup")
    made = procs.run("losetup", "-r", "-f", "--show", raw_image, check=False)
    if made.status != 0:
        pytest.skip(f"no loop device: {made.errors}")
    device = made.text.strip()
    yield device
    procs.run("losetup", "-d", device)


def test_block_device(loop_device, raw_image, mnt, tmp_path):
    """A read-only device is an image like any other; the overlay stores its name as given, and is
    recognized again."""
    overlay = tmp_path / "overlay.qcow2"
    original = raw_image.read_bytes()
    content = bytearray(original)
    for number in range(2):
        with Mount(loop_device, mnt, "-o", f"cow={overlay}") as mount:
            assert read_all(mount.raw(loop_device)) == bytes(content)
            start = 70_000 + 100_000 * number
            with opened(mount.raw(loop_device)) as fd:
                pwrite(fd, b"new", start)
            content[start:start + 3] = b"new"
            assert read_all(mount.raw(loop_device)) == bytes(content)
            hint = f"programs that open the overlay later need -o backing={loop_device}"
            assert (hint in mount.stderr()) == (number == 0), mount.stderr()
        check(overlay)
    # The message is right: refused without it, and read with it.
    assert procs.run(env.qimg(), "copy-out", overlay, tmp_path / "no", check=False).status == 1
    procs.run(env.qimg(), "copy-out", "-o", f"backing={loop_device}", overlay, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(content)
    assert qemu.info_json(overlay)["backing-filename"] == loop_device
    assert qemu.to_raw(overlay, tmp_path / "out").read_bytes() == bytes(content)
    assert raw_image.read_bytes() == original
    refused("-o", f"cow={loop_device}", raw_image, mnt, contains=["no regular file"])


@pytest.mark.parametrize("size", (0, 1, 511, 513, MIB + 1))
def test_raw_image_of_any_length(size, mnt, tmp_path):
    """Shown in whole sectors, with a warning if that adds some bytes."""
    folder = tmp_path / "images"
    folder.mkdir()
    image = qemu.make_raw(folder / "disk.img", size, (0, size, "words", 1))
    content, shown = image.read_bytes(), (size + 511) // 512 * 512
    overlay = tmp_path / "overlay.qcow2"
    with Unchanged(image):
        for option in ("cow", f"cow={overlay}", f"cow={overlay}"):
            # Unless it is said to be one, an empty file is no raw disk.
            with Mount(image, mnt, "-o", f"{option},format=raw") as mount:
                expected = content + bytes(shown - size)
                assert read_all(mount.raw(image)) == expected
                assert os.stat(mount.raw(image)).st_size == shown
        with Mount(image, mnt, "-o", f"cow={overlay},format=raw") as mount:
            with opened(mount.raw(image)) as fd:
                pwrite(fd, b"end", shown + 5000)
            expected += bytes(5000) + b"end"
            got = read_all(mount.raw(image))
            assert got[:len(expected)] == expected and not any(got[len(expected):])
    check(overlay)


@pytest.mark.parametrize("where", ("image", "overlay"))
def test_mountpoint_is_a_file(where, raw_image, tmp_path):
    """The disk is shown in place of the image itself, or of the overlay."""
    overlay = raw_image.parent / "overlay.qcow2"
    with Mount(raw_image, tmp_path / "first", "-o", f"cow={overlay}"):
        pass
    place = raw_image if where == "image" else overlay
    content = raw_image.read_bytes()
    with Unchanged(raw_image):
        for number in (b"1", b"2"):
            with Daemon(raw_image, place, "-o", f"cow={overlay}"):
                with opened(place) as fd:
                    pwrite(fd, number, 4096)
                    assert os.pread(fd, 3, 4095) == content[4095:4096] + number + content[4097:4098]
            check(overlay)
    assert qemu.to_raw(overlay, tmp_path / "out").read_bytes()[4096:4097] == b"2"


def test_no_place_for_temporary_files(raw_image, mnt, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with Unchanged(raw_image):
        refused("-o", "cow", raw_image, mnt, contains=["overlay in", "missing", "TMPDIR"])


def test_overlay_is_in_use(raw_image, mnt, tmp_path):
    overlay = tmp_path / "overlay.qcow2"
    with Mount(raw_image, mnt, "-o", f"cow={overlay}"):
        other = tmp_path / "other"
        other.mkdir()
        refused("-o", f"cow={overlay}", raw_image, other, contains=["overlay.qcow2", "in use"])
        assert qemu.io(overlay, "read 0 512", check=False).status != 0
    qemu.io(overlay, "read 0 512")
