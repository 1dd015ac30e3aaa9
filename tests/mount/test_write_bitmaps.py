# SPDX-License-Identifier: GPL-2.0-or-later
"""Dirty bitmaps while a disk is written to: enabled ones have exactly the touched granules after a
clean unmount, disabled ones stay as they are, and no moment shows a clean granule that changed."""

import errno
import os
import time

import pytest

from qtest import bitmaps, env, qemu
from qtest.bitmaps import AUTO, IN_USE
from qtest.mount import Mount, refused, unmount
from qtest.procs import run
from qtest.qcow2 import Qcow2File
from qtest.writing import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, check, fallocate, opened, pwrite

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 64 * MIB


def make(folder, size=SIZE, granularity="4k", **options):
    """A disk full of data, with an enabled bitmap "e" and a disabled one "d", both clean."""
    image = qemu.create(folder / "disk.qcow2", size, **options)
    qemu.io(image, f"write -P 1 0 {min(size, 8 * MIB)}")
    qemu.img("bitmap", "--add", "-g", granularity, image, "e")
    qemu.img("bitmap", "--add", "--disable", image, "d")
    return image


def dirty(image, name="e"):
    """The dirty extents, which QEMU sees as well."""
    extents = bitmaps.ours(image, name)
    assert extents == bitmaps.theirs(image, name)
    return bitmaps.dirty(extents)


def assert_stored(image):
    check(image)
    assert bitmaps.are_valid(image)
    assert bitmaps.flags(image) == {"e": AUTO, "d": 0}
    assert dirty(image, "d") == []


# Each changes an open disk; then the dirty extents at a granularity of 4 KiB.
EVENTS = {
    "write": (lambda fd: pwrite(fd, b"x" * 10, MIB + 4095), [(MIB, MIB + 8 * KIB)]),
    "same-bytes": (lambda fd: pwrite(fd, b"\1" * 10, MIB), [(MIB, MIB + 4 * KIB)]),
    "allocating": (lambda fd: pwrite(fd, b"x", 40 * MIB), [(40 * MIB, 40 * MIB + 4 * KIB)]),
    "zero": (lambda fd: fallocate(fd, ZERO_RANGE, MIB + 1, 4 * KIB), [(MIB, MIB + 8 * KIB)]),
    "discard-edges": (lambda fd: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, MIB + 100, 256 * KIB),
                      [(MIB, MIB + 260 * KIB)]),
    "discard-nothing": (lambda fd: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 40 * MIB, 64 * KIB),
                        [(40 * MIB, 40 * MIB + 64 * KIB)]),
    "allocate": (lambda fd: fallocate(fd, 0, 50 * MIB, MIB), []),
    "grow": (lambda fd: os.ftruncate(fd, 3 * GIB), []),
    "grow-and-write": (lambda fd: pwrite(fd, b"x", 3 * GIB), [(3 * GIB, 3 * GIB + 512)]),
    "shrink": (lambda fd: (pwrite(fd, b"x" * 64 * KIB, 20 * MIB),
                           os.ftruncate(fd, 20 * MIB + 512), os.ftruncate(fd, SIZE)),
               [(20 * MIB, 20 * MIB + 4 * KIB)]),
    "all": (lambda fd: [pwrite(fd, b"x" * MIB, at) for at in range(0, SIZE, MIB)], [(0, SIZE)]),
}


@pytest.mark.parametrize("cluster", [512, 65536])
@pytest.mark.parametrize("event", EVENTS)
def test_event(event, cluster, tmp_path):
    image = make(tmp_path, cluster_size=cluster)
    change, wanted = EVENTS[event]
    with Mount([image], tmp_path / "mnt", "-o", "rw") as mount:
        assert bitmaps.flags(image) == {"e": AUTO, "d": 0}
        with opened(mount.raw(image)) as fd:
            change(fd)
    assert_stored(image)
    assert dirty(image) == wanted


def wait_for(image, wanted, until):
    deadline = time.monotonic() + 60
    while bool(bitmaps.flags(image)["e"] & IN_USE) != wanted:
        assert time.monotonic() < deadline, f"never in use: {wanted}"
        until()


def test_stored_when_idle(tmp_path):
    """Marked as soon as a write has returned, stored a while later, and marked again."""
    image = make(tmp_path)
    with Mount([image], tmp_path / "mnt", "-o", "rw") as mount:
        for at in (MIB, 2 * MIB):
            with opened(mount.raw(image)) as fd:
                wait_for(image, True, lambda: pwrite(fd, b"x", at))
            wait_for(image, False, lambda: time.sleep(0.05))
        mount.kill()
        unmount(tmp_path / "mnt", lazy=True)
    assert bitmaps.flags(image) == {"e": AUTO, "d": 0}
    assert bitmaps.dirty(bitmaps.ours(image, "e")) == [
        (MIB, MIB + 4 * KIB), (2 * MIB, 2 * MIB + 4 * KIB)]


def test_kill(tmp_path):
    """The enabled bitmap is marked, or has all bits; the disabled one is valid."""
    image = make(tmp_path)
    with Mount([image], tmp_path / "mnt", "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"x", MIB)
        mount.kill()
        unmount(tmp_path / "mnt", lazy=True)
    assert bitmaps.flags(image)["d"] == 0
    assert bitmaps.flags(image)["e"] & IN_USE or dirty(image) == [(MIB, MIB + 4 * KIB)]
    assert dirty(image, "d") == []
    check(image, leaks_allowed=True)


def test_left_in_use(tmp_path):
    """A later writer changes nothing of a bitmap that another one has left in use."""
    image = make(tmp_path)
    with Qcow2File(image) as file:
        file.write(bitmaps.entries(image)["e"][0] + 12, (AUTO | IN_USE).to_bytes(4, "big"))
    with Mount([image], tmp_path / "mnt", "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"x", 2 * MIB)
            with pytest.raises(OSError) as failed:
                os.ftruncate(fd, 2 * SIZE)
            assert failed.value.errno == errno.EBUSY
    assert bitmaps.flags(image) == {"e": AUTO | IN_USE, "d": 0}
    assert bitmaps.listed(image)["e"]["in-use"] and not bitmaps.listed(image)["d"]["in-use"]
    check(image)


def test_limit_refuses_before_any_change(tmp_path):
    """QEMU loses all bitmaps here."""
    image = qemu.create(tmp_path / "disk.qcow2", GIB)
    qemu.img("bitmap", "--add", "-g", "512", image, "e")
    before = image.read_bytes()
    with Mount([image], tmp_path / "mnt", "-o", "rw") as mount, opened(mount.raw(image)) as fd:
        for size in (3 << 40, (2 << 40) + 512):
            with pytest.raises(OSError) as failed:
                os.ftruncate(fd, size)
            assert failed.value.errno == errno.EFBIG
    assert image.read_bytes() == before


@pytest.mark.parametrize("other", ["smaller", "same", "larger"])
def test_revert(other, tmp_path):
    """Exactly the clusters that differ are dirty."""
    image = qemu.create(tmp_path / "disk.qcow2", 8 * MIB)
    qemu.io(image, "write -P 1 0 1M")
    qemu.img("snapshot", "-c", "one", image)
    if other != "same":
        run(env.qimg(), "resize", image, *(["--shrink", "4M"] if other == "larger" else ["12M"]))
    qemu.io(image, "write -P 2 128k 64k", "write -P 2 2M 64k")
    qemu.img("bitmap", "--add", "-g", "64k", image, "e")
    run(env.qimg(), "snapshot", "revert", image, "one")
    check(image)
    wanted = [(128 * KIB, 192 * KIB), (2 * MIB, 2 * MIB + 64 * KIB)]
    assert dirty(image) == wanted + ([(4 * MIB, 8 * MIB)] if other == "larger" else [])


def test_small_cache(tmp_path):
    """Bits beyond the bound are written to the image, and none is lost."""
    image = make(tmp_path, granularity="512", cluster_size=512)
    places = [(at * 7919 * 512) % SIZE for at in range(2000)]
    with Mount([image], tmp_path / "mnt", "-o", "rw,bitmap_cache=64K") as mount:
        with opened(mount.raw(image)) as fd:
            for at in places:
                pwrite(fd, b"x", at)
    assert_stored(image)
    covered = {at for start, end in dirty(image) for at in range(start, end, 512)}
    assert covered == set(places)


def test_drop(tmp_path):
    image = make(tmp_path)
    with Mount([image], tmp_path / "mnt", "-o", "rw,bitmaps=drop") as mount:
        assert bitmaps.are_valid(image)
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"x", MIB)
    assert not bitmaps.are_valid(image)


def test_damaged_directory(tmp_path):
    image = make(tmp_path)
    with Qcow2File(image) as file:
        at, _ = bitmaps.extension_at(file)
        file.write(at + 16, (1 << 40).to_bytes(8, "big"))
    (tmp_path / "mnt").mkdir()
    refused("-o", "rw", image, tmp_path / "mnt", file=image, contains=["bitmaps=drop"])
    with Mount([image], tmp_path / "mnt", "-o", "rw,bitmaps=drop"):
        pass


def test_many_rounds_do_not_grow(tmp_path):
    image = make(tmp_path)
    sizes = set()
    for number in range(12):
        with Mount([image], tmp_path / "mnt", "-o", "rw") as mount:
            with opened(mount.raw(image)) as fd:
                pwrite(fd, b"x", number * 8 * KIB)
        if number > 2:
            sizes.add(os.path.getsize(image))
    assert len(sizes) == 1
    assert_stored(image)
