# SPDX-License-Identifier: GPL-2.0-or-later
"""Directories as IMAGE: which of their files are shown, when they are opened and closed, and their
coming, going and changing. The reference is a mount of the same files one by one."""

import errno
import json
import os
import re
import shutil
import signal
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qtest import env, loop, pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Daemon, Mount, refused, unmount

MIB = 1 << 20


def make(path, salt, size=MIB, **options):
    """A small image whose first 64 KiB identify it."""
    image = qemu.create(path, size, **options)
    qemu.write(image, (0, 65536, "words", salt))
    return image


def head(path):
    with open(path, "rb", buffering=0) as file:
        return file.read(65536)


def is_image(path, salt):
    return head(path) == pattern.words(0, 65536, salt)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def three(folder):
    """a.qcow2, b.qcow2, c.qcow2."""
    for salt, name in enumerate("abc", 1):
        make(folder / f"{name}.qcow2", salt)
    return folder


def straced(calls, log, *options):
    """A wrapper that records @calls. The leak checker is off under a tracer, since it is a tracer
    itself."""
    env.need_tools("strace")
    asan = os.environ.get("ASAN_OPTIONS", "")
    return ["env", f"ASAN_OPTIONS={asan}:detect_leaks=0", "strace", "-f", "-qq", "-o", str(log),
            "-e", f"trace={calls}", *options]


def disks(mnt):
    return {name[:-4] for name in os.listdir(mnt) if name.endswith(".raw")}


def opened(mount, folder):
    """Names of the files of @folder that the server has open."""
    out = []
    for fd in os.listdir(f"/proc/{mount.pid}/fd"):
        try:
            link = os.readlink(f"/proc/{mount.pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if link.startswith(f"{folder}/"):
            out.append(link.removeprefix(f"{folder}/"))
    return sorted(out)


def all_closed(mount, folder):
    procs.wait_until(lambda: not opened(mount, folder), "images are closed when idle")


def shows(mnt, *names):
    procs.wait_until(lambda: disks(mnt) == set(names), f"{names} are shown, {disks(mnt)} are")


def errors(mount):
    return json.loads(mount.facts("errors.json").read_text())


# ---- files and names ----


def test_tree(three, mnt):
    qemu.img("snapshot", "-c", "s", three / "b.qcow2")
    with Unchanged(three):
        with Mount(three, mnt) as mount:
            assert sorted(os.listdir(mnt)) == sorted(
                [".qcowfs", *(f"{x}.{y}" for x in "abc" for y in ("raw", "snapshots"))])
            assert sorted(os.listdir(mount.facts())) == ["a", "b", "c", "errors.json", "stats.json"]
            for salt, name in enumerate("abc", 1):
                assert is_image(mnt / f"{name}.raw", salt)
                assert os.stat(mnt / f"{name}.raw").st_size == MIB
                info = json.loads(mount.facts(name, "info.json").read_text())
                assert info["filename"] == str(three / f"{name}.qcow2")
            assert is_image(mnt / "b.snapshots" / "s" / "disk.raw", 2)
            assert is_image(mount.facts("c", "layers", "0.raw"), 3)
            assert os.listdir(mnt / "a.snapshots") == []
            assert errors(mount) == []


def test_which_files_are_images(folder, mnt):
    make(folder / "plain.qcow2", 1)
    make(folder / "by-content", 2)
    make(folder / "wrong.txt", 3)
    make(folder / ".hidden.qcow2", 4)
    make(folder / "nested.qcow2", 5)
    os.symlink("plain.qcow2", folder / "link.qcow2")
    qemu.make_raw(folder / "disk.img", MIB, (0, 65536, "words", 6))
    (folder / "README.txt").write_text("not a disk")
    (folder / "empty").touch()
    (folder / "sub.qcow2").mkdir()
    make(folder / "sub.qcow2" / "inner.qcow2", 7)
    os.mkfifo(folder / "fifo.raw")
    with Mount(folder, mnt):
        assert disks(mnt) == {"plain", "by-content", "wrong.txt", "nested", "link", "disk"}
        assert is_image(mnt / "by-content.raw", 2)
        assert is_image(mnt / "wrong.txt.raw", 3)
        assert is_image(mnt / "link.raw", 1)
        assert is_image(mnt / "disk.raw", 6)


def test_clashing_names(folder, tmp_path, mnt):
    """Both are shown: the second one by its whole name. Those of the command line win."""
    make(folder / "a.qcow2", 1)
    qemu.make_raw(folder / "a.img", MIB, (0, 65536, "words", 2))
    make(folder / "b.qcow2", 3)
    make(folder / "stats.json.qcow2", 4)
    other = make(tmp_path / "b.qcow2", 5)
    second = tmp_path / "second"
    second.mkdir()
    make(second / "b.qcow2", 6)
    with Mount([folder, other, second], mnt) as mount:
        wanted = {"a": 2, "a.qcow2": 1, "b": 5, "b.qcow2": 3, "b.qcow2@2": 6,
                  "stats.json.qcow2": 4}
        assert disks(mnt) == set(wanted)
        for name, salt in wanted.items():
            assert is_image(mnt / f"{name}.raw", salt), name
        # A name stays with its image.
        (folder / "a.img").unlink()
        shows(mnt, *(set(wanted) - {"a"}))
        assert is_image(mnt / "a.qcow2.raw", 1)
        assert json.loads(mount.facts("stats.json").read_text())["b"]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_image_and_its_directory(order, three, mnt):
    """It is shown once, and is writable."""
    with Mount([[three, three / "b.qcow2"][i] for i in order], mnt, "-o", "rw") as mount:
        assert disks(mnt) == {"a", "b", "c"}
        assert opened(mount, three) == ["b.qcow2"]
        assert is_image(mnt / "b.raw", 2)
        with open(mnt / "b.raw", "r+b") as file:
            file.write(b"x")


def test_directory_twice(three, tmp_path, mnt):
    """By any path it is one, whose changes are reported once."""
    os.symlink(three, tmp_path / "link")
    with Mount([three, f"{three}/.", tmp_path / "link"], mnt):
        assert disks(mnt) == {"a", "b", "c"}
        (three / "a.qcow2").unlink()
        shows(mnt, "b", "c")


def test_empty_directory(folder, mnt):
    with Mount(folder, mnt):
        assert os.listdir(mnt) == [".qcowfs"]
        make(folder / "first.qcow2", 1)
        shows(mnt, "first")


def test_one_overlay_for_all(three, tmp_path, mnt):
    over = tmp_path / "over.qcow2"
    refused("-o", f"cow={over}", three, mnt, file=three, contains=["cow", "directory"])
    assert not over.exists()


def test_refused_mountpoint(three, tmp_path):
    point = tmp_path / "file"
    point.touch()
    refused(three, point, contains=["directory"])


def test_unreadable_directory(tmp_path, mnt):
    refused(tmp_path / "absent", mnt, file=tmp_path / "absent")


@pytest.mark.parametrize("value", ["x", "-1", ""])
def test_idle_is_a_number(value, three, mnt):
    result = procs.run(env.qcowfs(), "-o", f"idle={value}", three, mnt, check=False)
    assert result.status == 1 and "idle" in result.errors


# ---- opened on use, closed when idle ----


def test_listing_opens_nothing(three, mnt, tmp_path):
    """Neither the start nor a listing opens an image, not even for a moment."""
    log = tmp_path / "strace.log"
    wrapper = straced("open,openat,openat2", log)
    with Mount(three, mnt, wrapper=wrapper) as mount:
        with os.scandir(mnt) as entries:
            kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        assert kinds["a.raw"] is False and kinds["a.snapshots"] is True
        os.listdir(mount.facts())
        os.statvfs(mnt)
        mount.facts("stats.json").read_text()
        assert "qcow2\"" not in log.read_text()
        os.stat(mnt / "b.raw")
        seen = re.findall(r'"([abc]\.qcow2)"', log.read_text())
        assert set(seen) == {"b.qcow2"}


def test_only_what_is_used_is_open(three, mnt):
    with Mount(three, mnt, "-o", "idle=1000") as mount:
        assert opened(mount, three) == []
        os.stat(mnt / "a.raw")
        assert opened(mount, three) == ["a.qcow2"]
        os.listdir(mnt / "c.snapshots")
        assert opened(mount, three) == ["a.qcow2", "c.qcow2"]


def test_idle(three, mnt):
    with Mount(three, mnt, "-o", "idle=1") as mount:
        with open(mnt / "a.raw", "rb") as held:
            assert is_image(mnt / "b.raw", 2)
            procs.wait_until(lambda: opened(mount, three) == ["a.qcow2"], "b is closed")
            assert held.read(65536) == pattern.words(0, 65536, 1)
            # The attributes are remembered: nothing is opened for them.
            before = os.stat(mnt / "b.raw")
            assert opened(mount, three) == ["a.qcow2"]
            assert (before.st_size, stat.S_ISREG(before.st_mode)) == (MIB, True)
        all_closed(mount, three)
        assert is_image(mnt / "a.raw", 1) and is_image(mnt / "b.raw", 2)
        assert os.stat(mnt / "b.raw").st_ino == before.st_ino


@pytest.mark.parametrize("options", [["-o", "idle=0"], ["-s", "-o", "idle=0"]])
def test_closed_at_once(options, three, mnt):
    """With idle=0 an image is reopened for nearly each request."""
    qemu.img("snapshot", "-c", "s", three / "a.qcow2")
    with Mount(three, mnt, *options) as mount:
        for _ in range(3):
            procs.run("ls", "-lR", mnt)
            assert is_image(mnt / "a.snapshots" / "s" / "disk.raw", 1)
        all_closed(mount, three)


def test_locks_are_held_while_open_only(three, mnt):
    with Mount(three, mnt, "-o", "idle=1") as mount:
        with open(mnt / "a.raw", "rb") as held:
            held.read(1)
            assert "lock" in qemu.io(three / "a.qcow2", "write 0 512", check=False).errors
        all_closed(mount, three)
        qemu.io(three / "a.qcow2", "write -P 9 0 512")
        assert head(mnt / "a.raw")[:512] == bytes([9]) * 512


def test_many(folder, mnt):
    """For any number of images, few are open, and little memory is used."""
    env.need_tools("qemu-img")
    n = 1000 if env.sanitizer() else 10000
    content = make(folder / "model.qcow2", 1, cluster_size=512, size=65536).read_bytes()
    (folder / "model.qcow2").unlink()
    for i in range(n):
        (folder / f"{i:05}.qcow2").write_bytes(content)
    with Mount(folder, mnt) as mount:
        status = Path(f"/proc/{mount.pid}/status")
        most = 0
        assert len(disks(mnt)) == n
        for i in range(n):
            assert os.stat(mnt / f"{i:05}.raw").st_size == 65536
            if i % 97 == 0:
                most = max(most, len(os.listdir(f"/proc/{mount.pid}/fd")))
        assert most < 100
        with ThreadPoolExecutor(8) as pool:
            heads = pool.map(lambda i: is_image(mnt / f"{i:05}.raw", 1), range(0, n, n // 500))
            assert all(heads)
        assert len(os.listdir(f"/proc/{mount.pid}/fd")) < 100
        rss_kib = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
        assert env.sanitizer() or rss_kib < 64 * 1024


def test_more_in_use_than_are_kept(folder, mnt):
    """The limit is for idle images: those in use stay open, in any number."""
    content = make(folder / "0.qcow2", 1, cluster_size=512, size=65536).read_bytes()
    for i in range(1, 150):
        (folder / f"{i}.qcow2").write_bytes(content)
    with Mount(folder, mnt, "-o", "idle=1") as mount:
        files = [open(mnt / f"{i}.raw", "rb") for i in range(150)]
        assert len(opened(mount, folder)) == 150
        assert all(file.read(4096) == pattern.words(0, 4096, 1) for file in files)
        for file in files:
            file.close()
        all_closed(mount, folder)


def test_many_first_users(three, mnt):
    """Concurrent first users wait for one opening."""
    with Mount(three, mnt, "-o", "idle=0,threads=8") as mount:
        with ThreadPoolExecutor(16) as pool:
            results = pool.map(lambda i: is_image(mnt / f"{'abc'[i % 3]}.raw", i % 3 + 1),
                               range(300))
            assert all(results)
        all_closed(mount, three)


# ---- coming and going ----


def test_come_and_go(three, tmp_path, mnt):
    outside = make(tmp_path / "new.qcow2", 7)
    with Mount(three, mnt):
        os.stat(mnt / "a.raw")
        assert not (mnt / "new.raw").exists()       # and is not remembered as absent
        shutil.copy(outside, three / "new.qcow2")
        shows(mnt, "a", "b", "c", "new")
        assert is_image(mnt / "new.raw", 7)
        (three / "a.qcow2").unlink()
        shows(mnt, "b", "c", "new")
        procs.wait_until(lambda: not (mnt / "a.raw").exists(), "the kernel forgets the name")
        os.rename(three / "b.qcow2", tmp_path / "b.qcow2")
        shows(mnt, "c", "new")
        os.rename(tmp_path / "b.qcow2", three / "b2.qcow2")
        shows(mnt, "b2", "c", "new")
        assert is_image(mnt / "b2.raw", 2)
        os.link(outside, three / "hard.qcow2")
        os.symlink(outside, three / "soft.qcow2")
        shows(mnt, "b2", "c", "new", "hard", "soft")
        assert is_image(mnt / "hard.raw", 7)
        shutil.rmtree(three)
        shows(mnt)


def test_links_out_of_the_directory(three, tmp_path, mnt):
    """They lead to the places permitted by backing=, and with a sandbox nowhere else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    make(outside / "new.qcow2", 7)
    os.symlink(outside / "new.qcow2", three / "soft.qcow2")
    for options in (["-o", f"backing={outside}"], ["-o", "backing=any"], ["-o", "nosandbox"]):
        with Mount(three, mnt, *options):
            assert is_image(mnt / "soft.raw", 7)
    with Mount(three, mnt, "-v") as mount:
        if env.sanitizer() or "no Landlock" in mount.stderr():
            pytest.skip("nothing keeps the server from opening files here")
        with pytest.raises(OSError):
            head(mnt / "soft.raw")
        found = errors(mount)[0]
        assert found["file"].endswith("soft.qcow2")
        assert "(a link may lead out of its directory only to where -o backing=DIR allows)" \
            in found["reason"]


def test_not_before_it_is_complete(three, mnt):
    content = (three / "a.qcow2").read_bytes()
    with Mount(three, mnt):
        with open(three / "slow.qcow2", "wb") as file:
            file.write(content[:100_000])
            file.flush()
            make(three / "later.qcow2", 8)
            shows(mnt, "a", "b", "c", "later")
            file.write(content[100_000:])
        shows(mnt, "a", "b", "c", "later", "slow")
        assert is_image(mnt / "slow.raw", 1)


def test_replaced(three, tmp_path, mnt):
    """Another file of the name is another file of the mount; readers of the open old one continue
    to read it."""
    new = make(tmp_path / "new.qcow2", 9, size=2 * MIB)
    with Mount(three, mnt) as mount:
        with open(mnt / "a.raw", "rb", buffering=0) as old:
            assert old.read(4096) == pattern.words(0, 4096, 1)
            before = os.fstat(old.fileno())
            os.replace(new, three / "a.qcow2")
            procs.wait_until(lambda: os.stat(mnt / "a.raw").st_size == 2 * MIB, "the new disk")
            assert is_image(mnt / "a.raw", 9)
            assert os.stat(mnt / "a.raw").st_ino != before.st_ino
            assert os.fstat(old.fileno()).st_size == MIB
            assert os.pread(old.fileno(), 61440, 4096) == pattern.words(4096, 61440, 1)
            assert len(opened(mount, three)) == 2
        procs.wait_until(lambda: opened(mount, three) == ["a.qcow2"], "the old one is closed")
        assert disks(mnt) == {"a", "b", "c"}


def test_replaced_again_and_again(three, tmp_path, mnt):
    """No read ever returns a mixture, or an error except that the file was replaced."""
    sources = [make(tmp_path / f"{salt}.qcow2", salt) for salt in range(1, 5)]
    wanted = {pattern.words(0, 65536, salt) for salt in range(1, 5)}
    stop = threading.Event()
    failures = []

    def read():
        while not stop.is_set():
            try:
                if head(mnt / "a.raw") not in wanted:
                    failures.append("a mixture")
            except OSError as error:
                # ESTALE: replaced between the lookup and the open, twice.
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    failures.append(error)

    with Mount(three, mnt, "-o", "idle=1"):
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            for i in range(100):
                shutil.copy(sources[i % 4], three / ".next")
                os.replace(three / ".next", three / "a.qcow2")
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not failures, failures[:3]
        procs.wait_until(lambda: is_image(mnt / "a.raw", 4), "the last one")


@pytest.fixture
def ext4(tmp_path):
    """A directory on a file system that reuses inode numbers at once."""
    loop.need_loop_devices()
    loop.need_filesystem("ext4", "mke2fs")
    disk = qemu.make_raw(tmp_path / "ext4.img", 8 * MIB)
    procs.run("mke2fs", "-q", "-t", "ext4", disk)
    with loop.attached(disk) as device, loop.mounted(device, tmp_path / "ext4") as top:
        yield top


def test_link_replaced_while_open(ext4, tmp_path, mnt):
    """A new link is a different file, even with the old one's inode number; a renamed one is
    not."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for salt in (7, 8):
        make(outside / f"{salt}.qcow2", salt)
    link = ext4 / "link.qcow2"
    link.symlink_to(outside / "7.qcow2")
    inode = link.lstat().st_ino
    with Mount(ext4, mnt, "-o", f"backing={outside}"):
        with open(mnt / "link.raw", "rb", buffering=0) as old:
            assert old.read(65536) == pattern.words(0, 65536, 7)
            link.unlink()
            link.symlink_to(outside / "8.qcow2")
            assert link.lstat().st_ino == inode
            procs.wait_until(lambda: (mnt / "link.raw").exists() and is_image(mnt / "link.raw", 8),
                             "the new one is shown")
            assert os.pread(old.fileno(), 65536, 0) == pattern.words(0, 65536, 7)
        with open(mnt / "link.raw", "rb", buffering=0) as file:
            link.rename(ext4 / "other.qcow2")
            procs.wait_until((mnt / "other.raw").exists, "it is renamed")
            assert os.fstat(file.fileno()).st_ino == os.stat(mnt / "other.raw").st_ino


def test_overwritten_in_place(three, mnt):
    """The same file with another content, after the kernel has kept pages of the first."""
    with Mount(three, mnt, "-o", "idle=1") as mount:
        assert is_image(mnt / "a.raw", 1) and is_image(mnt / "a.raw", 1)
        all_closed(mount, three)
        (three / "a.qcow2").write_bytes((three / "b.qcow2").read_bytes())
        assert is_image(mnt / "a.raw", 2)


def test_backing_file_changed_meanwhile(folder, mnt):
    """Backing files are not watched, but checked when the image is opened again."""
    qemu.make_raw(folder / ".base", MIB, (0, 65536, "words", 1))
    qemu.create(folder / "top.qcow2", MIB, ".base", "raw")
    with Mount(folder, mnt, "-o", "idle=1") as mount:
        assert is_image(mnt / "top.raw", 1)
        all_closed(mount, folder)
        qemu.make_raw(folder / ".base", MIB, (0, 65536, "words", 2))
        assert is_image(mnt / "top.raw", 2)


def test_resized_meanwhile(three, mnt):
    with Mount(three, mnt, "-o", "idle=1") as mount:
        assert os.stat(mnt / "a.raw").st_size == MIB
        all_closed(mount, three)
        qemu.img("resize", "-q", three / "a.qcow2", str(3 * MIB))
        procs.wait_until(lambda: os.stat(mnt / "a.raw").st_size == 3 * MIB, "the new size")
        with open(mnt / "a.raw", "rb") as file:
            assert len(file.read()) == 3 * MIB


@pytest.mark.parametrize("options", [[], ["-o", "rw"]])
def test_renamed_while_open(options, three, mnt):
    with Mount(three, mnt, *options) as mount:
        with open(mnt / "a.raw", "rb", buffering=0) as file:
            inode = os.fstat(file.fileno()).st_ino
            os.rename(three / "a.qcow2", three / "z.qcow2")
            shows(mnt, "b", "c", "z")
            # It is still the same image: a second opening would meet its own lock.
            assert is_image(mnt / "z.raw", 1)
            assert os.stat(mnt / "z.raw").st_ino == inode
            assert file.read(65536) == pattern.words(0, 65536, 1)
        assert opened(mount, three) == ["z.qcow2"]


def test_overflow(three, mnt, tmp_path):
    """More events than the queue can hold: nothing is missed. The server is stopped meanwhile."""
    content = make(tmp_path / "new.qcow2", 7, cluster_size=512, size=65536).read_bytes()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 200_000:
        pytest.skip("a queue too long to be filled")
    with Mount(three, mnt) as mount:
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            for _ in range(limit // 3 + 100):
                with open(three / "churn.tmp", "wb"):
                    pass
                os.unlink(three / "churn.tmp")
            (three / "late.qcow2").write_bytes(content)
            (three / "a.qcow2").unlink()
        finally:
            os.kill(mount.pid, signal.SIGCONT)
        shows(mnt, "b", "c", "late")
        assert is_image(mnt / "late.raw", 7)


def test_directory_that_cannot_be_read_any_more(three, mnt, tmp_path):
    """An unwatched directory is retried at every look, and reported once."""
    wrapper = straced("inotify_init1,getdents64", tmp_path / "log",
                      "-e", "inject=inotify_init1:error=EMFILE",
                      "-e", "inject=getdents64:error=EIO:when=3+")
    with Mount(three, mnt, "-s", wrapper=wrapper) as mount:     # counted for each thread
        make(three / "d.qcow2", 4)
        assert disks(mnt) == {"a", "b", "c", "d"}
        make(three / "e.qcow2", 5)
        for _ in range(5):
            assert disks(mnt) == {"a", "b", "c", "d"}
            assert is_image(mnt / "a.raw", 1)
        assert mount.stderr().count("cannot read the directory") == 1


@pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch"])
def test_without_inotify(call, three, mnt, tmp_path):
    """It says so once, and checks the directory on each request."""
    wrapper = straced(call, tmp_path / "log", "-e", f"inject={call}:error=EMFILE")
    with Mount(three, mnt, "-o", "idle=1", wrapper=wrapper) as mount:
        assert mount.stderr().count("cannot be watched") == 1
        assert disks(mnt) == {"a", "b", "c"}
        os.stat(mnt / "a.raw")
        make(three / "d.qcow2", 4)
        assert disks(mnt) == {"a", "b", "c", "d"}
        make(three / "e.qcow2", 5)
        assert is_image(mnt / "e.raw", 5)           # by name alone
        (three / "a.qcow2").unlink()
        procs.wait_until(lambda: not (mnt / "a.raw").exists(), "a is forgotten")
        assert disks(mnt) == {"b", "c", "d", "e"}
        os.replace(three / "b.qcow2", three / "c.qcow2")
        procs.wait_until(lambda: is_image(mnt / "c.raw", 2), "the new file")
        all_closed(mount, three)
        assert mount.stderr().count("cannot be watched") == 1


# ---- unopenable images ----


def test_errors(three, mnt):
    good = (three / "a.qcow2").read_bytes()
    (three / "a.qcow2").write_bytes(good[:4] + b"\0\0\0\x63" + good[8:])
    (three / "b.qcow2").write_bytes(good[:50])
    qemu.create(three / "d.qcow2", MIB)
    qemu.img("rebase", "-u", "-b", "absent.img", "-F", "raw", three / "d.qcow2")
    alone = procs.run(env.qcowfs(), three / "a.qcow2", mnt, check=False).errors
    with Mount(three, mnt, "-o", "idle=1") as mount:
        assert errors(mount) == []
        assert disks(mnt) == {"a", "b", "c", "d"}
        for name in "abd":
            for path in (f"{name}.raw", f"{name}.snapshots", f".qcowfs/{name}"):
                with pytest.raises(OSError) as caught:
                    os.stat(mnt / path)
                assert caught.value.errno == errno.EIO
        assert is_image(mnt / "c.raw", 3)
        found = {entry["file"]: entry["reason"] for entry in errors(mount)}
        assert sorted(found) == [str(three / f"{name}.qcow2") for name in "abd"]
        assert alone == f"qcowfs: {three / 'a.qcow2'}: {found[str(three / 'a.qcow2')]}\n"
        assert "absent.img" in found[str(three / "d.qcow2")]
        # Reported once, for any number of tries.
        assert len([line for line in mount.stderr().splitlines() if "d.qcow2" in line]) == 1
        # Good again, both the file and its base: the next try succeeds.
        (three / "a.qcow2").write_bytes(good)
        qemu.make_raw(three / "absent.img", MIB, (0, 65536, "words", 5))
        assert is_image(mnt / "a.raw", 1)
        assert is_image(mnt / "d.raw", 5)
        assert [entry["file"] for entry in errors(mount)] == [str(three / "b.qcow2")]
        (three / "b.qcow2").unlink()
        procs.wait_until(lambda: errors(mount) == [], "what has gone has no error")


def test_in_use(three, mnt):
    with Mount(three, mnt) as mount:
        with qemu.held(three / "a.qcow2"):
            with pytest.raises(OSError) as caught:
                os.stat(mnt / "a.raw")
            assert caught.value.errno == errno.EBUSY
            assert "in use" in errors(mount)[0]["reason"]
            assert is_image(mnt / "b.raw", 2)
        assert is_image(mnt / "a.raw", 1)
        assert errors(mount) == []


# ---- writing -------------------------------------------------------------------------------


def test_write(three, mnt, tmp_path):
    data = pattern.noise(0, 200_000, 5)
    with Mount(three, mnt, "-o", "rw,idle=1") as mount:
        with open(mnt / "a.raw", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, 100_000)
        all_closed(mount, three)
        qemu.img("check", "-q", three / "a.qcow2")
        wanted = bytearray(MIB)
        wanted[:65536] = pattern.words(0, 65536, 1)
        wanted[100_000:300_000] = data
        assert qemu.to_raw(three / "a.qcow2", tmp_path / "x").read_bytes() == wanted
        # Another program writes while it is closed: no old page is shown.
        qemu.io(three / "a.qcow2", "write -P 7 128k 64k")
        wanted[131072:196608] = bytes([7]) * 65536
        assert read_all(mnt / "a.raw") == wanted
        # A closed image can be cut and grown by its name.
        all_closed(mount, three)
        os.truncate(mnt / "a.raw", 2 * MIB)
        assert os.stat(mnt / "a.raw").st_size == 2 * MIB
        all_closed(mount, three)
        assert json.loads(qemu.img("info", "--output=json", three / "a.qcow2").text)[
            "virtual-size"] == 2 * MIB
    qemu.img("check", "-q", three / "a.qcow2")
    assert qemu.to_raw(three / "a.qcow2", tmp_path / "x").read_bytes() == wanted + bytes(MIB)


def test_nothing_written_nothing_changed(three, mnt):
    with Unchanged(three):
        with Mount(three, mnt, "-o", "rw,idle=0") as mount:
            procs.run("ls", "-lR", mnt)
            with open(mnt / "a.raw", "r+b") as file:
                file.read()
            all_closed(mount, three)


def test_write_just_before_the_end(three, mnt, tmp_path):
    with Daemon(three, mnt, "-o", "rw"):
        for salt, name in enumerate("abc", 1):
            with open(mnt / f"{name}.raw", "r+b", buffering=0) as file:
                file.write(pattern.noise(0, 65536, salt))
    for salt, name in enumerate("abc", 1):
        qemu.img("check", "-q", three / f"{name}.qcow2")
        raw = qemu.to_raw(three / f"{name}.qcow2", tmp_path / "x")
        assert raw.read_bytes()[:65536] == pattern.noise(0, 65536, salt)


def test_cow_keeps_what_was_written(three, mnt):
    """The overlay with the writes must stay when the image is idle."""
    with Unchanged(three):
        with Mount(three, mnt, "-o", "cow,idle=1") as mount:
            assert is_image(mnt / "b.raw", 2)
            with open(mnt / "a.raw", "r+b", buffering=0) as file:
                file.write(pattern.words(0, 65536, 8))
            os.truncate(mnt / "c.raw", 4096)
            procs.wait_until(lambda: opened(mount, three) == ["a.qcow2", "c.qcow2"],
                             "what was only read is closed")
            assert is_image(mnt / "a.raw", 8)
            assert os.stat(mnt / "c.raw").st_size == 4096


def test_snapshots_across_openings(folder, mnt):
    """A snapshot's number counts from the opening: the kernel must not take it for an earlier one
    of the same number."""
    image = make(folder / "a.qcow2", 1)
    with Mount(folder, mnt, "-o", "rw,idle=1") as mount:
        place = mnt / "a.snapshots"
        for salt in range(1, 5):
            with open(mnt / "a.raw", "r+b", buffering=0) as file:
                file.write(pattern.words(0, 65536, salt))
            os.mkdir(place / f"s{salt}")
        for salt in range(1, 5):
            assert is_image(place / f"s{salt}" / "disk.raw", salt)
        os.rmdir(place / "s1")
        os.rmdir(place / "s3")
        all_closed(mount, folder)
        assert is_image(place / "s2" / "disk.raw", 2)
        assert is_image(place / "s4" / "disk.raw", 4)
        assert sorted(os.listdir(place)) == ["s2", "s4"]
        all_closed(mount, folder)
        qemu.img("snapshot", "-d", "s2", image)         # by another program
        assert is_image(place / "s4" / "disk.raw", 4)
        procs.wait_until(lambda: not (place / "s2").exists(), "s2 is forgotten")
    qemu.img("check", "-q", image)


def test_removed_while_written(three, mnt):
    """The open file stays usable, the name is gone."""
    with Mount(three, mnt, "-o", "rw") as mount:
        with open(mnt / "a.raw", "r+b", buffering=0) as file:
            (three / "a.qcow2").unlink()
            shows(mnt, "b", "c")
            os.pwrite(file.fileno(), pattern.words(0, 65536, 6), 0)
            os.fsync(file.fileno())
            assert os.pread(file.fileno(), 65536, 0) == pattern.words(0, 65536, 6)
        procs.wait_until(lambda: not opened(mount, three), "the last user's end closes it")


# ---- the mount and its directory -----------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["-s"]])
@pytest.mark.parametrize("inside", [False, True])
def test_mounted_over_or_in_the_directory(inside, options, folder):
    """The directory is read below the mount, and the mount is never searched."""
    qemu.make_raw(folder / "base.img", MIB, (0, 65536, "words", 1))
    qemu.create(folder / "relative.qcow2", MIB, "base.img", "raw")
    qemu.create(folder / "absolute.qcow2", MIB, str(folder / "base.img"), "raw")
    point = folder / "mnt" if inside else folder
    point.mkdir(exist_ok=True)
    with Mount(folder, point, *options, "-o", "idle=0"):
        assert disks(point) == {"base", "relative", "absolute"}
        for name in disks(point):
            assert is_image(point / f"{name}.raw", 1), name
        procs.run("ls", "-lR", point)
    assert sorted(os.listdir(folder))[0] == "absolute.qcow2"


@pytest.mark.parametrize("name", ["mnt/evil.raw", "{folder}/mnt/evil.raw", "via/evil.raw",
                                  "./mnt/../mnt/.//evil.raw", "{folder}/via/evil.raw"])
def test_image_that_names_the_mount(name, folder):
    """It would wait for itself: with one thread forever."""
    point = folder / "mnt"
    point.mkdir()
    os.symlink("mnt", folder / "via")
    qemu.create(folder / "evil.qcow2", MIB)
    qemu.img("rebase", "-u", "-b", name.format(folder=folder), "-F", "raw",
             folder / "evil.qcow2")
    os.symlink("mnt/loop.raw", folder / "loop.raw")
    make(folder / "good.qcow2", 1)
    with Mount(folder, point, "-s", "-o", "idle=0") as mount:
        for bad in ("evil", "loop"):
            with pytest.raises(OSError) as caught:
                os.stat(point / f"{bad}.raw")
            assert caught.value.errno == errno.EIO
        assert is_image(point / "good.raw", 1)
        reasons = {Path(e["file"]).name: e["reason"] for e in errors(mount)}
        assert "this very mount" in reasons["evil.qcow2"]
        assert "loop.raw" in reasons


def test_relative_paths(three):
    """The daemon has another current directory than the start."""
    point = three.parent / "point"
    point.mkdir()
    with Daemon(["images"], point, cwd=three.parent):
        assert is_image(point / "a.raw", 1)


@pytest.mark.parametrize("name", [".", ""])
def test_odd_places_of_overlays(name, three):
    """They are created when images are opened, by the daemon."""
    point = three.parent / "point"
    point.mkdir()
    with Daemon(["images"], point, "-o", "cow", cwd=three.parent,
                wrapper=["env", f"TMPDIR={name}"]):
        with open(point / "a.raw", "r+b", buffering=0) as file:
            file.write(b"x")
        assert head(point / "a.raw")[:1] == b"x"


def test_busy_until_the_end(three, mnt, tmp_path):
    """An unmount in the midst of everything ends in order."""
    source = make(tmp_path / "new.qcow2", 7)
    stop = threading.Event()

    def churn():
        i = 0
        while not stop.is_set():
            i += 1
            shutil.copy(source, three / f"churn{i % 5}.qcow2")
            (three / f"churn{(i + 2) % 5}.qcow2").unlink(missing_ok=True)

    def look():
        while not stop.is_set():
            try:
                for name in os.listdir(mnt):
                    if name.endswith(".raw"):
                        head(mnt / name)
            except OSError:
                pass

    for _ in range(5):
        stop.clear()
        threads = [threading.Thread(target=churn)] + [threading.Thread(target=look)
                                                      for _ in range(3)]
        with Mount(three, mnt, "-o", "rw,idle=0") as mount:
            for thread in threads:
                thread.start()
            try:
                for _ in range(5):
                    procs.run("ls", "-lR", mnt, check=False)
                unmount(mnt, lazy=True)
                assert mount.process.wait(20 * env.slow()) == 0
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            mount.close()
    for image in three.glob("*.qcow2"):
        qemu.img("check", "-q", image)


def test_signal_with_everything_open(three, mnt):
    with Mount(three, mnt, "-o", "rw") as mount:
        files = [open(mnt / f"{name}.raw", "r+b") for name in "abc"]
        os.kill(mount.pid, signal.SIGTERM)          # unmounts; the second ends it
        procs.wait_until(lambda: not (mnt / "a.raw").exists(), "the mount goes")
        mount.terminate()
        for file in files:
            try:
                file.close()
            except OSError:
                pass
    for name in "abc":
        qemu.io(three / f"{name}.qcow2", "write 0 512")


def test_inode_numbers(three, mnt):
    """Every file has its own, the same by readdir and by stat."""
    qemu.img("snapshot", "-c", "s", three / "a.qcow2")
    with Mount(three, mnt):
        seen = {}
        for place, folders, files in os.walk(mnt):
            for name in folders + files:
                path = os.path.join(place, name)
                inode = os.lstat(path).st_ino
                assert inode not in seen, f"{path} and {seen.get(inode)}"
                assert inode < 1 << 32
                seen[inode] = path
            for entry in os.scandir(place):
                assert entry.inode() == os.lstat(entry.path).st_ino
