# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks of a writing mount: one writer, no other user beside it, in both directions. Spec:
locking, "Who holds what"."""

import pytest

from qtest import env, procs, qemu
from qtest.mount import Daemon, Mount, refused
from qtest.writing import check, opened, pwrite
from test_locks import WHO

MIB = 1 << 20


@pytest.fixture(params=["qcow2", "raw"])
def image(request, tmp_path):
    """(path, options of qemu-io)"""
    if request.param == "raw":
        return qemu.make_raw(tmp_path / "disk.img", MIB, (0, 4096, "words", 1)), ("-f", "raw")
    path = qemu.create(tmp_path / "disk.qcow2", MIB)
    qemu.write(path, (0, 4096, "words", 1))
    return path, ()


@pytest.mark.parametrize("reader", [False, True])
def test_qemu_is_respected(reader, image, mnt):
    """A second writer is refused, and so is a writer beside a reader, except for raw disks: their
    readers ignore writers."""
    path, options = image
    if reader and options:
        pytest.skip("QEMU's readers of raw disks let others write")
    with qemu.held(path, *options, *(["-r"] if reader else [])):
        refused("-o", "rw", path, mnt, file=path, contains=["lock"])
    with Mount(path, mnt, "-o", "rw"):
        pass


def test_refusal_says_who(disk, mnt):
    with qemu.held(disk):
        refused("-o", "rw", disk, mnt, file=disk, contains=WHO[:2])


@pytest.mark.parametrize("kind", [Mount, Daemon])
@pytest.mark.parametrize("written", [False, True])
def test_qemu_is_kept_out(written, kind, image, mnt):
    """Before the first write as well as after it: the mount takes the lock."""
    path, options = image
    image_format = "raw" if options else "qcow2"
    with kind(path, mnt, "-o", "rw") as mount:
        if written:
            with opened(mount.raw(path)) as fd:
                pwrite(fd, b"x", 0)
        result = qemu.io(path, "write -P 9 0 512", options=options, check=False)
        assert "lock" in result.text + result.errors, result
        calls = [["resize", "-f", image_format, path, "8M"]]
        if not options:     # readers of a raw disk ignore changes
            calls += [["info", path], ["convert", path, "copy"], ["check", path]]
        for argv in calls:
            result = qemu.img(*argv, check=False, cwd=path.parent)
            assert result.status != 0 and "lock" in result.errors, result
        assert qemu.info_json(path, image_format, force_share=True)["virtual-size"] == MIB
    qemu.io(path, "write -P 9 0 512", options=options)


@pytest.mark.parametrize("first,second", [("rw", "rw"), ("rw", "ro"), ("ro", "rw")])
def test_two_mounts(first, second, image, mnt, tmp_path):
    path, _ = image
    with Mount(path, mnt, "-o", first):
        refused("-o", second, path, tmp_path / "other", file=path, contains=["lock"],
                mountpoint=_directory(tmp_path / "other"))
    with Mount(path, mnt, "-o", second):
        pass


def _directory(path):
    path.mkdir()
    return path


def test_qimg_is_kept_out(disk, mnt):
    with Mount(disk, mnt, "-o", "rw"):
        result = procs.run(env.qimg(), "map", disk, check=False)
        assert result.status != 0 and "lock" in result.errors and result.errors.count("\n") == 1


def test_backing_files_are_shared_with_readers(chain, mnt, tmp_path):
    """Overlays on one base are written to at once; a writer of the base is refused."""
    second = qemu.create(chain.parent / "second.qcow2", None, "middle.qcow2", "qcow2")
    with Mount(chain, mnt, "-o", "rw") as one, Mount(second, tmp_path / "other", "-o", "rw") as two:
        for mount, image in ((one, chain), (two, second)):
            with opened(mount.raw(image)) as fd:
                pwrite(fd, image.name.encode(), 5)
        qemu.img("info", chain.parent / "middle.qcow2")
        result = qemu.io(chain.parent / "middle.qcow2", "write -P 9 0 512", check=False)
        assert "lock" in result.text + result.errors
    check(chain)
    check(second)


def test_overlay_and_its_base_in_one_mount(chain, mnt):
    """The base may not be written to below the overlay."""
    middle = chain.parent / "middle.qcow2"
    refused("-o", "rw", chain, middle, mnt, contains=["lock"])


def test_nolock(disk, mnt):
    with qemu.held(disk):
        with Mount(disk, mnt, "-o", "rw,nolock") as mount:
            assert "dangerous" in mount.stderr()


def test_cow_only_reads_the_image(disk, mnt, tmp_path):
    """So it coexists with readers, several overlays coexist, writers are excluded."""
    with qemu.held(disk):
        refused("-o", "cow", disk, mnt, file=disk, contains=WHO)
    with Mount(disk, mnt, "-o", "cow"), Mount(disk, tmp_path / "other", "-o", "cow"):
        qemu.img("info", disk)
        result = qemu.io(disk, "write -P 9 0 512", check=False)
        assert "lock" in result.text + result.errors


def test_overlay_file_is_locked(disk, mnt, tmp_path):
    overlay = tmp_path / "overlay.qcow2"
    with Mount(disk, mnt, "-o", f"cow={overlay},backing=any"):
        other = _directory(tmp_path / "other")
        refused("-o", f"cow={overlay},backing=any", disk, other, file="overlay.qcow2",
                contains=["lock"])
        result = qemu.io(overlay, "write -P 9 0 512", check=False)
        assert "lock" in result.text + result.errors
