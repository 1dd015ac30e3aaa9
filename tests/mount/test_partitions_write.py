# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing through partitions writes to the disk, visible through every file, and a new table shows
when its writer has gone."""

import contextlib
import errno
import mmap
import os
import signal
import threading

import pytest

from qtest import env, loop, partitions, procs, qemu
from qtest.mount import Mount

MIB = 1 << 20
TABLE = "label: dos\n1 : start=2048, size=65536\n2 : start=67591, size=32768\n"
PARTS = {1: (2048 * 512, 65536 * 512), 2: (67591 * 512, 32768 * 512)}  # start, length
DISK = 64 * MIB


@pytest.fixture
def image(tmp_path):
    """disk.qcow2 with two partitions, of which the second begins within a page."""
    folder = tmp_path / "images"
    folder.mkdir()
    raw = partitions.make(tmp_path / "raw", TABLE, DISK)
    path = folder / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


class Files:
    """The disk and its partitions, open: each part of the disk by two ways."""

    def __init__(self, mnt, flags=os.O_RDWR):
        self.disk = os.open(mnt / "disk.raw", flags)
        self.parts = {n: os.open(mnt / "disk.partitions" / f"{n}.raw", flags) for n in PARTS}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for fd in (self.disk, *self.parts.values()):
            os.close(fd)

    def ways(self, number, offset):
        """[(fd, offset)] of a byte of a partition: by the disk and by the partition."""
        return [(self.disk, PARTS[number][0] + offset), (self.parts[number], offset)]


def check_image(image):
    qemu.img("check", image)


@pytest.mark.parametrize("number", PARTS)
def test_both_directions(number, image, mnt, rng):
    """Each write is visible at once in the other file, whose pages are cached."""
    start, length = PARTS[number]
    model = bytearray()
    with Mount(image, mnt, "-o", "rw"):
        with Files(mnt) as files:
            model += os.pread(files.disk, length, start)
            assert os.pread(files.parts[number], length, 0) == model
            for _ in range(150):
                offset = rng.randrange(length - 1)
                data = rng.randbytes(min(length - offset, rng.choice([1, 511, 4096, 5000, 140_000])))
                ways = files.ways(number, offset)
                rng.shuffle(ways)
                assert os.pwrite(*[ways[0][0], data, ways[0][1]]) == len(data)
                model[offset:offset + len(data)] = data
                assert os.pread(ways[1][0], len(data), ways[1][1]) == data
            assert os.pread(files.disk, length, start) == model
            assert os.pread(files.parts[number], length, 0) == model
    check_image(image)


def test_mapped_reader(image, mnt, rng):
    with Mount(image, mnt, "-o", "rw"), Files(mnt) as files:
        start, length = PARTS[2]
        with contextlib.ExitStack() as stack:
            maps = [stack.enter_context(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))
                    for fd, size in ((files.disk, DISK), (files.parts[2], length))]
            bases = [start, 0]
            for _ in range(200):
                offset = rng.randrange(length - 5000)
                data = rng.randbytes(rng.choice([1, 4096, 5000]))
                writer = rng.randrange(2)
                fd, at = files.ways(2, offset)[writer]
                for view, base in zip(maps, bases):     # both are mapped there
                    view[base + offset]
                os.pwrite(fd, data, at)
                for view, base in zip(maps, bases):
                    assert view[base + offset:base + offset + len(data)] == data


def test_mapped_writer(image, mnt, rng):
    """A write to a mapping is visible in the other file after msync."""
    with Mount(image, mnt, "-o", "rw"), Files(mnt) as files:
        start, length = PARTS[1]
        with mmap.mmap(files.disk, DISK) as disk, mmap.mmap(files.parts[1], length) as part:
            for round_number in range(60):
                offset = rng.randrange(length - 5000)
                data = rng.randbytes(rng.choice([1, 4096, 5000]))
                mine, base, (other, other_at) = (
                    (disk, start, files.ways(1, offset)[1]) if round_number % 2
                    else (part, 0, files.ways(1, offset)[0]))
                os.pread(other, len(data), other_at)
                mine[base + offset:base + offset + len(data)] = data
                mine.flush()
                assert os.pread(other, len(data), other_at) == data


def test_holes_and_zeros(image, mnt):
    env.need_tools("fallocate")
    with Mount(image, mnt, "-o", "rw"), Files(mnt) as files:
        start, length = PARTS[1]
        part = mnt / "disk.partitions" / "1.raw"
        for fd, at in files.ways(1, 0):
            os.pread(fd, length, at)
        procs.run("fallocate", "-p", "-o", str(MIB), "-l", str(MIB), part)
        assert os.pread(files.disk, MIB, start + MIB) == bytes(MIB)
        procs.run("fallocate", "-z", "-o", str(start + 4 * MIB), "-l", "70000", mnt / "disk.raw")
        assert os.pread(files.parts[1], 70000, 4 * MIB) == bytes(70000)
        assert os.pread(files.parts[1], 4096, 4 * MIB + 70000) != bytes(4096)
        procs.run("fallocate", "-o", "0", "-l", str(length), part)
        assert part.stat().st_size == length


def test_partition_has_its_size(image, mnt):
    start, length = PARTS[1]
    with Mount(image, mnt, "-o", "rw"):
        part = mnt / "disk.partitions" / "1.raw"
        with Files(mnt) as files:
            fd = files.parts[1]
            behind = os.pread(files.disk, MIB, start + length)
            for offset, data in ((length, b"x"), (length + MIB, b"y" * 5000)):
                with pytest.raises(OSError) as failure:
                    os.pwrite(fd, data, offset)
                assert failure.value.errno == errno.ENOSPC
            assert os.pwrite(fd, b"z" * 8192, length - 100) == 100  # as a device does
            assert os.pread(files.disk, 100, start + length - 100) == b"z" * 100
            assert os.pread(files.disk, MIB, start + length) == behind
            for size in (1, length - 1, length + 1):
                with pytest.raises(OSError) as failure:
                    os.ftruncate(fd, size)
                assert failure.value.errno == errno.EINVAL
            os.ftruncate(fd, length)
            assert part.stat().st_size == length
    check_image(image)


@pytest.mark.parametrize("command", [["dd", "if=new", "of={part}", "bs=64k", "status=none"],
                                     ["cp", "new", "{part}"],
                                     ["sh", "-c", "cat new >{part}"]])
def test_partition_is_opened_with_truncation(command, image, mnt, tmp_path):
    """O_TRUNC is ignored, as by a device."""
    start, length = PARTS[1]
    (tmp_path / "new").write_bytes(b"new" * 50_000)
    with Mount(image, mnt, "-o", "rw") as mount:
        part = mnt / "disk.partitions" / "1.raw"
        before = part.read_bytes()
        procs.run(*(word.format(part=part) for word in command), cwd=tmp_path)
        wanted = b"new" * 50_000 + before[150_000:]
        assert part.read_bytes() == wanted and len(wanted) == length
        with open(mount.raw(image), "rb") as disk:
            disk.seek(start)
            assert disk.read(length) == wanted


def test_extended_is_no_file(tmp_path, mnt):
    raw = partitions.make(tmp_path / "disk.raw", partitions.LOGICAL)
    with Mount(raw, mnt, "-o", "rw"):
        assert partitions.files(mnt / "disk.partitions") == [1, 4, 5, 6, 7]


def test_snapshots_and_layers_stay_read_only(image, mnt):
    qemu.img("snapshot", "-c", "one", image)
    with Mount(image, mnt, "-o", "rw"):
        old = (mnt / "disk.snapshots" / "one" / "disk.partitions" / "1.raw")
        before = old.read_bytes()
        for path in (old, mnt / ".qcowfs" / "disk" / "layers" / "0.partitions" / "1.raw"):
            with pytest.raises(OSError) as failure:
                os.open(path, os.O_RDWR)
            assert failure.value.errno in (errno.EROFS, errno.EACCES)
        with Files(mnt) as files:
            os.pwrite(files.parts[1], b"new" * 1000, 10_000)
        assert old.read_bytes() == before
        layer = (mnt / ".qcowfs" / "disk" / "layers" / "0.partitions" / "1.raw").read_bytes()
        assert layer[10_000:13_000] == b"new" * 1000
        (mnt / "disk.snapshots" / "two").mkdir()
        taken = (mnt / "disk.snapshots" / "two" / "disk.partitions" / "1.raw").read_bytes()
        assert taken == layer
        (mnt / "disk.snapshots" / "two").rmdir()


def test_cow(image, mnt):
    before = image.read_bytes()
    with Mount(image, mnt, "-o", "cow"), Files(mnt) as files:
        os.pwrite(files.parts[2], b"mine", 7)
        assert os.pread(files.disk, 4, PARTS[2][0] + 7) == b"mine"
    assert image.read_bytes() == before


def facts(mnt):
    return {p["number"]: (p["start"], p["length"])
            for p in partitions.info(mnt / "disk.partitions")["partitions"]}


def wait_for(directory, numbers):
    """The kernel tells of a close after the caller's close has returned."""
    procs.wait_until(lambda: directory.exists() and partitions.files(directory) == numbers,
                     f"partitions {numbers}")


def test_new_table(image, mnt):
    """It shows when the last possible writer of the disk has closed it. A changed partition is a
    different file; an unchanged one is the same."""
    env.need_tools("sfdisk")
    with Mount(image, mnt, "-o", "rw"):
        directory = mnt / "disk.partitions"
        assert partitions.files(directory) == [1, 2]
        inodes = [(directory / f"{n}.raw").stat().st_ino for n in (1, 2)]
        old_bytes = (directory / "1.raw").read_bytes()
        with open(directory / "1.raw", "rb") as reader, open(directory / "2.raw", "r+b"):
            procs.run("sfdisk", "-q", "--no-reread", mnt / "disk.raw", stdin=(
                b"label: dos\n1 : start=4096, size=2048\n2 : start=67591, size=32768\n"
                b"4 : start=106496, size=2048\n"))
            assert partitions.files(directory) == [1, 2]    # 2.raw is open for writing
            assert reader.read() == old_bytes
        wait_for(directory, [1, 2, 4])
        assert facts(mnt)[1] == (4096 * 512, 2048 * 512)
        assert (directory / "1.raw").stat().st_size == 2048 * 512
        assert (directory / "1.raw").stat().st_ino != inodes[0]
        assert (directory / "2.raw").stat().st_ino == inodes[1]
        with Files(mnt) as files:
            assert (directory / "1.raw").read_bytes() == os.pread(files.disk, MIB, 2 * MIB)
            os.pwrite(files.parts[1], b"changed", 5)
            assert os.pread(files.disk, 7, 2 * MIB + 5) == b"changed"
        with open(mnt / "disk.raw", "r+b") as disk:     # no table any more
            disk.write(bytes(512))
        procs.wait_until(lambda: not directory.exists(), "no partitions")
        assert sorted(os.listdir(mnt)) == [".qcowfs", "disk.raw", "disk.snapshots"]
        procs.run("sfdisk", "-q", "--no-reread", mnt / "disk.raw", stdin=TABLE.encode())
        wait_for(directory, [1, 2])
        assert (directory / "1.raw").read_bytes()[:4096] == old_bytes[:4096]
    check_image(image)


def test_new_disk(tmp_path, mnt):
    """An empty image gets its table through the mount."""
    env.need_tools("sfdisk", "mkfs.ext4")
    image = qemu.create(tmp_path / "disk.qcow2", DISK)
    with Mount(image, mnt, "-o", "rw"):
        assert not (mnt / "disk.partitions").exists()
        procs.run("sfdisk", "-q", "--no-reread", mnt / "disk.raw", stdin=TABLE.encode())
        wait_for(mnt / "disk.partitions", [1, 2])
        procs.run("mkfs.ext4", "-q", mnt / "disk.partitions" / "2.raw")
        assert partitions.files(mnt / "disk.partitions") == [1, 2]


def test_shorter_disk(image, mnt):
    with Mount(image, mnt, "-o", "rw"):
        with Files(mnt) as files:
            os.pread(files.parts[2], MIB, 0)
        os.truncate(mnt / "disk.raw", PARTS[2][0] + 8192)
        assert (mnt / "disk.partitions" / "2.raw").stat().st_size == 8192
        os.truncate(mnt / "disk.raw", PARTS[2][0])
        assert partitions.files(mnt / "disk.partitions") == [1]
        os.truncate(mnt / "disk.raw", DISK)
        assert (mnt / "disk.partitions" / "2.raw").read_bytes() == bytes(PARTS[2][1])


def test_file_system_in_a_partition(image, mnt, tmp_path, rng):
    """mkfs and fuse2fs on the partition; debugfs reads by the disk."""
    env.need_tools("mkfs.ext4", "debugfs", "e2fsck", "fuse2fs")
    data = rng.randbytes(300_000)
    with Mount(image, mnt, "-o", "rw"):
        part = mnt / "disk.partitions" / "1.raw"
        with Files(mnt) as files:
            for fd in (files.disk, files.parts[1]):
                os.pread(fd, DISK, 0)
            procs.run("mkfs.ext4", "-q", part)
        with partitions.fuse2fs(part, tmp_path / "p", "rw,fakeroot") as top:
            (top / "file").write_bytes(data)
        procs.run("e2fsck", "-f", "-n", part)
        out = procs.run("debugfs", "-R", "cat /file",
                        f"{mnt}/disk.raw?offset={PARTS[1][0]}").stdout
        assert out == data
    check_image(image)


def test_file_system_on_a_loop_device(image, mnt, tmp_path, rng):
    loop.need_loop_devices()
    loop.need_filesystem("ext4", "mkfs.ext4")
    data = rng.randbytes(300_000)
    with Mount(image, mnt, "-o", "rw"):
        part = mnt / "disk.partitions" / "1.raw"
        procs.run("mkfs.ext4", "-q", part)
        with loop.mounted(part, tmp_path / "p", "loop") as top:
            (top / "file").write_bytes(data)
        with loop.attached(mnt / "disk.raw", "-r", "-o", str(PARTS[1][0])) as device, \
                loop.mounted(device, tmp_path / "q", "ro") as top:
            assert (top / "file").read_bytes() == data
    check_image(image)


# ---- many at once ---------------------------------------------------------------------

class Load:
    """Threads that run until their time or a number of rounds is over, or one fails."""

    def __init__(self):
        self.failures, self.stops, self._threads = [], threading.Event(), []

    def start(self, function, *args):
        def run():
            try:
                function(self, *args)
            except BaseException as failure:    # reported by the main thread
                self.failures.append(failure)
                self.stops.set()
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def join(self, limit_s=100):
        for thread in self._threads:
            thread.join(limit_s * env.slow())
            assert not thread.is_alive(), "a request hangs"
        if self.failures:
            raise self.failures[0]


def own_region(load, files, number, start, length, rng, rounds):
    """Writes by one way and reads by the other, where no other thread writes."""
    for _ in range(rounds):
        if load.stops.is_set():
            return
        offset = start + rng.randrange(length - 20_000)
        data = rng.randbytes(rng.choice([3, 4096, 20_000]))
        ways = files.ways(number, offset)
        rng.shuffle(ways)
        os.pwrite(ways[0][0], data, ways[0][1])
        assert os.pread(ways[1][0], len(data), ways[1][1]) == data


def shared_region(load, files, number, start, length, rng, rounds):
    """Writes parts of the pages that others write by the other way at the same moment."""
    for _ in range(rounds):
        if load.stops.is_set():
            return
        offset = start + rng.randrange(length - 9000)
        fd, at = files.ways(number, offset)[rng.randrange(2)]
        os.pwrite(fd, rng.randbytes(rng.choice([1, 700, 4096, 9000])), at)
        fd, at = files.ways(number, offset)[rng.randrange(2)]
        os.pread(fd, 6000, at)


def mapped_region(load, mnt, number, start, length, rng, rounds):
    """As shared_region, in mappings."""
    with open(mnt / "disk.raw", "r+b") as disk, \
            open(mnt / "disk.partitions" / f"{number}.raw", "r+b") as part, \
            mmap.mmap(disk.fileno(), DISK) as disk_map, \
            mmap.mmap(part.fileno(), PARTS[number][1]) as part_map:
        for _ in range(rounds):
            if load.stops.is_set():
                return
            offset = start + rng.randrange(length - 9000)
            view, base = rng.choice([(disk_map, PARTS[number][0]), (part_map, 0)])
            view[base + offset:base + offset + 700] = rng.randbytes(700)
            if rng.random() < 0.2:
                view.flush()


def punch_region(load, mnt, number, start, length, rng, rounds):
    for _ in range(rounds):
        if load.stops.is_set():
            return
        path, base = rng.choice([(mnt / "disk.raw", PARTS[number][0]),
                                 (mnt / "disk.partitions" / f"{number}.raw", 0)])
        procs.run("fallocate", rng.choice(["-p", "-z"]), "-o",
                  str(base + start + rng.randrange(length - 70_000)), "-l", "65536", path)


def start_all(load, files, mnt, rng, rounds):
    def seeded():
        return type(rng)(rng.random())
    for place in range(3):
        load.start(own_region, files, 1, place * 8 * MIB, 4 * MIB, seeded(), rounds)
    for _ in range(3):
        load.start(shared_region, files, 2, 0, 200_000, seeded(), rounds)
    load.start(mapped_region, mnt, 2, 0, 200_000, seeded(), rounds)
    load.start(punch_region, mnt, 2, 0, 200_000, seeded(), rounds // 20)


def abort(mount):
    """A server whose notifier waits for a page cannot even be killed before the kernel has
    released all requests."""
    procs.run("umount", "-f", mount.mountpoint, check=False)
    mount.abort()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_many_at_once(threads, image, mnt, rng):
    """No deadlock, for any order of waits for pages; in the end all agree."""
    env.need_tools("fallocate")
    with Mount(image, mnt, "-o", f"rw,threads={threads}") as mount:
        with Files(mnt) as files:
            load = Load()
            with procs.Watchdog(150, lambda: abort(mount)):
                start_all(load, files, mnt, rng, 400)
                load.join()
            for fd in (files.disk, *files.parts.values()):
                os.fsync(fd)
            for number, (start, length) in PARTS.items():
                cached = [os.pread(fd, length, at) for fd, at in files.ways(number, 0)]
                assert cached[0] == cached[1]
                direct = os.open(mnt / "disk.raw", os.O_RDONLY | os.O_DIRECT)
                with mmap.mmap(-1, DISK) as buffer:
                    assert os.preadv(direct, [buffer], 0) == DISK
                    assert buffer[start:start + length] == cached[0]
                os.close(direct)
    check_image(image)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_server_ends_meanwhile(number, image, mnt, rng):
    """The end comes while changes are told: nothing hangs, nothing stays. (Not with mappings,
    whose users a dead server kills.)"""
    with Mount(image, mnt, "-o", "rw") as mount:
        load = Load()
        with contextlib.suppress(OSError), Files(mnt) as files:
            for place in range(4):
                load.start(shared_region, files, 2, 0, 200_000, type(rng)(place), 1 << 30)
            load.stops.wait(0.3)
            if number == signal.SIGKILL:
                mount.kill()
            else:
                os.kill(mount.pid, number)      # waits for the writers,
                mount.terminate(signal.SIGINT)  # and then no longer
            with contextlib.suppress(OSError):
                load.join()
        if number == signal.SIGKILL:
            procs.run("fusermount3", "-uz", mnt)
    check_image(image)
