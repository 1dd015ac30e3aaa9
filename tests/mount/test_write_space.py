# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's space: overwriting needs no more of it, a full file system is reported to the very
writer and harms nothing, and errors at the end are not swallowed."""

import errno
import os

import pytest

from qtest import env, pattern, procs, qemu
from qtest.mount import Mount
from qtest.writing import (Disk, allocated_bytes, assert_content, assert_reads, check, opened,
                           pwrite, small_tmpfs)

MIB = 1 << 20


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["plain", "backing", "compressed", "cluster 512"])
def test_overwriting_one_cluster(kind, tmp_path, mnt):
    """Each with fsync: the file keeps its length after the first few of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / "disk.qcow2"
    n_writes = 5000 if env.sanitizer() else 100_000
    if kind == "backing":
        qemu.make_raw(folder / "base.img", MIB, (0, MIB, "words", 1))
        qemu.create(path, MIB, "base.img", "raw")
    elif kind == "compressed":
        raw = qemu.make_raw(tmp_path / "raw", MIB, (0, MIB, "words", 1))
        qemu.img("convert", "-c", "-O", "qcow2", raw, path)
    else:
        qemu.create(path, MIB, **({"cluster_size": 512} if kind == "cluster 512" else {}))
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            for number in range(n_writes):
                pwrite(fd, number.to_bytes(8, "big"), 4096 + 512 * (number % 3))
                os.fsync(fd)
                if number == 10:
                    before = allocated_bytes(path), os.stat(path).st_size
            assert (allocated_bytes(path), os.stat(path).st_size) == before
            assert os.pread(fd, 8, 4096 + 512 * ((n_writes - 1) % 3)) == \
                (n_writes - 1).to_bytes(8, "big")
    check(path)


@pytest.mark.limit(120)
@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096},
                                     {"cluster_size": "128k", "extended_l2": "on"}],
                         ids=["64k", "4k", "el2"])
def test_writing_and_punching_again_and_again(options, tmp_path, mnt, rng):
    """Freed clusters are reused: the file does not grow with the sum of all writes. While it is
    mounted it may be longer by the reserve, which needs no space."""
    path = qemu.create(tmp_path / "disk.qcow2", 8 * MIB, **options)
    most = 0
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, bytes(8 * MIB))
            for _ in range(100):
                disk.write(rng.randbytes(MIB), rng.randrange(7) * MIB + 512 * rng.randrange(100))
                disk.zero(2, rng.randrange(7) * MIB, MIB)
                os.fsync(fd)
                most = max(most, allocated_bytes(path))
            assert_reads(mount.raw(path), disk.content)
    assert most < 16 * MIB, f"{most} bytes for a disk of 8 MiB"
    assert os.stat(path).st_size < (8 + 64 + 8) * MIB, "longer than disk and reserve"
    check(path)
    assert_content(path, disk.content, tmp_path / "out")


def _make_kind(kind, folder):
    """A disk of 8 MiB, full of data."""
    if kind == "qed":
        path = qemu.create(folder / "disk.qed", 8 * MIB, image_format="qed")
        qemu.write(path, (0, 8 * MIB, "words", 1), image_format="qed")
        return path
    path = folder / "disk.qcow2"
    if kind == "compressed":
        raw = qemu.make_raw(folder / "raw.img", 8 * MIB, (0, 8 * MIB, "words", 1))
        qemu.img("convert", "-c", "-O", "qcow2", raw, path)
        raw.unlink()
        return path
    qemu.create(path, 8 * MIB)
    qemu.write(path, (0, 8 * MIB, "words", 1))
    return path


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", ["plain", "qed", "compressed", "snapshot", "snapshots"])
def test_nobody_syncs(kind, tmp_path, mnt, rng):
    """Pending frees are bounded by the disk's size, though no program calls fsync: disk and
    snapshot, the same amount pending, and tables. "snapshots" takes and deletes one each time."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = _make_kind(kind, folder)
    if kind == "snapshot":
        qemu.img("snapshot", "-c", "old", path)
    n_disks = 2 if kind.startswith("snapshot") else 1
    most = 0
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, pattern.words(0, 8 * MIB, 1))
            for number in range(10):
                if kind == "snapshots":
                    (mount.snapshots(path) / f"s{number}").mkdir()
                disk.write(rng.randbytes(8 * MIB), 0)
                most = max(most, allocated_bytes(path))
                if kind == "snapshots":
                    (mount.snapshots(path) / f"s{number}").rmdir()
                disk.zero(2, 0, 8 * MIB)
                most = max(most, allocated_bytes(path))
            assert_reads(mount.raw(path), disk.content)
    assert most < (n_disks + 1) * 8 * MIB + 4 * MIB, f"{most} bytes for a disk of 8 MiB"
    check(path, "qed" if kind == "qed" else "qcow2")


# ---- a full file system ---------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    env.need_root("a tmpfs of its own")
    with small_tmpfs(tmp_path / "small", "12M") as folder:
        yield folder


def write_until_full(disk, rng, step):
    """Random writes until one fails, which must be for lack of space; the failed one may be done
    in part: the kernel sends its first page separately."""
    size = len(disk.content)
    for _ in range(100_000):
        offset = rng.randrange(size - step) // 512 * 512
        data = rng.randbytes(step)
        done = 0
        try:
            while done < step:
                n = os.pwrite(disk.fd, data[done:], offset + done)
                assert n > 0
                done += n
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            disk.content[offset:offset + step] = os.pread(disk.fd, step, offset)
            return
        disk.content[offset:offset + step] = data
    raise AssertionError("never full")


@pytest.mark.parametrize("kind", ["qcow2", "4k", "el2", "raw", "backing"])
def test_full_file_system(kind, small, mnt, tmp_path, rng):
    """ENOSPC, a clean image, all acknowledged writes; and with room again it continues."""
    content = bytes(32 * MIB)
    path = small / ("disk.img" if kind == "raw" else "disk.qcow2")
    if kind == "raw":
        qemu.make_raw(path, 32 * MIB)
    elif kind == "backing":
        qemu.make_raw(tmp_path / "base.img", 32 * MIB, (0, 4 * MIB, "words", 1))
        qemu.create(path, None, tmp_path / "base.img", "raw")
        content = pattern.words(0, 4 * MIB, 1) + bytes(28 * MIB)
    else:
        qemu.create(path, 32 * MIB, **{"4k": {"cluster_size": 4096}, "qcow2": {}, "el2": {
            "extended_l2": "on", "cluster_size": "128k"}}[kind])
    image_format = "raw" if kind == "raw" else "qcow2"
    ballast = small / "ballast"
    ballast.write_bytes(bytes(4 * MIB))
    with Mount(path, mnt, "-o", "rw,backing=any") as mount:
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, content)
            for step in (65536, 4096, 512):
                write_until_full(disk, rng, step)
            os.fsync(fd)
            assert_reads(mount.raw(path), disk.content, "when full")
            # Allocated space can be written to.
            place = next(at for at in range(0, len(content), 4096)
                         if disk.content[at:at + 512] != content[at:at + 512])
            disk.write(b"in place" * 64, place)
            os.fsync(fd)
    if kind != "raw":
        check(path)
    assert_content(path, disk.content, tmp_path / "out", image_format)
    with Mount(path, mnt, "-o", "rw,backing=any") as mount:
        with opened(mount.raw(path)) as fd:
            disk.fd = fd
            write_until_full(disk, rng, 65536)
            ballast.unlink()
            for _ in range(10):
                disk.write(rng.randbytes(65536), rng.randrange(31 * MIB) // 512 * 512)
            os.fsync(fd)
        assert_reads(mount.raw(path), disk.content, "after room was made")
    if kind != "raw":
        check(path)
    assert_content(path, disk.content, tmp_path / "out", image_format)


def test_full_while_it_grows(small, mnt, tmp_path, rng):
    """A disk that grows on a full file system; resize and fallocate fail, too."""
    path = qemu.create(small / "disk.qcow2", MIB, cluster_size=4096)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            offset = 0
            with pytest.raises(OSError) as caught:
                while offset < 64 * MIB:
                    pwrite(fd, rng.randbytes(65536), offset)
                    offset += 65536
            assert caught.value.errno == errno.ENOSPC
            with pytest.raises(OSError) as caught:
                os.posix_fallocate(fd, 0, 64 * MIB)
            assert caught.value.errno == errno.ENOSPC
            size = os.fstat(fd).st_size
            assert size <= offset + 65536, "a failed fallocate has grown the disk"
            os.ftruncate(fd, MIB)
            os.fsync(fd)
            pwrite(fd, rng.randbytes(4 * MIB), MIB)
            content = bytearray(os.pread(fd, 5 * MIB, 0))
    check(path)
    assert_content(path, content, tmp_path / "out")


def test_overlay_on_a_full_file_system(small, disk, mnt, rng):
    overlay = small / "overlay.qcow2"
    with Mount(disk, mnt, "-o", f"cow={overlay},backing=any") as mount:
        (small / "ballast").write_bytes(bytes(11 * MIB))
        with opened(mount.raw(disk)) as fd:
            content = bytearray(os.pread(fd, 4 * MIB, 0))
            model = Disk(fd, content)
            write_until_full(model, rng, 65536)
            (small / "ballast").unlink()
            model.write(rng.randbytes(MIB), MIB)
        assert_reads(mount.raw(disk), model.content)
    check(overlay)


def test_file_size_limit(disk, mnt, tmp_path, disk_content):
    """RLIMIT_FSIZE gives the writer EFBIG; the process lives on."""
    content = bytearray(disk_content)
    with Mount(disk, mnt, "-o", "rw", wrapper=("prlimit", "--fsize=2000000")) as mount:
        with opened(mount.raw(disk)) as fd:
            with pytest.raises(OSError) as caught:
                for offset in range(MIB, 3 * MIB, 65536):
                    pwrite(fd, b"x" * 65536, offset)
                    content[offset:offset + 65536] = b"x" * 65536
            assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
            content[offset:offset + 65536] = os.pread(fd, 65536, offset)
            os.fsync(fd)
        assert_reads(mount.raw(disk), content)
    check(disk)
    assert_content(disk, content, tmp_path / "out")


# ---- a host that cannot store ----


def failing_syncs(tmp_path):
    """A command line that makes every fdatasync of the server fail."""
    env.need_tools("strace")
    if env.sanitizer():
        pytest.skip("sanitizers do not work below a tracer")
    return ("strace", "-f", "-o", tmp_path / "strace", "-e", "trace=fdatasync,fsync", "-e",
            "inject=fdatasync,fsync:error=EIO")


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_failing_sync(kind, asked, tmp_path, mnt):
    """fsync reports it, each time; without fsync, the end of the mount does."""
    path = tmp_path / ("disk.img" if kind == "raw" else "disk.qcow2")
    qemu.make_raw(path, MIB)
    if kind == "qcow2":
        qemu.create(path, MIB, preallocation="full")
    mount = Mount(path, mnt, "-o", "rw", wrapper=failing_syncs(tmp_path), expect_status=1)
    with mount:
        with opened(mount.raw(path)) as fd:
            try:
                pwrite(fd, b"x" * 512, 0)
            except OSError as error:    # a sync that the write itself needed
                assert kind == "qcow2" and error.errno in (errno.EIO, errno.EROFS)
            if asked:
                for _ in range(2):
                    with pytest.raises(OSError) as caught:
                        os.fsync(fd)
                    assert caught.value.errno == errno.EIO
    lines = [line for line in mount.stderr().splitlines() if "may be lost" in line]
    assert len(lines) == 1 and lines[0].startswith(f"qcowfs: {path}: "), mount.stderr()


def test_failing_sync_of_what_nobody_wrote(tmp_path, mnt, disk):
    """Nothing is lost, so nothing is reported."""
    with Mount(disk, mnt, "-o", "rw", wrapper=failing_syncs(tmp_path)) as mount:
        with opened(mount.raw(disk)) as fd:
            assert len(os.pread(fd, 4096, 0)) == 4096
