# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots taken, deleted and renamed in a mount, by mkdir, rmdir and mv: their immediate
visibility, the refusals, that each is the disk at one moment despite any number of concurrent
writers, and the state after a kill in the middle."""

import errno
import hashlib
import json
import os
import threading
import time
import urllib.parse

import pytest

from qtest import env, pattern, procs, qemu
from qtest.checks import read_all
from qtest.mount import Mount, mounts_at, unmount
from qtest.qcow2 import DIRTY, Qcow2File
from qtest.writing import assert_content, check, opened, pwrite

KIB, MIB = 1 << 10, 1 << 20


def fails(number, call, *arguments):
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number, caught.value


def open_dir(path):
    return opened(path, os.O_RDONLY | os.O_DIRECTORY)


def renameat2(old, new, flags):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


NOREPLACE, EXCHANGE = 1, 2


@pytest.fixture
def rw(disk, mnt):
    """The mounted disk; sound after the unmount of any test."""
    with Mount(disk, mnt, "-o", "rw") as mount:
        yield mount
    check(disk)


@pytest.fixture
def folder(rw, disk):
    return rw.snapshots(disk)


def names_in(image):
    return [s["name"] for s in qemu.info_json(image).get("snapshots", [])]


# ---- visibility ----


def test_seen_at_once(disk, rw, folder, disk_content):
    """A new one in every way, and no trace of it when it has gone."""
    assert os.listdir(folder) == []
    assert os.stat(folder).st_mode & 0o777 == 0o755
    for round_number in range(3):
        os.mkdir(folder / "one")
        assert os.listdir(folder) == ["one"]
        facts = os.stat(folder / "one")
        assert sorted(os.listdir(folder / "one")) == ["disk.raw", "info.json"]
        assert os.stat(folder / "one" / "disk.raw").st_size == 4 * MIB
        pattern.assert_same(read_all(folder / "one" / "disk.raw"), disk_content, "the snapshot")
        pattern.assert_same(read_all(folder / "one" / "disk.raw", os.O_DIRECT), disk_content, "direct")
        assert json.loads((folder / "one" / "info.json").read_text())["name"] == "one"
        shown = json.loads(rw.facts("disk", "info.json").read_text())["snapshots"]
        assert [(s["name"], s["id"]) for s in shown] == [("one", "1")]
        if round_number:
            assert facts.st_ino != inode, "a number is given again"
        inode = facts.st_ino
        os.rmdir(folder / "one")
        assert os.listdir(folder) == []
        for name in ("one", "one/disk.raw", "one/info.json"):
            fails(errno.ENOENT, os.stat, folder / name)
        fails(errno.ENOENT, os.rmdir, folder / "one")
        assert "snapshots" not in json.loads(rw.facts("disk", "info.json").read_text())


def test_content_stays(disk, rw, folder, disk_content, tmp_path):
    """Each is the disk as of that moment, during further changes; QEMU sees the same
    afterwards."""
    content, wanted = bytearray(disk_content), {}
    with opened(rw.raw(disk)) as fd:
        for number in range(5):
            os.mkdir(folder / f"s{number}")
            wanted[f"s{number}"] = bytes(content)
            for at in (0, 700_000, 3 * MIB + 100, number * 500_000):
                data = pattern.noise(at, 70_000, number)
                pwrite(fd, data, at)
                content[at:at + len(data)] = data
            for name, old in wanted.items():
                pattern.assert_same(read_all(folder / name / "disk.raw"), old, name)
        pattern.assert_same(read_all(rw.raw(disk)), bytes(content), "the disk")
        os.rmdir(folder / "s2")
        del wanted["s2"]
        pwrite(fd, b"x" * 4096, 8192)
        content[8192:12288] = b"x" * 4096
    for name, old in wanted.items():
        pattern.assert_same(read_all(folder / name / "disk.raw"), old, name)
    rw.close()
    check(disk)
    assert_content(disk, content, tmp_path / "out")
    assert names_in(disk) == list(wanted)
    for name, old in wanted.items():
        assert qemu.to_raw(disk, tmp_path / "out", name).read_bytes() == old


def test_those_of_the_image(disk, mnt, disk_content):
    """Snapshots by QEMU are renamed and deleted like ours, the new one gets the next ID."""
    for name in ("a", "b", "c"):
        qemu.img("snapshot", "-c", name, disk)
    with Mount(disk, mnt, "-o", "rw") as mount:
        folder = mount.snapshots(disk)
        os.rmdir(folder / "b")
        os.rename(folder / "a", folder / "z")
        os.mkdir(folder / "b")
        assert os.listdir(folder) == ["z", "c", "b"]
        assert json.loads((folder / "b" / "info.json").read_text())["id"] == "4"
        pattern.assert_same(read_all(folder / "c" / "disk.raw"), disk_content, "c")
    check(disk)
    assert names_in(disk) == ["z", "c", "b"]


def test_three_hundred(disk, rw, folder):
    names = [f"s{number}" for number in range(60 if env.sanitizer() else 300)]
    for name in names:
        os.mkdir(folder / name)
    assert os.listdir(folder) == names
    for name in names[::2]:
        os.rmdir(folder / name)
    assert os.listdir(folder) == names[1::2]
    rw.close()
    assert names_in(disk) == names[1::2]


def test_two_images(disk, tmp_path, mnt):
    """Each has its own."""
    other = qemu.create(tmp_path / "other.qcow2", MIB)
    with Mount([disk, other], mnt, "-o", "rw") as mount:
        os.mkdir(mount.snapshots(disk) / "one")
        os.mkdir(mount.snapshots(other) / "two")
        assert os.listdir(mount.snapshots(disk)) == ["one"]
        assert os.listdir(mount.snapshots(other)) == ["two"]
        fails(errno.EXDEV, os.rename, mount.snapshots(disk) / "one", mount.snapshots(other) / "one")
    assert (names_in(disk), names_in(other)) == (["one"], ["two"])


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"plain", b"a/b", b".", b"..", b".hidden", b"100%", b"new\nline",
                                  b"caf\xe9", "日本語".encode(), b"@1", b" ", b"x" * 255, b"%" * 85,
                                  b"-rf", b"\xff" * 85], ids=lambda name: ascii(name)[:16])
def test_names(name, disk, rw, folder):
    """By its shown name; the image has the real name."""
    folder = os.fsencode(folder)
    plain = {b"plain", b"@1", b" ", b"-rf", b"x" * 255, "日本語".encode()}
    shown = name if name in plain else b"".join(
        b"%%%02X" % c if c in b"/%\n\xe9\xff" or (c == ord(".") and not at) else bytes([c])
        for at, c in enumerate(name))
    assert urllib.parse.unquote_to_bytes(shown) == name
    os.mkdir(os.path.join(folder, shown))
    assert os.listdir(folder) == [shown]
    fails(errno.EEXIST, os.mkdir, os.path.join(folder, shown))
    os.rename(os.path.join(folder, shown), os.path.join(folder, b"other"))
    os.rename(os.path.join(folder, b"other"), os.path.join(folder, shown))
    assert os.listdir(folder) == [shown]
    rw.close()
    with Qcow2File(disk) as file:
        assert [s["name"] for s in file.snapshots()] == [name]


@pytest.mark.parametrize("name", ["100%", "%", "%2", "a%2fb", "%41", "%00", ".hidden", "line\nfeed", "%ZZ",
                                  "%C3%A4", b"caf\xe9", "a%"], ids=ascii)
def test_names_that_nothing_has(name, rw, folder):
    """No snapshot would be shown so: if it were taken, it could not be found again."""
    path = os.path.join(os.fsencode(folder), os.fsencode(name))
    os.mkdir(folder / "one")
    fails(errno.EINVAL, os.mkdir, path)
    fails(errno.EINVAL, os.rename, os.path.join(os.fsencode(folder), b"one"), path)
    assert os.listdir(folder) == ["one"]


def test_names_too_long(rw, folder):
    os.mkdir(folder / "one")
    for name in ("x" * 256, "ü" * 128, "x" * 1000):
        fails(errno.ENAMETOOLONG, os.mkdir, folder / name)
        fails(errno.ENAMETOOLONG, os.rename, folder / "one", folder / name)
    assert os.listdir(folder) == ["one"]


def test_names_that_repeat(disk, mnt):
    """QEMU permits repeated names; exactly the right one is deleted."""
    for _ in range(3):
        qemu.img("snapshot", "-c", "same", disk)
    with Mount(disk, mnt, "-o", "rw") as mount:
        folder = mount.snapshots(disk)
        assert os.listdir(folder) == ["same", "same@2", "same@3"]
        fails(errno.EEXIST, os.mkdir, folder / "same@2")
        os.rmdir(folder / "same@2")
        assert os.listdir(folder) == ["same", "same@3"]
        os.rename(folder / "same", folder / "other")
        shown = os.listdir(folder)
        assert shown == ["other", "same"]
        for name, number in zip(shown, ("1", "3")):
            assert json.loads((folder / name / "info.json").read_text())["id"] == number
        fails(errno.ENOENT, os.stat, folder / "same@3" / "info.json")
    check(disk)
    assert names_in(disk) == ["other", "same"]


# ---- while it is open ----------------------------------------------------------------------------


def test_rmdir_while_open(rw, folder, disk_content):
    os.mkdir(folder / "one")
    with opened(folder / "one" / "disk.raw", os.O_RDONLY) as fd:
        fails(errno.EBUSY, os.rmdir, folder / "one")
        assert os.listdir(folder) == ["one"]
        pattern.assert_same(os.pread(fd, 4 * MIB, 0), disk_content, "after the attempt")
    os.rmdir(folder / "one")
    # Neither a directory nor a text keeps it.
    os.mkdir(folder / "two")
    with open_dir(folder / "two") as fd, opened(folder / "two" / "info.json", os.O_RDONLY) as text:
        os.rmdir(folder / "two")
        assert b"two" in os.read(text, 4096)
        fails(errno.ENOENT, os.stat, folder / "two")
        fails(errno.ENOENT, os.listdir, fd)


@pytest.mark.parametrize("options", [[], ["-s"]], ids=["threads", "one-thread"])
def test_rmdir_right_after_close(options, disk, mnt):
    """The kernel reports a close after it has returned."""
    with Mount(disk, mnt, "-o", "rw", *options) as mount:
        folder = mount.snapshots(disk)
        for number in range(20 if env.sanitizer() else 60):
            os.mkdir(folder / "one")
            fds = [os.open(folder / "one" / "disk.raw", os.O_RDONLY) for _ in range(number % 5 + 1)]
            for fd in fds:
                os.pread(fd, 65536, 0)
            for fd in fds:
                os.close(fd)
            os.rmdir(folder / "one")
    check(disk)


def test_mv_while_open(disk, rw, folder, disk_content):
    """The open file stays usable; the facts have the new name."""
    os.mkdir(folder / "one")
    number = os.stat(folder / "one").st_ino
    with opened(folder / "one" / "disk.raw", os.O_RDONLY) as fd, opened(rw.raw(disk)) as disk_fd:
        half = os.pread(fd, 2 * MIB, 0)
        os.rename(folder / "one", folder / "two")
        pwrite(disk_fd, b"x" * MIB, 3 * MIB)
        pattern.assert_same(half + os.pread(fd, 2 * MIB, 2 * MIB), disk_content, "the open file")
        assert json.loads((folder / "two" / "info.json").read_text())["name"] == "two"
        fails(errno.EBUSY, os.rmdir, folder / "two")
    assert os.listdir(folder) == ["two"] and os.stat(folder / "two").st_ino == number
    fails(errno.ENOENT, os.stat, folder / "one")
    pattern.assert_same(read_all(folder / "two" / "disk.raw"), disk_content, "by the new name")
    shown = json.loads(rw.facts("disk", "info.json").read_text())["snapshots"]
    assert [s["name"] for s in shown] == ["two"]
    os.rmdir(folder / "two")


# ---- refusals ----


def test_what_mv_cannot(disk, rw, folder):
    for name in ("one", "two"):
        os.mkdir(folder / name)
    fails(errno.EEXIST, os.rename, folder / "one", folder / "two")
    fails(errno.EEXIST, renameat2, folder / "one", folder / "two", NOREPLACE)
    fails(errno.EINVAL, renameat2, folder / "one", folder / "two", EXCHANGE)
    fails(errno.ENOENT, os.rename, folder / "three", folder / "four")
    fails(errno.EXDEV, os.rename, folder / "one", rw.path("one"))
    fails(errno.EXDEV, os.rename, folder / "one", folder / "two" / "one")
    fails(errno.EPERM, os.rename, folder / "one" / "disk.raw", folder / "one" / "other.raw")
    fails(errno.EPERM, os.rename, rw.raw(disk), rw.path("other.raw"))
    fails(errno.EPERM, os.rename, folder, rw.path("other.snapshots"))
    os.rename(folder / "one", folder / "one")
    renameat2(folder / "one", folder / "three", NOREPLACE)
    assert os.listdir(folder) == ["three", "two"]


def test_elsewhere(disk, rw, folder):
    os.mkdir(folder / "one")
    for path in (rw.path("one"), folder / "one" / "two", rw.facts("one"), rw.facts("disk", "one")):
        fails(errno.EPERM, os.mkdir, path)
    for path in (folder, folder / "one" / "..", rw.facts(), rw.facts("disk")):
        with pytest.raises(OSError) as caught:
            os.rmdir(path)
        assert caught.value.errno in (errno.EPERM, errno.ENOTEMPTY), path
    fails(errno.ENOTDIR, os.rmdir, folder / "one" / "disk.raw")
    for path in (rw.raw(disk), folder / "one" / "disk.raw", folder / "one" / "info.json"):
        fails(errno.EPERM, os.unlink, path)
    fails(errno.EISDIR, os.unlink, folder / "one")
    fails(errno.EPERM, os.symlink, "x", folder / "link")
    fails(errno.EPERM, os.link, rw.raw(disk), folder / "link")
    fails(errno.EPERM, os.mknod, folder / "file")
    fails(errno.EPERM, os.open, folder / "file", os.O_RDWR | os.O_CREAT)
    fails(errno.EROFS, os.open, folder / "one" / "disk.raw", os.O_RDWR)
    assert os.listdir(folder) == ["one"]


@pytest.mark.parametrize("options", [[], ["-o", "cow"]], ids=["ro", "cow"])
def test_not_written_to(options, disk, mnt):
    """Without rw, and when writing to an overlay, the image's snapshots stay."""
    qemu.img("snapshot", "-c", "one", disk)
    before = disk.read_bytes()
    with Mount(disk, mnt, *options) as mount:
        folder = mount.snapshots(disk)
        assert not os.stat(folder).st_mode & 0o222
        fails(errno.EROFS, os.mkdir, folder / "two")
        fails(errno.EROFS, os.rmdir, folder / "one")
        fails(errno.EROFS, os.rename, folder / "one", folder / "two")
        assert os.listdir(folder) == ["one"]
    assert disk.read_bytes() == before


def test_formats_without(tmp_path, mnt):
    """A raw image, and one with an external data file."""
    raw = qemu.make_raw(tmp_path / "plain.img", MIB)
    data = qemu.create(tmp_path / "split.qcow2", MIB, data_file="split.data")
    with Mount([raw, data], mnt, "-o", "rw") as mount:
        for image in (raw, data):
            fails(errno.EOPNOTSUPP, os.mkdir, mount.snapshots(image) / "one")
            assert os.listdir(mount.snapshots(image)) == []
    check(data)


def test_damage(disk, mnt):
    """EIO for a fault in the image, not EINVAL for the caller."""
    with Qcow2File(disk) as file:
        file.set_l2_entry(65536, 1 << 40)
    with Mount(disk, mnt, "-o", "rw") as mount:
        fails(errno.EIO, os.mkdir, mount.snapshots(disk) / "one")
        assert os.listdir(mount.snapshots(disk)) == []


def test_narrow_refcounts(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, refcount_bits=1)
    qemu.io(image, "write -P 3 0 64k")
    with Mount(image, mnt, "-o", "rw") as mount:
        fails(errno.EFBIG, os.mkdir, mount.snapshots(image) / "one")
        assert "refcounts are too narrow" in mount.stderr()
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"x" * 4096, 0)
    check(image)


@pytest.mark.parametrize("version", ["0.10", "1.1"])
def test_resize(version, tmp_path, mnt):
    """Version 2 does not store a snapshot's size: with one, the disk's size stays."""
    image = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, compat=version)
    qemu.write(image, (0, 4 * MIB, "words", 1))
    content = pattern.words(0, 4 * MIB, 1)
    with Mount(image, mnt, "-o", "rw") as mount:
        folder, raw = mount.snapshots(image), mount.raw(image)
        os.mkdir(folder / "one")
        if version == "0.10":
            fails(errno.EOPNOTSUPP, os.truncate, raw, MIB)
            fails(errno.EOPNOTSUPP, os.truncate, raw, 8 * MIB)
            assert os.stat(raw).st_size == 4 * MIB
            os.rmdir(folder / "one")
            os.truncate(raw, MIB)
        else:
            os.truncate(raw, MIB)
            os.mkdir(folder / "two")
            os.truncate(raw, 8 * MIB)
            assert [os.stat(folder / n / "disk.raw").st_size for n in ("one", "two")] == [4 * MIB, MIB]
            pattern.assert_same(read_all(folder / "one" / "disk.raw"), content, "one")
            pattern.assert_same(read_all(folder / "two" / "disk.raw"), content[:MIB], "two")
            pattern.assert_same(read_all(raw), content[:MIB] + bytes(7 * MIB), "the disk")
            os.rmdir(folder / "one")
            pattern.assert_same(read_all(folder / "two" / "disk.raw"), content[:MIB], "two")
    check(image)


# ---- many at once -----------------------------------------------------------------------------------


def run_threads(*functions):
    """Runs functions of (stop) in threads until the first one has returned; the others must end
    when @stop is set. Raises the first error of any."""
    stop, errors = threading.Event(), []

    def guard(function):
        try:
            function(stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=guard, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    threads[0].join(50 * env.slow())
    stop.set()
    for thread in threads:
        thread.join(20 * env.slow())
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_listing_from_threads_meanwhile(rw, folder):
    """A listing while others come and go has each permanent one exactly once."""
    staying = [f"{number:03}" + "x" * 120 for number in range(100)]
    for name in staying:
        os.mkdir(folder / name)
    n_lists = [0]

    def change(_):
        for number in range(10 if env.sanitizer() else 40):
            os.mkdir(folder / f"going {number}")
            os.rename(folder / f"going {number}", folder / f"went {number}")
            if number >= 3:
                os.rmdir(folder / f"went {number - 3}")

    def look(stop):
        while not stop.is_set():
            found = os.listdir(folder)
            assert len(found) == len(set(found)), "something is listed twice"
            assert [name for name in found if name[0].isdigit()] == staying
            assert len(found) <= len(staying) + 8
            n_lists[0] += 1

    run_threads(change, look, look)
    assert n_lists[0] > 0


class Writer:
    """Writes each generation to block A, and then, acknowledged, to block B. A block is a page,
    which the kernel sends at once."""

    def __init__(self, path, number, done=0, begun=0):
        self._path = path
        self.places = number * 151_552, 2 * MIB + number * 151_552
        self.done, self.begun = done, begun

    def __call__(self, stop):
        with opened(self._path) as fd:
            while not stop.is_set():
                self.begun += 1
                for place in self.places:
                    pwrite(fd, self.begun.to_bytes(8, "big") * 512, place)
                self.done = self.begun

    def found(self, content):
        """The generations in a disk's content; a block never has two."""
        out = []
        for place in self.places:
            block = content[place:place + 4096]
            assert block == block[:8] * 512, "half a write"
            out.append(int.from_bytes(block[:8], "big"))
        return out

    def check_cut_off(self, content):
        """After the server's death during a write: each of its sectors is old or new."""
        for place in self.places:
            block = content[place:place + 4096]
            for at in range(0, 4096, 512):
                sector = block[at:at + 512]
                assert sector == sector[:8] * 64, "half a sector"
                assert self.done <= int.from_bytes(sector[:8], "big") <= self.begun

    def check(self, content, at_least, at_most):
        first, second = self.found(content)
        assert first - second in (0, 1), f"block A of generation {first}, block B of {second}"
        assert second >= at_least, f"generation {second}, but {at_least} was acknowledged before"
        assert first <= at_most, f"generation {first}, but only {at_most} had begun after"


@pytest.mark.limit(120)
@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"compat": "0.10", "cluster_size": 512},
                                     {"extended_l2": "on"}], ids=["64k", "4k", "v2", "el2"])
def test_one_moment_from_threads(options, tmp_path, mnt, rng):
    """Four write all the time, two read snapshots while others come and go: each is one moment of
    the disk, between the writes acknowledged before and begun after, and stays."""
    image = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, **options)
    digests, n_read = {}, [0]
    with Mount(image, mnt, "-o", "rw") as mount:
        folder = mount.snapshots(image)
        writers = [Writer(mount.raw(image), number) for number in range(4)]

        def take(stop):
            for number in range(6 if env.sanitizer() else 20):
                before = [w.done for w in writers]
                procs.wait_until(lambda: stop.is_set() or all(w.done > b for w, b in zip(writers, before)),
                                 "writes between two snapshots", 20)
                if stop.is_set():
                    return
                name, before = f"s{number}", [w.done for w in writers]
                os.mkdir(folder / name)
                after = [w.begun for w in writers]
                content = read_all(folder / name / "disk.raw")
                for w, low, high in zip(writers, before, after):
                    w.check(content, low, high)
                digests[name] = hashlib.sha256(content).digest()
                if number % 3 == 2:
                    gone = rng.choice(list(digests))
                    wanted = digests.pop(gone)
                    try:
                        os.rmdir(folder / gone)
                    except OSError as error:    # it is being read all the time
                        assert error.errno == errno.EBUSY
                        digests[gone] = wanted

        def read(stop):
            while not stop.is_set():
                for name in os.listdir(folder):
                    wanted = digests.get(name)
                    try:
                        with opened(folder / name / "disk.raw", os.O_RDONLY | os.O_DIRECT) as fd:
                            content = b""
                            while len(content) < 4 * MIB:
                                content += os.pread(fd, MIB, len(content))
                    except OSError as error:
                        assert error.errno == errno.ENOENT, error
                        continue
                    assert wanted in (None, hashlib.sha256(content).digest()), f"{name} has changed"
                    n_read[0] += 1

        run_threads(take, *writers, read, read)
        assert n_read[0] > 0
        for name, wanted in digests.items():
            assert hashlib.sha256(read_all(folder / name / "disk.raw")).digest() == wanted
    check(image)
    assert sorted(names_in(image)) == sorted(digests)
    for name, wanted in digests.items():
        got = qemu.to_raw(image, tmp_path / "out", name).read_bytes()
        assert hashlib.sha256(got).digest() == wanted, f"{name} by QEMU"


# ---- kill -9 ----------------------------------------------------------------------------------------


class Changer(threading.Thread):
    """Takes, renames and deletes snapshots until the server is gone. @digests has the acknowledged
    ones, by name; @pending are the names that may be there or not."""

    def __init__(self, folder, rng, digests, number):
        super().__init__(daemon=True)
        self._folder, self._rng, self.digests, self._number = folder, rng, digests, number
        self.pending, self.n_done, self.error = {}, 0, None

    def run(self):
        try:
            while True:
                self._change()
                self.pending = {}
                self.n_done += 1
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                self.error = error
        except BaseException as error:
            self.error = error

    def _change(self):
        kind = self._rng.randrange(4) if len(self.digests) > 4 else self._rng.randrange(2)
        self._number += 1
        name = f"s{self._number}"
        if kind < 2 and len(self.digests) < 8:
            self.pending = {name: None}
            os.mkdir(self._folder / name)
            digest = hashlib.sha256(read_all(self._folder / name / "disk.raw")).digest()
            self.digests[name] = digest
            return
        old = self._rng.choice(list(self.digests))
        wanted = self.digests.pop(old)
        self.pending = {old: wanted} if kind != 3 else {old: wanted, name: wanted}
        if kind != 3:
            os.rmdir(self._folder / old)
        else:
            os.rename(self._folder / old, self._folder / name)
            self.digests[name] = wanted


def after_the_kill(image, changer, mnt):
    """Makes the image sound, and compares its snapshots with the expected ones."""
    with Qcow2File(image) as file:
        is_dirty = bool(file.get("incompatible") & DIRTY) and file.version > 2
        version = file.version
    if not is_dirty and version > 2:
        check(image, leaks_allowed=True)
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"again", 4 * MIB - 100)
        folder = mount.snapshots(image)
        shown = set(os.listdir(folder))
        assert set(changer.digests) <= shown, f"lost: {set(changer.digests) - shown}"
        extra = shown - set(changer.digests)
        assert extra <= set(changer.pending) and len(extra) <= 1, f"{extra}, {changer.pending}"
        for name in shown:
            digest = hashlib.sha256(read_all(folder / name / "disk.raw")).digest()
            wanted = changer.digests.get(name) or changer.pending[name] or digest
            assert digest == wanted, f"{name} has changed"
            changer.digests[name] = digest
    if version > 2:
        check(image, leaks_allowed=not is_dirty)
    # Version 2 cannot mark the interruption: flags are as they were, or not set.
    result = qemu.img("check", "-r", "all" if version == 2 else "leaks", image, check=False)
    assert "ERROR cluster" not in result.text + result.errors, result
    check(image)
    return is_dirty


@pytest.mark.limit(240)
@pytest.mark.parametrize("options", [{"cluster_size": 4096}, {"cluster_size": 512, "compat": "0.10"}, {}],
                         ids=["4k", "v2", "64k"])
def test_kill(options, tmp_path, mnt, rng):
    image = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, **options)
    qemu.write(image, (0, 4 * MIB, "words", 1))
    qemu.io(image, "write -z 0 512k", "write -z 2M 512k")
    digests, number, n_dirty = {}, 0, 0
    generations = [(0, 0), (0, 0)]      # acknowledged and begun
    try:
        for _ in range(3 if env.sanitizer() else 8):
            with Mount(image, mnt, "-o", "rw") as mount:
                stop = threading.Event()
                writers = [Writer(mount.raw(image), n, *generations[n]) for n in range(2)]

                def write(writer):
                    try:
                        writer(stop)
                    except OSError:
                        pass        # the server is gone

                threads = [threading.Thread(target=write, args=(w,), daemon=True) for w in writers]
                changer = Changer(mount.snapshots(image), rng, digests, number)
                for thread in (*threads, changer):
                    thread.start()
                goal = rng.randrange(1, 15)
                procs.wait_until(lambda: changer.n_done >= goal or not changer.is_alive(), "changes", 20)
                mount.kill()
                for thread in (*threads, changer):
                    thread.join(20)
                    assert not thread.is_alive()
                assert changer.error is None, changer.error
            number = changer._number
            n_dirty += after_the_kill(image, changer, mnt)
            content = qemu.to_raw(image, tmp_path / "out").read_bytes()
            for w in writers:
                w.check_cut_off(content)
            generations = [(w.done, w.begun) for w in writers]
        print(f"{n_dirty} of the kills left the image dirty")
    finally:
        while mounts_at(mnt):
            unmount(mnt, lazy=True)
