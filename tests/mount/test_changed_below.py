# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that another program cuts or changes below a mount: EIO, reported once, and reopened by
the next first user. Events that leave the content alone change nothing."""

import errno
import json
import os
import shutil

import pytest

from qtest import env, pattern, procs, qemu
from qtest.checks import read_all
from qtest.mount import Mount
from qtest.writing import check, opened

MIB = 1 << 20


@pytest.fixture
def other(tmp_path):
    image = qemu.create(tmp_path / "other.qcow2", 8 * MIB)
    qemu.write(image, (0, 2 * MIB, "words", 7))
    return image


def content_of(other):
    content = bytearray(8 * MIB)
    content[:2 * MIB] = pattern.words(0, 2 * MIB, 7)
    return bytes(content)


def fails_with_eio(call):
    try:
        call()
    except OSError as error:
        return error.errno == errno.EIO
    return False


def copy_over(source, target):
    with open(source, "rb") as reader, open(target, "r+b") as writer:
        writer.truncate(0)
        shutil.copyfileobj(reader, writer)


def rsync_inplace(source, target):
    env.need_tools("rsync")
    procs.run("rsync", "--inplace", "--no-whole-file", "--ignore-times", source, target)


@pytest.mark.parametrize("change", [copy_over, rsync_inplace])
@pytest.mark.parametrize("as_directory", [False, True], ids=["named", "directory"])
def test_copy_over(disk, other, mnt, disk_content, as_directory, change):
    with Mount(disk.parent if as_directory else disk, mnt) as mount:
        raw = mount.mountpoint / "disk.raw"
        fd = os.open(raw, os.O_RDONLY)
        try:
            assert os.pread(fd, 4096, 0) == disk_content[:4096]
            change(other, disk)
            # An open checks at once, and its finding applies to present users, too.
            assert fails_with_eio(lambda: os.open(raw, os.O_RDONLY))
            assert fails_with_eio(lambda: os.pread(fd, 4096, 3 * MIB))
            errors = json.loads(mount.facts("errors.json").read_text())
            assert [os.path.basename(e["file"]) for e in errors] == ["disk.qcow2"]
            assert "changed" in errors[0]["reason"]
        finally:
            os.close(fd)
        procs.wait_until(lambda: not fails_with_eio(lambda: read_all(raw)), "the release")
        assert read_all(raw) == content_of(other)
        assert os.stat(raw).st_size == 8 * MIB
        assert json.loads(mount.facts("errors.json").read_text()) == []


def test_backing_file_changed(chain, mnt):
    with Mount(chain, mnt) as mount:
        fd = os.open(mount.raw(chain), os.O_RDONLY)
        try:
            with open(chain.parent / "base.img", "r+b") as base:
                base.write(b"x")
            assert fails_with_eio(lambda: os.open(mount.raw(chain), os.O_RDONLY))
            assert fails_with_eio(lambda: os.pread(fd, 4096, 0))
        finally:
            os.close(fd)


@pytest.mark.parametrize("as_directory", [False, True], ids=["named", "directory"])
def test_moved_over(disk, other, mnt, disk_content, as_directory):
    """The name then leads to another file: the old one is whole, as long as it is open."""
    wanted = content_of(other)
    with Mount(disk.parent if as_directory else disk, mnt) as mount:
        raw = mount.mountpoint / "disk.raw"
        with opened(raw, os.O_RDONLY) as fd:
            assert os.pread(fd, 4096, 0) == disk_content[:4096]
            os.rename(other, disk)
            assert os.pread(fd, 4 * MIB, 0) == disk_content
            if not as_directory:
                assert read_all(raw) == disk_content
        if as_directory:
            procs.wait_until(lambda: os.stat(raw).st_size == 8 * MIB, "the new image")
            assert read_all(raw) == wanted


@pytest.mark.parametrize("change", ["bytes", "cut"])
def test_backing_file_of_a_writer(chain, mnt, chain_content, change):
    """No more data based on its bytes are written. Earlier writes are there, with the present
    content of the backing file, when the image is mounted again."""
    base = chain.parent / "base.img"
    with Mount(chain, mnt, "-o", "rw") as mount:
        with opened(mount.raw(chain)) as fd:
            assert os.pwrite(fd, b"w" * 65536, 0) == 65536
            os.fsync(fd)
            if change == "cut":
                os.truncate(base, 200_000)
            else:
                with open(base, "r+b") as file:
                    file.seek(250_000)
                    file.write(b"x" * 1000)
            assert fails_with_eio(lambda: os.open(mount.raw(chain), os.O_RDONLY))
            before = chain.read_bytes()
            for at, length in ((200_704, 512), (65536, 512), (MIB, 4096)):
                assert fails_with_eio(lambda: os.pwrite(fd, b"n" * length, at)), at
            assert fails_with_eio(lambda: os.truncate(mount.raw(chain), 2 * MIB))
            assert fails_with_eio(lambda: os.pread(fd, 4096, 512 * 1024))
            assert chain.read_bytes() == before
    check(chain)
    wanted = bytearray(chain_content)
    wanted[:65536] = b"w" * 65536
    if change == "cut":
        wanted[200_000:300_000] = bytes(100_000)
    else:
        wanted[250_000:251_000] = b"x" * 1000
    with Mount(chain, mnt) as mount:
        assert read_all(mount.raw(chain)) == wanted


@pytest.mark.parametrize("cluster", [4096, 65536])
def test_written_to_by_qemu(tmp_path, mnt, cluster):
    """With nolock, as documented: QEMU's writes may be visible or not, but each block is old or
    new, nothing else changes, and no read fails. Afterwards they are visible."""
    image = qemu.create(tmp_path / "disk.qcow2", 8 * MIB, cluster_size=cluster)
    qemu.write(image, (0, 4 * MIB, "words", 1))
    old = bytearray(8 * MIB)
    old[:4 * MIB] = pattern.words(0, 4 * MIB, 1)
    new = bytearray(old)
    pieces = [(MIB, 65536), (3 * MIB + 4096, 8192), (5 * MIB, 300_032), (8 * MIB - 512, 512)]
    with Mount(image, mnt, "-o", "nolock") as mount:
        with opened(mount.raw(image), os.O_RDONLY | os.O_DIRECT) as fd:
            for number, (at, length) in enumerate(pieces, 1):
                qemu.io(image, f"write -P {number} {at} {length}")
                new[at:at + length] = bytes([number]) * length
                for block in range(0, 8 * MIB, MIB):
                    got = os.pread(fd, MIB, block)
                    for i in range(0, MIB, 512):
                        assert got[i:i + 512] in (old[block + i:block + i + 512],
                                                  new[block + i:block + i + 512]), block + i
    with Mount(image, mnt) as mount:
        assert read_all(mount.raw(image)) == new


def test_times_set_back(disk, mnt):
    """Length and mtime are as before: the ctime reveals the change."""
    before = os.stat(disk)
    with Mount(disk, mnt) as mount:
        with open(disk, "r+b") as image:
            image.seek(before.st_size - 1)
            image.write(b"x")
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
        # It is not in use: it is reopened, which moves its stamp.
        os.close(os.open(mount.raw(disk), os.O_RDONLY))
        fd = os.open(mount.raw(disk), os.O_RDONLY)
        try:
            with open(disk, "r+b") as image:
                image.seek(before.st_size - 1)
                image.write(b"y")
            os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert fails_with_eio(lambda: os.open(mount.raw(disk), os.O_RDONLY))
        finally:
            os.close(fd)


@pytest.mark.parametrize("change", [
    lambda image: os.rename(image, image.with_name("renamed.qcow2")),
    lambda image: os.unlink(image),
    lambda image: os.chmod(image, 0o600),
    lambda image: os.link(image, image.with_name("linked.qcow2")),
], ids=["rename", "unlink", "chmod", "link"])
def test_content_left_alone(disk, mnt, disk_content, change):
    with Mount(disk, mnt) as mount:
        change(disk)
        assert read_all(mount.raw(disk)) == disk_content


@pytest.mark.parametrize("format", ["raw", "qcow2", "qed", "qcow"])
def test_cut_is_no_zeros(tmp_path, mnt, format):
    """With nolock changes are not checked; missing bytes are an error all the same."""
    image = tmp_path / "disk.img"
    source = qemu.make_raw(tmp_path / "source.raw", 4 * MIB, (0, 4 * MIB, "words", 3))
    procs.run("qemu-img", "convert", "-O", format, source, image)
    expected = pattern.words(0, 4 * MIB, 3)
    with Mount(image, mnt, "-o", f"nolock,format={format}") as mount:
        os.truncate(image, os.stat(image).st_size // 2)
        n_errors = 0
        fd = os.open(mount.mountpoint / "disk.raw", os.O_RDONLY)
        try:
            for at in range(0, 4 * MIB, 65536):
                try:
                    got = os.pread(fd, 65536, at)  # less if an error comes next
                    assert got == expected[at:at + len(got)]
                except OSError as error:
                    assert error.errno == errno.EIO
                    n_errors += 1
        finally:
            os.close(fd)
        assert n_errors > 0
