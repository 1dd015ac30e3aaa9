# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies by ordinary tools: the same bytes and about the same space; large and nearly empty disks
in a time that depends only on their data."""

import errno
import json
import mmap
import os
import struct
from hashlib import sha256

import pytest

from qtest import env, extents, pattern, procs, qemu
from qtest.checks import read_all
from qtest.mount import Mount
from qtest.qcow2 import COPIED, ZERO, Qcow2File

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def file_sha(path):
    digest = sha256()
    with open(path, "rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


@pytest.fixture
def sparse(tmp_path):
    """256 MiB with 40 runs of data of different lengths, some compressed, some zero."""
    image = qemu.create(tmp_path / "sparse.qcow2", 256 * MIB)
    qemu.write(image, *[(n * 6 * MIB, 65536 * (1 + n % 4), "words", n) for n in range(40)])
    qemu.write(image, (251 * MIB, 65536, "words", 5, "-c"))
    qemu.io(image, f"write -z {6 * MIB} 65536", f"write -z -u {100 * MIB} {MIB}")
    return image


COPIES = {
    "cp --sparse=always": lambda src, dst: procs.run("cp", "--sparse=always", src, dst),
    "cp --sparse=auto": lambda src, dst: procs.run("cp", "--sparse=auto", src, dst),
    "dd conv=sparse": lambda src, dst: procs.run("dd", f"if={src}", f"of={dst}", "bs=64K",
                                                 "conv=sparse", "status=none"),
    "tar -S": lambda src, dst: _by_tar(src, dst),
    "rsync -S": lambda src, dst: procs.run("rsync", "-S", src, dst),
    "qemu-img convert": lambda src, dst: procs.run("qemu-img", "convert", "-f", "raw", "-O",
                                                   "raw", src, dst),
    "sendfile": lambda src, dst: _by_sendfile(src, dst),
}


def _by_tar(source, target):
    archive = target.with_suffix(".tar")
    procs.run("tar", "-S", "-c", "-f", archive, "-C", source.parent, source.name)
    assert os.stat(archive).st_size < 2 * os.stat(source).st_blocks * 512 + MIB, "archived holes"
    folder = target.with_suffix(".dir")
    folder.mkdir()
    procs.run("tar", "-S", "-x", "-f", archive, "-C", folder)
    (folder / source.name).rename(target)
    assert os.stat(target).st_mtime_ns // 10**9 == os.stat(source).st_mtime_ns // 10**9


def _by_sendfile(source, target):
    size = os.stat(source).st_size
    with open(source, "rb") as src, open(target, "wb") as dst:
        at = 0
        while at < size:
            at += os.sendfile(dst.fileno(), src.fileno(), at, 8 * MIB)


@pytest.mark.parametrize("tool", COPIES)
def test_copy(tool, sparse, mnt, tmp_path):
    env.need_tools(tool.split()[0]) if tool != "sendfile" else None
    expected = qemu.to_raw(sparse, tmp_path / "expected")
    runs = len(extents.data_of_map(qemu.map_json(sparse)))
    target = tmp_path / "copy"
    with Mount(sparse, mnt) as mount:
        COPIES[tool](mount.raw(sparse), target)
    assert os.stat(target).st_size == 256 * MIB
    assert file_sha(target) == file_sha(expected)
    if tool != "sendfile":
        # Within 1 % and a cluster per extent of the size of QEMU's own copy.
        wanted = os.stat(expected).st_blocks * 512
        got = os.stat(target).st_blocks * 512
        assert got <= wanted * 1.01 + runs * 65536, f"{got} bytes allocated, not about {wanted}"


def test_blocks_of_a_chain(chain, mnt):
    """du shows the content of the whole chain, never 0 and never more than the disk."""
    with Mount(chain, mnt) as mount:
        blocks = os.stat(mount.raw(chain)).st_blocks
        assert 300_000 // 512 <= blocks <= MIB // 512
        shown = procs.run("du", "-k", mount.raw(chain)).text.split()[0]
        assert int(shown) == blocks // 2


@pytest.mark.parametrize("kind", ["compressed", "overlay", "tiny"])
def test_blocks_never_zero_with_data(kind, tmp_path, mnt):
    if kind == "compressed":
        image = qemu.create(tmp_path / "disk.qcow2", MIB)
        qemu.write(image, (0, 65536, "constant", 1, "-c"))
    elif kind == "overlay":
        base = qemu.create(tmp_path / "base.qcow2", MIB)
        qemu.write(base, (0, 65536, "words", 1))
        image = qemu.create(tmp_path / "disk.qcow2", MIB, "base.qcow2")
    else:
        image = qemu.make_raw(tmp_path / "disk.img", 7, (0, 7, "words", 1))
        if os.stat(image).st_blocks == 0:
            pytest.skip("this file system keeps tiny files in the inode")
    with Mount(image, mnt) as mount:
        assert os.stat(mount.raw(image)).st_blocks > 0


# ---- large disks ----------------------------------------------------------------------


@pytest.mark.parametrize("size,cluster", [
    (64 * TIB, 65536), (16 * TIB, 65536), (64 * TIB, 2 * MIB),
    (128 * GIB, 512)])          # an L1 table of the largest size: 4 million entries to pass
def test_empty_large_disk(size, cluster, tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", size, cluster_size=cluster)
    with Mount(image, mnt) as mount:
        fd = os.open(mount.raw(image), os.O_RDONLY)
        try:
            with pytest.raises(OSError) as caught:
                os.lseek(fd, 0, os.SEEK_DATA)
            assert caught.value.errno == errno.ENXIO
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
            assert os.fstat(fd).st_size == size
            assert os.pread(fd, 4096, size - 4096) == bytes(4096)
            assert os.pread(fd, 4096, size // 2) == bytes(4096)
        finally:
            os.close(fd)
        shown = json.loads(mount.facts("disk", "map.json").read_text())
        assert sum(e["length"] for e in shown) == size and len(shown) <= 2
        rss = procs.peak_rss_bytes(mount.pid)
    if not env.sanitizer():
        assert rss < 100 * MIB, f"{rss >> 20} MiB"


def test_a_million_extents(tmp_path, mnt):
    """One seek finds the end of data in a million places."""
    image = qemu.create(tmp_path / "disk.qcow2", 4 * GIB, cluster_size=4096)
    with Qcow2File(image) as file:
        places = file.append_cluster(pattern.words(0, 3 * 4096))
        one, other = (COPIED | places + n * 4096 for n in (0, 2))
        table = struct.pack(">QQ", one, other) * 256
        tables = file.append_cluster(table * 2048)
        for number in range(2048):
            file.set_l1_entry(number * 2 * MIB, COPIED | tables + number * 4096)
    with Mount(image, mnt) as mount:
        fd = os.open(mount.raw(image), os.O_RDONLY)
        try:
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 4 * GIB
            assert os.lseek(fd, 2 * GIB, os.SEEK_DATA) == 2 * GIB
        finally:
            os.close(fd)


def test_scattered_terabyte(tmp_path, mnt):
    """1 TiB with 64 small runs: walk, copy and convert read the data, not the holes."""
    image = qemu.create(tmp_path / "disk.qcow2", TIB)
    places = [n * (TIB // 64) + n * 65536 for n in range(64)]
    qemu.write(image, *[(at, 65536, "words", n) for n, at in enumerate(places)])
    with Mount(image, mnt) as mount:
        assert extents.seek_data(mount.raw(image)) == [(at, at + 65536) for at in places]
        procs.run("cp", "--sparse=always", mount.raw(image), tmp_path / "copy", limit_s=60)
        qemu.img("convert", "-f", "raw", "-O", "qcow2", mount.raw(image), tmp_path / "copy.qcow2")
    with open(tmp_path / "copy", "rb") as file:
        for number, at in enumerate(places):
            file.seek(at)
            pattern.assert_same(file.read(65536), pattern.words(at, 65536, number), "copy", at)
    assert qemu.img("compare", image, tmp_path / "copy.qcow2").status == 0


def test_many_extents(tmp_path, mnt):
    """A hundred thousand extents of a raw-like qcow2 are walked one by one."""
    image = qemu.create(tmp_path / "disk.qcow2", 100 * MIB, cluster_size=512,
                        preallocation="metadata")
    # Zero clusters between data clusters, written into the tables: faster than I/O.
    with Qcow2File(image) as file:
        tables = range(0, 100 * MIB, file.l2_entries * 512)
        for guest in tables:
            place = file.l2_place(guest)
            table = bytearray(file.read(place, 512))
            for entry in range(0, 512, 16):
                table[entry:entry + 8] = ZERO.to_bytes(8, "big")
            file.write(place, bytes(table))
    # A hole of the host file would be a hole of the disk as well.
    with open(image, "r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(data)
    with Mount(image, mnt) as mount:
        found = _count_data(mount.raw(image))
    assert found == 100 * MIB // 1024


def _count_data(path):
    fd, at, count = os.open(path, os.O_RDONLY), 0, 0
    try:
        while True:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return count
            at = os.lseek(fd, at, os.SEEK_HOLE)
            count += 1
    finally:
        os.close(fd)


def test_end_of_the_largest_disk(tmp_path, mnt):
    """Offsets near the format's limit: almost 8 EiB is impossible with an L1 table of 32 MiB, but
    2 MiB clusters reach 2 EiB."""
    size = (1 << 61) - (2 << 20)
    result = qemu.img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "disk.qcow2",
                      str(size), cwd=tmp_path, check=False)
    if result.status:
        pytest.skip("qemu-img does not make it: " + result.errors.strip())
    image = tmp_path / "disk.qcow2"
    qemu.write(image, (size - 65536, 65536, "words", 1))
    with Mount(image, mnt) as mount:
        fd = os.open(mount.raw(image), os.O_RDONLY)
        try:
            assert os.fstat(fd).st_size == size
            assert os.pread(fd, 65536, size - 65536) == pattern.words(size - 65536, 65536, 1)
            assert os.lseek(fd, 0, os.SEEK_DATA) <= size - 65536
            assert os.lseek(fd, size - 65536, os.SEEK_HOLE) == size
            assert os.pread(fd, 4096, size // 2) == bytes(4096)
        finally:
            os.close(fd)


def test_reads_agree(disk, mnt, disk_content):
    """Buffered, direct and mapped reads of one file at once."""
    with Mount(disk, mnt) as mount, open(mount.raw(disk), "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == disk_content
            assert read_all(mount.raw(disk), os.O_DIRECT) == disk_content
            assert read_all(mount.raw(disk)) == disk_content
            assert mapped[3 * MIB:3 * MIB + 65536] == disk_content[3 * MIB:3 * MIB + 65536]
