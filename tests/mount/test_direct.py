# SPDX-License-Identifier: GPL-2.0-or-later
"""The option direct: data bypass the page cache of the image's files, for all images, and
everything else is as without. (Random operations: test_write_fsx.py.)"""

import os

import pytest

from qtest import env, loop, pattern, procs, qemu, real_disk
from qtest.evidence import file_digest
from qtest.fsload import Load, run_together
from qtest.mount import Mount
from qtest.writing import Disk, assert_content, assert_reads, check, opened

MIB = 1 << 20
SIZE = 16 * MIB
METADATA = MIB          # more than the tables of these images
SMALL_CLUSTERS = 3 * MIB     # the same for images with pages of both tables and data
KINDS = {"raw": [], "64k": ["compat=1.1"], "512": ["cluster_size=512"],
         "data-file": ["data_file=data.raw,data_file_raw=on"], "qed": [], "compressed": []}


@pytest.fixture
def folder():
    with real_disk.directory_on_a_disk() as folder:
        yield folder


@pytest.fixture
def content():
    return pattern.mixed(0, SIZE, 1)


def make_image(folder, kind, content):
    """(image, the files with its data)"""
    raw = folder / "disk.img"
    raw.write_bytes(content)
    if kind == "raw":
        return raw, [raw]
    image = folder / f"disk.{kind if kind == 'qed' else 'qcow2'}"
    more = ["-o", *KINDS[kind]] if KINDS[kind] else ["-c"] if kind == "compressed" else []
    qemu.img("convert", "-f", "raw", "-O", format_of(kind), *more, raw, image, cwd=folder)
    raw.unlink()
    return image, [folder / "data.raw" if kind == "data-file" else image]


def format_of(kind):
    return kind if kind in ("raw", "qed") else "qcow2"


def assert_not_cached(*files, limit=METADATA):
    for file in files:
        assert real_disk.cached_bytes(file) <= limit, file


@pytest.mark.parametrize("kind", KINDS)
def test_reading(kind, folder, mnt, content):
    image, files = make_image(folder, kind, content)
    for file in files:
        real_disk.drop_cached(file)
    with Mount(image, mnt, "-o", "direct") as mount:
        assert "in spite" not in mount.stderr()
        assert_reads(mount.raw(image), content)
    assert_not_cached(*files, limit=SMALL_CLUSTERS if kind == "512" else METADATA)
    with Mount(image, mnt) as mount:
        assert mount.raw(image).read_bytes() == content
    assert sum(map(real_disk.cached_bytes, files)) > SIZE // 4      # that it is visible


def test_backing_files(folder, mnt, content):
    base, _ = make_image(folder, "64k", content)
    middle = qemu.create(folder / "middle.qcow2", None, base.name, "qcow2")
    qemu.write(middle, (MIB, 3 * MIB, "noise", 2))
    top = qemu.create(folder / "top.qcow2", None, middle.name, "qcow2")
    wanted = bytearray(content)
    wanted[MIB:4 * MIB] = pattern.noise(MIB, 3 * MIB, 2)
    for file in (base, middle, top):
        real_disk.drop_cached(file)
    with Mount(top, mnt, "-o", "direct") as mount:
        assert mount.raw(top).read_bytes() == bytes(wanted)
    assert_not_cached(base, middle, top)


@pytest.mark.parametrize("kind", ["raw", "64k", "data-file", "qed"])
def test_writing(kind, folder, mnt, content, tmp_path):
    """New clusters and old ones, whole requests of the kernel."""
    image, files = make_image(folder, kind, bytes(SIZE // 2) + content[SIZE // 2:])
    for file in files:
        real_disk.drop_cached(file)
    with Mount(image, mnt, "-o", "rw,direct") as mount:
        with open(mount.raw(image), "r+b") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        assert_reads(mount.raw(image), content)
    assert_not_cached(*files)
    if kind != "raw":
        check(image, format_of(kind))
    assert_content(image, content, tmp_path / "out", format_of(kind))


@pytest.mark.parametrize("kind", ["64k", "512", "qed"])
def test_random_changes(kind, folder, mnt, content, tmp_path, rng):
    image, _ = make_image(folder, kind, content[:2 * MIB])
    with Mount(image, mnt, "-o", "rw,direct") as mount, opened(mount.raw(image)) as fd:
        disk = Disk(fd, content[:2 * MIB])
        for _ in range(200):
            disk.change(rng)
        assert_reads(mount.raw(image), disk.content)
    check(image, format_of(kind))
    assert_content(image, disk.content, tmp_path / "out", format_of(kind))


@pytest.mark.parametrize("overlay", ["cow", "cow=FILE"])
def test_overlay(overlay, folder, mnt, content, monkeypatch, rng):
    image, _ = make_image(folder, "64k", content)
    monkeypatch.setenv("TMPDIR", os.fspath(folder))
    option = overlay.replace("FILE", f"{folder}/overlay.qcow2")
    before = file_digest(image), os.stat(image).st_mtime_ns
    with Mount(image, mnt, "-o", f"{option},direct") as mount, opened(mount.raw(image)) as fd:
        disk = Disk(fd, content)
        for _ in range(60):
            disk.change(rng)
        assert_reads(mount.raw(image), disk.content)
    assert before == (file_digest(image), os.stat(image).st_mtime_ns)
    if overlay != "cow":
        check(folder / "overlay.qcow2")


def test_images_of_a_directory(folder, mnt, content):
    """These are opened behind the sandbox."""
    images = folder / "images"
    images.mkdir()
    image, _ = make_image(images, "64k", content)
    real_disk.drop_cached(image)
    with Mount(images, mnt, "-o", "rw,direct") as mount:
        path = mount.raw(image)
        assert path.read_bytes() == content
        with open(path, "r+b") as file:
            file.write(b"new" * 10_000)
        assert path.read_bytes()[:40_000] == (b"new" * 10_000 + content[30_000:])[:40_000]
        assert "in spite" not in mount.stderr()
    assert_not_cached(image)


@pytest.mark.parametrize("sector", [512, 4096])
def test_block_device(sector, folder, mnt, content, tmp_path, rng):
    """A device takes only direct requests of its own sectors."""
    loop.need_loop_devices()
    image, _ = make_image(folder, "64k", content)
    place = folder / "device"
    place.write_bytes(image.read_bytes() + bytes(8 * MIB))
    with loop.attached(place, f"--sector-size={sector}") as device:
        with Mount(device, mnt, "-o", "rw,direct,format=qcow2") as mount:
            path = mount.raw(device)
            with opened(path) as fd:
                disk = Disk(fd, content)
                for _ in range(100):
                    disk.change(rng)
                assert_reads(path, disk.content)
            assert "in spite" not in mount.stderr()
    procs.run("sync", "-f", folder)
    check(place)
    assert_content(place, disk.content, tmp_path / "out", "qcow2")


def test_file_system_on_a_loop_device(folder, mnt, tmp_path, rng):
    """The option's purpose: the device's pages are cached, the image's are not."""
    loop.need_loop_devices()
    loop.need_filesystem("ext4", "mke2fs", "e2fsck")
    image = qemu.create(folder / "disk.qcow2", 64 * MIB)
    with Mount(image, mnt, "-o", "rw,direct") as mount:
        with loop.attached(mount.raw(image)) as device:
            procs.run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-F", device)
            with loop.mounted(device, tmp_path / "fs") as top:
                loads = [Load(top, f"load{n}", type(rng)(rng.getrandbits(32))).start()
                         for n in range(2)]
                run_together(loads, 40 if env.sanitizer() else 100)
                for load in loads:
                    load.verify()
            procs.run("e2fsck", "-fn", device)
            procs.run("blockdev", "--flushbufs", device)
            with loop.mounted(device, tmp_path / "fs") as top:
                for load in loads:
                    load.verify(top)
    assert_not_cached(image)
    check(image)


def test_qimg(folder, content):
    image, _ = make_image(folder, "64k", content)
    real_disk.drop_cached(image)
    procs.run(env.qimg(), "copy-out", "-o", "direct", image, folder / "copy.raw")
    assert (folder / "copy.raw").read_bytes() == content
    procs.run(env.qimg(), "check", "-o", "direct", image)
    assert_not_cached(image)
