# SPDX-License-Identifier: GPL-2.0-or-later
"""-o cow: everything is writable, and no byte or time stamp of the images changes."""

import os

import pytest

from qtest import pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Daemon, Mount, refused
from qtest.writing import Disk, assert_content, assert_reads, check, opened, pwrite

MIB = 1 << 20


def deleted_files(pid):
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [link for link in links if link.endswith(" (deleted)")]


@pytest.fixture(params=["qcow2", "raw", "chain", "el2", "odd-size", "dirty"])
def image(request, tmp_path):
    """(path, content)"""
    folder = tmp_path / "images"
    folder.mkdir()
    size = MIB + 512 if request.param == "odd-size" else MIB
    content = bytearray(pattern.words(0, 300_032, 1) + bytes(size - 300_032))
    if request.param == "raw":
        return qemu.make_raw(folder / "disk.img", size, (0, 300_032, "words", 1)), content
    if request.param == "chain":
        qemu.make_raw(folder / "base.img", size, (0, 300_032, "words", 1))
        return qemu.create(folder / "disk.qcow2", size, "base.img", "raw"), content
    path = qemu.create(folder / "disk.qcow2", size,
                       **({"extended_l2": "on", "cluster_size": "128k"} if request.param == "el2"
                          else {"lazy_refcounts": "on"} if request.param == "dirty" else {}))
    qemu.write(path, (0, 300_032, "words", 1))
    if request.param == "dirty":
        from qtest.qcow2 import DIRTY, Qcow2File
        with Qcow2File(path) as file:
            file.set("incompatible", file.get("incompatible") | DIRTY)
    return path, content


def work(mount, path, content, rng):
    with opened(mount.raw(path)) as fd:
        disk = Disk(fd, content)
        for _ in range(60):
            disk.change(rng)
        disk.resize(len(content) + MIB)
        pwrite(fd, b"at the end", len(disk.content) - 512)
        disk.content[-512:-502] = b"at the end"
        os.fsync(fd)
    assert_reads(mount.raw(path), disk.content)
    return disk.content


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_overlay_that_vanishes(kind, image, mnt, rng):
    path, content = image
    with Unchanged(path.parent):
        with kind(path, mnt, "-o", "cow") as mount:
            work(mount, path, content, rng)
        with Mount(path, mnt) as mount:
            assert read_all(mount.raw(path)) == bytes(content)


@pytest.mark.parametrize("options", ["rw,cow", "cow,rw"])
def test_cow_goes_before_rw(options, disk, mnt):
    """mount(8) always adds rw."""
    with Unchanged(disk.parent):
        with Mount(disk, mnt, "-o", options) as mount:
            with opened(mount.raw(disk)) as fd:
                pwrite(fd, b"to the overlay", 100)


def test_nothing_is_left(disk, mnt, tmp_path):
    """Not beside the image, not in the directory for temporary files; also after a kill."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    wrapper = ("env", f"TMPDIR={scratch}")
    for end in ("unmount", "kill"):
        with Mount(disk, mnt, "-o", "cow", wrapper=() if end == "kill" else wrapper) as mount:
            with opened(mount.raw(disk)) as fd:
                pwrite(fd, b"x" * MIB, 0)
            if end == "kill":
                mount.kill()
                procs.run("fusermount3", "-u", mnt)
        assert os.listdir(scratch) == []
        assert os.listdir(disk.parent) == [disk.name]


def test_image_that_cannot_be_written_to(disk, mnt, disk_content):
    """The overlay needs no write permission for it."""
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    disk.chmod(0o444)
    disk.parent.chmod(0o555)
    try:
        with Mount(disk, mnt, "-o", "cow") as mount:
            with opened(mount.raw(disk)) as fd:
                pwrite(fd, b"new", 0)
            assert read_all(mount.raw(disk)) == b"new" + disk_content[3:]
    finally:
        disk.parent.chmod(0o755)


def test_facts_are_the_images(disk, mnt):
    with Mount(disk, mnt, "-o", "cow") as mount:
        assert os.stat(mount.raw(disk)).st_mtime_ns == os.stat(disk).st_mtime_ns
        assert os.listdir(mount.snapshots(disk)) == []
        assert os.statvfs(mount.raw(disk)).f_bavail > 0


def test_snapshots_are_still_there(disk, mnt, disk_content):
    qemu.img("snapshot", "-c", "before", disk)
    qemu.io(disk, "write -P 7 0 512")
    with Unchanged(disk.parent), Mount(disk, mnt, "-o", "cow") as mount:
        with opened(mount.raw(disk)) as fd:
            pwrite(fd, b"new", 0)
        assert read_all(mount.snapshots(disk) / "before" / "disk.raw") == disk_content
        assert read_all(mount.raw(disk))[:5] == b"new\7\7"


def test_several_images(disk, mnt, tmp_path):
    other = qemu.make_raw(tmp_path / "other.img", MIB)
    with Unchanged(disk.parent, other), Mount([disk, other], mnt, "-o", "cow") as mount:
        for one in (disk, other):
            with opened(mount.raw(one)) as fd:
                pwrite(fd, one.name.encode(), 4096)
            assert read_all(mount.raw(one))[4096:4096 + len(one.name)] == one.name.encode()


# ---- cow=FILE -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_overlay_that_stays(kind, image, mnt, tmp_path, rng):
    """QEMU accepts it as an overlay of the image; a second mount continues with it."""
    path, content = image
    overlay = path.parent / "overlay.qcow2"
    originals = [path for path in path.parent.iterdir()]
    for _ in range(2):
        with Unchanged(*originals), kind(path, mnt, "-o", f"cow={overlay}") as mount:
            assert_reads(mount.raw(path), content)
            content = work(mount, path, content, rng)
        check(overlay)
        assert_content(overlay, content, tmp_path / "out")
    info = qemu.info_json(overlay)
    assert info["backing-filename-format"] == ("raw" if path.suffix == ".img" else "qcow2")
    assert os.path.samefile(path.parent / info["full-backing-filename"], path)
    # And as the overlay of an ordinary mount.
    with Unchanged(*originals, overlay), Mount(overlay, mnt) as mount:
        assert read_all(mount.raw(overlay)) == bytes(content)


def test_overlay_stores_no_probed_format(disk, mnt):
    """A format that a guest may have written to a raw disk is not stored in the overlay."""
    image = disk.rename(disk.parent / "disk.img")
    overlay = disk.parent / "overlay.qcow2"
    refused("-o", f"cow={overlay}", image, mnt,
            contains=[overlay.name, "disk.img", "was probed as qcow2", "-o format=raw"])
    assert not overlay.exists()
    with Mount(image, mnt, "-o", "cow"):    # which ends with the mount
        pass
    for image_format in ("raw", "qcow2"):
        with Mount(image, mnt, "-o", f"cow={overlay},format={image_format}"):
            pass
        assert qemu.info_json(overlay)["backing-filename-format"] == image_format
        overlay.unlink()


def test_overlay_made_by_qemu(disk, disk_content, mnt, tmp_path):
    overlay = qemu.create(disk.parent / "overlay.qcow2", None, disk.name, "qcow2")
    qemu.io(overlay, "write -P 7 0 512")
    with Unchanged(disk), Mount(disk, mnt, "-o", f"cow={overlay}") as mount:
        with opened(mount.raw(disk)) as fd:
            pwrite(fd, b"new", 0)
        content = b"new" + b"\7" * 509 + disk_content[512:]
        assert_reads(mount.raw(disk), content)
    check(overlay)
    assert_content(overlay, content, tmp_path / "out")


def test_relative_name(disk, mnt):
    """Relative to the directory of the start, also for a mount in the background."""
    overlay = disk.parent / "overlay.qcow2"
    with Daemon([disk.name], mnt, "-o", "cow=overlay.qcow2", cwd=disk.parent) as mount:
        with opened(mount.raw(disk)) as fd:
            pwrite(fd, b"new", 0)
    check(overlay)
    with Mount(overlay, mnt) as mount:
        assert read_all(mount.raw(overlay))[:3] == b"new"


@pytest.mark.parametrize("what", ["other image's", "no image", "itself", "directory missing"])
def test_files_that_are_no_overlay_of_it(what, disk, mnt, tmp_path):
    """No existing file is ever overwritten."""
    overlay = disk.parent / "overlay.qcow2"
    if what == "other image's":
        qemu.create(disk.parent / "other.qcow2", MIB)
        qemu.create(overlay, None, "other.qcow2", "qcow2")
    elif what == "no image":
        overlay.write_bytes(b"a letter to somebody")
    elif what == "itself":
        overlay = disk
    else:
        overlay = tmp_path / "missing" / "overlay.qcow2"
    with Unchanged(disk.parent):
        refused("-o", f"cow={overlay}", disk, mnt, contains=[overlay.name])


def test_refusal_leaves_no_overlay(disk, mnt):
    """No overlay is created for an image that cannot be opened."""
    overlay = disk.parent / "overlay.qcow2"
    disk.write_bytes(disk.read_bytes()[:4] + b"\0\0\0\x63" + disk.read_bytes()[8:])
    refused("-o", f"cow={overlay}", disk, mnt, file=disk)
    assert not overlay.exists()
