# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing to a disk: a write of any kind is visible to reads of every kind, and to QEMU
afterwards, and nothing but the disk changes."""

import errno
import os
import stat
import threading

import pytest

from qtest import pattern, procs, qemu
from qtest.checks import read_all
from qtest.mount import Daemon, Mount, mounts_at
from qtest.writing import (KEEP_SIZE, PUNCH_HOLE, Disk, assert_content, assert_reads, check,
                           fallocate, opened, pwrite, pwrite_direct, write_mapped)

MIB = 1 << 20


PIECES = [(0, 300_032, "words", 1), (2 * MIB, 65536, "noise", 2)]


def original():
    content = bytearray(4 * MIB)
    for offset, length, kind, salt in PIECES:
        content[offset:offset + length] = pattern.KINDS[kind](offset, length, salt)
    return content


@pytest.fixture(params=["raw", "qcow2", "qcow2-512", "qcow2-2M", "qcow2-el2", "chain", "cow"])
def image(request, tmp_path):
    """(path, mount options, content, format) of a disk of some MiB, partly written."""
    folder = tmp_path / "images"
    folder.mkdir()
    content = original()
    if request.param == "raw":
        return qemu.make_raw(folder / "disk.img", 4 * MIB, *PIECES), ["-o", "rw"], content, "raw"
    options = {"qcow2-512": {"cluster_size": 512}, "qcow2-2M": {"cluster_size": "2M"},
               "qcow2-el2": {"cluster_size": "128k", "extended_l2": "on"}}.get(request.param, {})
    if request.param == "chain":
        qemu.make_raw(folder / "base.img", 3 * MIB, *PIECES)
        path = qemu.create(folder / "disk.qcow2", 4 * MIB, "base.img", "raw")
    else:
        path = qemu.create(folder / "disk.qcow2", 4 * MIB, **options)
        qemu.write(path, *PIECES)
    return path, ["-o", "cow" if request.param == "cow" else "rw"], content, "qcow2"


def finish(image, content, tmp_path):
    """After the unmount. A temporary overlay leaves nothing to check."""
    path, options, _, image_format = image
    if image_format == "qcow2":
        check(path)
    assert_content(path, original() if "cow" in options else content, tmp_path / "out", image_format)


def test_kernel_mount_is_writable(image, mnt):
    path, options, _, _ = image
    with Mount(path, mnt, *options) as mount:
        assert "rw" in mounts_at(mnt)[-1][3].split(",")
        mode = stat.S_IMODE(os.stat(mount.raw(path)).st_mode)
        assert mode == 0o644
        assert os.access(mount.raw(path), os.W_OK)


@pytest.mark.parametrize("way", ["buffered", "direct", "mapped"])
def test_write_one_way_read_every_way(way, image, mnt, tmp_path, rng):
    path, options, content, _ = image
    with Mount(path, mnt, *options) as mount:
        raw = mount.raw(path)
        assert_reads(raw, content)
        flags = os.O_RDWR | (os.O_DIRECT if way == "direct" else 0)
        with opened(raw, flags) as fd:
            for start, length in ((0, 512), (4096, 70_144), (MIB - 512, 1024), (MIB, MIB),
                                  (3 * MIB + 512, 65536), (4 * MIB - 4096, 4096)):
                data = rng.randbytes(length)
                {"buffered": pwrite, "direct": pwrite_direct, "mapped": write_mapped}[way](
                    fd, data, start)
                content[start:start + length] = data
                assert_reads(raw, content, f"after {length} bytes at {start}")
    finish(image, content, tmp_path)


def test_bytes_of_any_length(image, mnt, tmp_path, rng):
    path, options, content, _ = image
    with Mount(path, mnt, *options) as mount:
        with opened(mount.raw(path)) as fd:
            for _ in range(60):
                start = rng.randrange(len(content))
                data = rng.randbytes(min(rng.choice([1, 3, 511, 513, 5000, 70_001]),
                                         len(content) - start))
                pwrite(fd, data, start)
                content[start:start + len(data)] = data
        assert_reads(mount.raw(path), content)
    finish(image, content, tmp_path)


def test_one_large_write(image, mnt, tmp_path, rng):
    """Larger than a request: write(2) writes all of it."""
    path, options, content, _ = image
    data = rng.randbytes(3 * MIB + 12345)
    with Mount(path, mnt, *options) as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, data, 7)
        content[7:7 + len(data)] = data
        assert_reads(mount.raw(path), content)
    finish(image, content, tmp_path)


def test_random_changes(image, mnt, tmp_path, rng):
    path, options, content, _ = image
    with Mount(path, mnt, *options) as mount:
        with opened(mount.raw(path)) as fd:
            disk = Disk(fd, content)
            for _ in range(4):
                for _ in range(40):
                    disk.change(rng)
                assert_reads(mount.raw(path), disk.content)
    finish(image, disk.content, tmp_path)


def test_threads(image, mnt, tmp_path, rng):
    """Writers that share clusters, but no bytes; with concurrent readers."""
    path, options, content, _ = image
    n_threads, step, failures = 4, 1536, []
    seeds = [rng.getrandbits(32) for _ in range(n_threads)]

    def work(number):
        mine = type(rng)(seeds[number])
        try:
            with opened(mount.raw(path)) as fd:
                for _ in range(150):
                    slot = mine.randrange(len(content) // step // n_threads) * n_threads + number
                    data = mine.randbytes(step)
                    pwrite(fd, data, slot * step)
                    content[slot * step:(slot + 1) * step] = data
                    assert os.pread(fd, step, slot * step) == data
        except BaseException as error:
            failures.append(error)

    with Mount(path, mnt, *options) as mount:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert_reads(mount.raw(path), content)
    finish(image, content, tmp_path)


def test_synchronous_writes(image, mnt, tmp_path, rng):
    path, options, content, _ = image
    with Mount(path, mnt, *options) as mount:
        for flag in (os.O_SYNC, os.O_DSYNC, os.O_DIRECT | os.O_SYNC):
            with opened(mount.raw(path), os.O_RDWR | flag) as fd:
                data = rng.randbytes(8192)
                (pwrite_direct if flag & os.O_DIRECT else pwrite)(fd, data, MIB)
                content[MIB:MIB + 8192] = data
        with opened(mount.raw(path)) as fd:
            os.fsync(fd)
            os.fdatasync(fd)
        assert_reads(mount.raw(path), content)
    finish(image, content, tmp_path)


def test_in_the_background(disk, disk_content, mnt, tmp_path):
    content = bytearray(disk_content)
    with Daemon(disk, mnt, "-o", "rw") as mount:
        with opened(mount.raw(disk)) as fd:
            pwrite(fd, b"written", 2 * MIB)
    content[2 * MIB:2 * MIB + 7] = b"written"
    check(disk)
    assert_content(disk, content, tmp_path / "out")


@pytest.mark.parametrize("point", ["image itself", "other file"])
@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_file_as_mountpoint(kind, point, disk, disk_content, mnt, tmp_path):
    where = disk if point == "image itself" else tmp_path / "file.raw"
    if where != disk:
        where.write_text("covered")
    content = bytearray(disk_content)
    with kind(disk, where, "-o", "rw"):
        with opened(where) as fd:
            pwrite(fd, b"written", 12345)
            os.fsync(fd)
            assert os.statvfs(where).f_bavail > 0
        content[12345:12352] = b"written"
        assert_reads(where, content)
        os.truncate(where, 5 * MIB)
        assert os.stat(where).st_size == 5 * MIB
    if where != disk:
        assert where.read_text() == "covered"
    check(disk)
    assert_content(disk, content + bytes(MIB), tmp_path / "out")


def test_several_images(disk, mnt, tmp_path):
    other = qemu.make_raw(tmp_path / "other.img", MIB)
    with Mount([disk, other], mnt, "-o", "rw") as mount:
        for image in (disk, other):
            with opened(mount.raw(image)) as fd:
                pwrite(fd, image.name.encode(), 4096)
    assert other.read_bytes()[4096:4105] == b"other.img"
    check(disk)
    assert qemu.to_raw(disk, tmp_path / "out").read_bytes()[4096:4106] == b"disk.qcow2"


# ---- everything but the disk ----


def test_the_rest_stays_read_only(chain, mnt):
    qemu.img("snapshot", "-c", "before", chain)
    with Mount(chain, mnt, "-o", "rw") as mount:
        for path in (mount.facts("top", "layers", "0.raw"), mount.facts("top", "layers", "1.raw"),
                     mount.facts("top", "info.json"), mount.facts("top", "map.json"),
                     mount.facts("stats.json"), mount.snapshots(chain) / "before" / "disk.raw",
                     mount.snapshots(chain) / "before" / "info.json"):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o444, path
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
                with pytest.raises(OSError) as caught:
                    os.close(os.open(path, flags))
                assert caught.value.errno == errno.EROFS, path
            with pytest.raises(OSError) as caught:
                os.truncate(path, 0)
            assert caught.value.errno == errno.EROFS, path


def test_names_are_fixed(disk, mnt):
    with Mount(disk, mnt, "-o", "rw") as mount:
        raw, new = mount.raw(disk), mnt / "new"
        for attempt in (lambda: open(new, "wb"), lambda: os.mkdir(new), lambda: os.unlink(raw),
                        lambda: os.rename(raw, new), lambda: os.link(raw, new),
                        lambda: os.symlink("x", new), lambda: os.mkfifo(new),
                        lambda: os.rmdir(mount.snapshots(disk)),
                        lambda: os.chmod(raw, 0o600), lambda: os.chown(raw, 1, 1)):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EPERM


def test_mode_and_owner_as_they_are(disk, mnt):
    """Programs that copy into a disk set them, also to their present values."""
    with Mount(disk, mnt, "-o", "rw") as mount:
        raw = mount.raw(disk)
        status = os.stat(raw)
        os.chmod(raw, stat.S_IMODE(status.st_mode))
        os.chown(raw, status.st_uid, status.st_gid)
        for mode in (0o4644, 0o600):
            with pytest.raises(PermissionError):
                os.chmod(raw, mode)
        with pytest.raises(PermissionError):
            os.chown(raw, -1, status.st_gid + 1)
        after = os.stat(raw)
        assert (after.st_mode, after.st_uid, after.st_gid, after.st_size) == \
            (status.st_mode, status.st_uid, status.st_gid, status.st_size)


def test_other_users_cannot_write(disk, mnt):
    """With allow_other the permission bits count."""
    if os.geteuid() != 0:
        pytest.skip("needs root: to become another user")
    with Mount(disk, mnt, "-o", "rw,allow_other") as mount:
        for folder in (mnt.parent, mnt):
            assert folder == mnt or folder.chmod(0o755) is None
        result = procs.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c",
                           'head -c 1 <"$0" >/dev/null && echo read; echo x >>"$0"', mount.raw(disk),
                           check=False)
        assert result.text == "read\n" and result.status != 0
        assert "Permission denied" in result.errors
    with Mount(disk, mnt, "-o", "rw,allow_other,uid=65534") as mount:
        procs.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "dd",
                  "if=/dev/zero", f"of={mount.raw(disk)}", "conv=notrunc", "bs=512", "count=1")


def test_layer_zero_shows_writes(image, mnt):
    """It is the same disk by another name: never old pages, an old size or old facts."""
    path, options, content, _ = image
    with Mount(path, mnt, *options) as mount:
        layer = mount.facts("disk", "layers", "0.raw")
        assert read_all(layer) == bytes(content)
        with opened(mount.raw(path)) as fd, opened(layer, os.O_RDONLY) as old:
            assert os.pread(old, 100, MIB) == bytes(content[MIB:MIB + 100])
            pwrite(fd, b"A" * 100, MIB)
            assert os.pread(old, 100, MIB) == b"A" * 100
            os.ftruncate(fd, 6 * MIB)
            assert os.stat(layer).st_size == os.fstat(fd).st_size == 6 * MIB
            info = mount.facts("disk", "info.json")
            assert f'"virtual-size": {6 * MIB}' in info.read_text()
            os.ftruncate(fd, 3 * MIB)
            assert os.stat(layer).st_size == 3 * MIB
            assert f'"virtual-size": {3 * MIB}' in info.read_text()
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 3 * MIB)
            assert read_all(layer) == bytes(3 * MIB)


# ---- attributes -----------------------------------------------------------------------


def test_times_follow_writes_alone(disk, mnt):
    with Mount(disk, mnt, "-o", "rw") as mount:
        raw = mount.raw(disk)

        def times():
            facts = os.stat(raw)
            return facts.st_mtime_ns, facts.st_ctime_ns

        os.utime(disk, ns=(10**18, 10**18))
        before = times()
        assert before[0] == 10**18, "the image's own, as it is now"
        read_all(raw)
        with opened(raw) as fd:
            os.fsync(fd)
            assert times() == before
            pwrite(fd, b"x" * 512, 2 * MIB)
            os.fsync(fd)
        after = times()
        assert after[0] > before[0]
        read_all(raw)
        with opened(raw) as fd:
            os.fsync(fd)
        assert times() == after
        os.utime(raw, ns=(5, 5))        # no error, no effect
        assert times() == after


def test_blocks_follow_writes(disk, mnt):
    with Mount(disk, mnt, "-o", "rw") as mount:
        raw = mount.raw(disk)
        before = os.stat(raw).st_blocks
        with opened(raw) as fd:
            pwrite(fd, b"x" * MIB, 2 * MIB)
            os.fsync(fd)
            assert os.stat(raw).st_blocks >= before + 1536
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 4 * MIB)
            os.fsync(fd)
            assert os.stat(raw).st_blocks < before


def test_statfs(disk, mnt):
    """The free space is that of the image's file system."""
    with Mount(disk, mnt, "-o", "rw") as mount:
        host, here = os.statvfs(disk), os.statvfs(mount.raw(disk))
        host_free, free = host.f_bavail * host.f_frsize, here.f_bavail * here.f_frsize
        assert abs(host_free - free) < 64 * MIB
        assert here.f_blocks > here.f_bavail
    with Mount(disk, mnt) as mount:
        assert os.statvfs(mount.raw(disk)).f_bavail == 0
