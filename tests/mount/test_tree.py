# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree of a mount: names, attributes, texts, and that nothing in it can be changed. Spec:
design, "The tree"."""

import errno
import json
import os
import subprocess
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from qtest import env, extents, procs, qemu
from qtest.checks import read_all
from qtest.mount import Mount, stem

MIB = 1 << 20


@pytest.fixture
def with_snapshot(disk):
    qemu.img("snapshot", "-c", "before-upgrade", disk)
    qemu.write(disk, (2 * MIB, 65536, "words", 9))
    return disk


def walk(top):
    """Every path below @top, relative, by readdir alone."""
    out = []
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            out.append(os.path.relpath(os.path.join(folder, name), top))
    return sorted(out)


def test_whole_tree(with_snapshot, mnt):
    with Mount(with_snapshot, mnt):
        assert walk(mnt) == sorted([
            "disk.raw", "disk.snapshots", "disk.snapshots/before-upgrade",
            "disk.snapshots/before-upgrade/disk.raw", "disk.snapshots/before-upgrade/info.json",
            ".qcowfs", ".qcowfs/stats.json", ".qcowfs/errors.json", ".qcowfs/disk", ".qcowfs/disk/info.json",
            ".qcowfs/disk/map.json", ".qcowfs/disk/bitmaps", ".qcowfs/disk/layers", ".qcowfs/disk/layers/0.raw"])


def test_hidden_from_ls(disk, mnt):
    with Mount(disk, mnt):
        assert procs.run("ls", mnt).text.split() == ["disk.raw", "disk.snapshots"]
        assert ".qcowfs" in procs.run("ls", "-a", mnt).text.split()


def test_chain_layers(chain, mnt, chain_content):
    with Mount(chain, mnt) as mount:
        layers = mount.facts("top", "layers")
        assert sorted(os.listdir(layers)) == ["0.raw", "1.raw", "2.raw"]
        assert read_all(layers / "0.raw") == chain_content
        assert read_all(layers / "2.raw") == (chain.parent / "base.img").read_bytes()
        assert os.stat(layers / "2.raw").st_size == MIB


@pytest.mark.parametrize("name,shown", [
    ("a.qcow2", "a"), ("a.qcow", "a"), ("a.qed", "a"), ("a.img", "a"), ("a.raw", "a"),
    ("a", "a"), ("a.vmdk", "a.vmdk"), ("a.raw.qcow2", "a.raw"), ("a.QCOW2", "a.QCOW2"),
    (".hidden.img", ".hidden"), ("äöü 日本.img", "äöü 日本"), ("two\nlines.img", "two\nlines"),
    ("-dash.img", "-dash"), ("tab\t.img", "tab\t"), ("50%.img", "50%"),
    ("x" * 200 + ".img", "x" * 200)])
def test_names(name, shown, tmp_path, mnt):
    image = qemu.make_raw(tmp_path / name, 4096, (0, 4096, "words", 1))
    assert stem(image) == shown
    # Suffixes of formats with a header are refused to other content.
    with Mount(image, mnt, "-o", "format=raw"):
        assert set(os.listdir(mnt)) == {f"{shown}.raw", f"{shown}.snapshots", ".qcowfs"}
        assert read_all(mnt / f"{shown}.raw") == image.read_bytes()


def test_name_that_is_not_utf8(tmp_path, mnt):
    image = os.fsencode(tmp_path) + b"/caf\xe9.img"
    with open(image, "wb") as file:
        file.write(b"x" * 512)
    with Mount([os.fsdecode(image)], mnt):
        assert os.fsencode(mnt) + b"/caf\xe9.raw" in [
            os.path.join(os.fsencode(mnt), name) for name in os.listdir(os.fsencode(mnt))]


@pytest.mark.parametrize("cluster", [512, 4096, 65536, 2 * MIB])
def test_attributes(cluster, tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", 64 * MIB + 512, cluster_size=cluster)
    qemu.write(image, (0, 65536, "words", 1), (8 * MIB, 65536, "noise", 1))
    os.utime(image, ns=(10**18, 1_234_567_890_123_456_789))
    before = os.stat(image)
    with Mount(image, mnt) as mount:
        facts = os.stat(mount.raw(image))
        assert facts.st_size == 64 * MIB + 512
        assert facts.st_blksize == cluster
        assert 131072 // 512 <= facts.st_blocks <= -(-before.st_blocks * 512 // 4096) * 8
        assert facts.st_nlink == 1 and stat.S_ISREG(facts.st_mode)
        assert facts.st_mtime_ns == 1_234_567_890_123_456_789
        assert facts.st_ctime_ns in (before.st_ctime_ns, facts.st_mtime_ns)
        read_all(mount.raw(image), chunk=64 * MIB)
        again = os.stat(mount.raw(image))
        for field in ("st_mtime_ns", "st_ctime_ns", "st_atime_ns", "st_size", "st_blocks",
                      "st_ino", "st_dev", "st_mode", "st_nlink"):
            assert getattr(again, field) == getattr(facts, field), field


def test_directories(with_snapshot, mnt):
    with Mount(with_snapshot, mnt) as mount:
        inodes = {}
        for path in ["", *walk(mnt)]:
            facts = os.lstat(mnt / path)
            assert facts.st_ino not in inodes, f"{path} and {inodes.get(facts.st_ino)}"
            inodes[facts.st_ino] = path
            assert facts.st_nlink >= 1
            if stat.S_ISDIR(facts.st_mode):
                assert stat.S_IMODE(facts.st_mode) & 0o222 == 0
                for entry in os.scandir(mnt / path):
                    assert entry.inode() == os.lstat(entry.path).st_ino
                    assert entry.is_dir() == stat.S_ISDIR(os.lstat(entry.path).st_mode)
        assert mount.raw(with_snapshot).is_file()


def test_absent_names(with_snapshot, mnt):
    with Mount(with_snapshot, mnt):
        for name in ("none", "disk", "disk.qcow2", "disk.snapshots/none", ".qcowfs/none",
                     ".qcowfs/disk/layers/1.raw", ".qcowfs/disk/layers/00.raw",
                     ".qcowfs/disk/layers/-1.raw", ".qcowfs/disk/layers/0",
                     ".qcowfs/disk/layers/4294967296.raw",
                     "disk.snapshots/before-upgrade/vmstate", "disk.raw.", "x" * 255):
            with pytest.raises(FileNotFoundError):
                os.stat(mnt / name)
        with pytest.raises(NotADirectoryError):
            os.stat(mnt / "disk.raw" / "x")
        with pytest.raises(OSError) as caught:
            os.stat(mnt / ("x" * 256))
        assert caught.value.errno in (errno.ENAMETOOLONG, errno.ENOENT)


def test_statfs(disk, mnt):
    with Mount(disk, mnt):
        facts = os.statvfs(mnt)
        assert facts.f_bsize > 0 and facts.f_namemax == 255
        assert facts.f_flag & os.ST_RDONLY
        assert facts.f_bavail == 0, "nothing can be stored here"


@pytest.mark.parametrize("options", [[], ["-o", "rw"]], ids=["ro", "rw"])
def test_statfs_of_every_file(options, with_snapshot, mnt):
    """One file system: the same answer everywhere, and one that adds up."""
    with Mount(with_snapshot, mnt, *options):
        whole = os.statvfs(mnt)
        assert whole.f_bfree == whole.f_bavail <= whole.f_blocks and whole.f_blocks > 0
        assert whole.f_frsize == whole.f_bsize and whole.f_namemax == 255
        for path in [mnt / ".qcowfs", *mnt.rglob("*"), *(mnt / ".qcowfs").rglob("*")]:
            facts = os.statvfs(path)
            assert (facts.f_bsize, facts.f_namemax) == (whole.f_bsize, whole.f_namemax), path
            assert facts.f_bfree == facts.f_bavail <= facts.f_blocks, path
            assert options or facts.f_blocks == whole.f_blocks, path    # others use the host's space


@pytest.mark.parametrize("options", [[], ["-o", "rw"]], ids=["ro", "rw"])
def test_extended_attributes(options, with_snapshot, mnt):
    """There are none: programs that look for them continue, and setting one fails."""
    failure = errno.EOPNOTSUPP if options else errno.EROFS
    with Mount(with_snapshot, mnt, *options):
        for path in (mnt, mnt / "disk.raw", mnt / ".qcowfs" / "stats.json", mnt / "disk.snapshots"):
            for call in (lambda p=path: os.listxattr(p), lambda p=path: os.getxattr(p, "user.x"),
                         lambda p=path: os.getxattr(p, "security.capability"),
                         lambda p=path: os.getxattr(p, "system.posix_acl_access")):
                try:
                    assert call() == []
                except OSError as error:
                    assert error.errno in (errno.EOPNOTSUPP, errno.ENODATA), error
            for change in (lambda p=path: os.setxattr(p, "user.x", b"x"),
                           lambda p=path: os.removexattr(p, "user.x")):
                with pytest.raises(OSError) as caught:
                    change()
                assert caught.value.errno == failure, caught.value
        subprocess.run(["cp", "--preserve=all", mnt / ".qcowfs" / "stats.json", mnt.parent / "copy"],
                       check=True)


# ---- nothing can be changed -----------------------------------------------------------

CHANGES = {
    "open for writing": lambda m: os.open(m / "disk.raw", os.O_WRONLY),
    "open read-write": lambda m: os.open(m / "disk.raw", os.O_RDWR),
    "open truncating": lambda m: os.open(m / "disk.raw", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda m: os.truncate(m / "disk.raw", 0),
    "create": lambda m: os.open(m / "new", os.O_CREAT | os.O_WRONLY, 0o644),
    "mkdir": lambda m: os.mkdir(m / "new"),
    "mkdir snapshot": lambda m: os.mkdir(m / "disk.snapshots" / "new"),
    "rmdir snapshot": lambda m: os.rmdir(m / "disk.snapshots" / "before-upgrade"),
    "unlink": lambda m: os.unlink(m / "disk.raw"),
    "rename": lambda m: os.rename(m / "disk.raw", m / "other.raw"),
    "rename snapshot": lambda m: os.rename(m / "disk.snapshots" / "before-upgrade",
                                           m / "disk.snapshots" / "x"),
    "symlink": lambda m: os.symlink("x", m / "link"),
    "link": lambda m: os.link(m / "disk.raw", m / "link"),
    "mknod": lambda m: os.mkfifo(m / "fifo"),
    "chmod": lambda m: os.chmod(m / "disk.raw", 0o644),
    "chown": lambda m: os.chown(m / "disk.raw", 1, 1),
    "utime": lambda m: os.utime(m / "disk.raw", (1, 1)),
    "setxattr": lambda m: os.setxattr(m / "disk.raw", "user.x", b"x"),
    "write to a text": lambda m: os.open(m / ".qcowfs" / "stats.json", os.O_WRONLY),
    "write to a layer": lambda m: os.open(m / ".qcowfs/disk/layers/0.raw", os.O_RDWR),
    "write to a snapshot": lambda m: os.open(m / "disk.snapshots/before-upgrade/disk.raw", os.O_RDWR),
}


@pytest.mark.parametrize("what", CHANGES)
def test_read_only(what, with_snapshot, mnt):
    with Mount(with_snapshot, mnt):
        with pytest.raises(OSError) as caught:
            CHANGES[what](mnt)
        assert caught.value.errno == errno.EROFS, os.strerror(caught.value.errno)


# ---- texts ----------------------------------------------------------------------------


def test_info_json(chain, mnt):
    with Mount(chain, mnt) as mount:
        info = json.loads(mount.facts("top", "info.json").read_text())
    theirs = qemu.info_json(chain)
    for key in ("virtual-size", "cluster-size", "format", "backing-filename",
                "backing-filename-format"):
        assert info[key] == theirs[key], key
    text = json.dumps(info)
    for name in ("middle.qcow2", "base.img"):
        assert name in text, "the chain stands in it"


def test_map_json(chain, mnt):
    with Mount(chain, mnt) as mount:
        shown = json.loads(mount.facts("top", "map.json").read_text())
        extents.assert_complete(shown, MIB)
    assert shown == json.loads(procs.run(env.qimg(), "map", "--output=json", chain).stdout)
    theirs = qemu.map_json(chain)
    assert extents.data_of_map(shown) == extents.data_of_map(theirs)


def test_map_json_in_pieces(tmp_path, mnt):
    """A long text read in odd pieces, twice at once, and backwards: no byte differs."""
    image = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, cluster_size=512)
    qemu.io(image, *[f"write -P 1 {at} 512" for at in range(0, 400 * 1024, 1024)])
    with Mount(image, mnt) as mount:
        path = mount.facts("disk", "map.json")
        whole = path.read_bytes()
        assert len(json.loads(whole)) >= 800
        for step in (1000, 4095, 65537):
            fd = os.open(path, os.O_RDONLY)
            try:
                out = bytearray()
                while part := os.read(fd, step):
                    out += part
            finally:
                os.close(fd)
            assert bytes(out) == whole, f"in pieces of {step}"
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: path.read_bytes(), range(8))) == {whole}
        fd = os.open(path, os.O_RDONLY)
        try:
            middle = len(whole) // 2
            assert os.pread(fd, 100, middle) == whole[middle:middle + 100]
            assert os.pread(fd, 100, 0) == whole[:100]
            assert os.pread(fd, 100, len(whole) + 10) == b""
        finally:
            os.close(fd)


def test_texts_by_ordinary_tools(disk, mnt):
    """cat, cp and grep see the whole text, although its size is not known before."""
    with Mount(disk, mnt) as mount:
        for parts in (("stats.json",), ("disk", "info.json"), ("disk", "map.json")):
            path = mount.facts(*parts)
            shown = procs.run("cat", path).stdout
            assert json.loads(shown) is not None
            procs.run("cp", path, disk.parent / "copy")
            assert json.loads((disk.parent / "copy").read_bytes()) is not None
            assert procs.run("grep", "-c", ".", path).text.strip() != "0"


def test_stats_json(disk, mnt):
    """Counters that count: after a direct read of a MiB, more bytes and requests."""
    def numbers(value, prefix=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from numbers(inner, f"{prefix}/{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from numbers(inner, f"{prefix}/{index}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix, value

    with Mount(disk, mnt) as mount:
        before = dict(numbers(json.loads(mount.facts("stats.json").read_text())))
        read_all(mount.raw(disk), os.O_DIRECT)
        after = dict(numbers(json.loads(mount.facts("stats.json").read_text())))
    assert before.keys() <= after.keys()
    assert all(after[key] >= before[key] for key in before), "counters do not go back"
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert any(value >= MIB for value in grown.values()), f"no counter of bytes: {grown}"
    assert any(1 <= value < MIB for value in grown.values()), f"no counter of requests: {grown}"


def test_empty_disk(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", 0)
    with Mount(image, mnt) as mount:
        assert os.stat(mount.raw(image)).st_size == 0
        assert read_all(mount.raw(image)) == b""
        assert json.loads(mount.facts("disk", "map.json").read_text()) == []


def test_many_opens(disk, mnt, disk_content):
    """Opening and closing leaves nothing behind in the server."""
    with Mount(disk, mnt) as mount:
        def descriptors():
            return len(os.listdir(f"/proc/{mount.pid}/fd"))
        paths = [mount.raw(disk), mount.facts("disk", "map.json"), mount.facts("stats.json"),
                 mount.facts("disk", "layers", "0.raw")]
        for path in paths:
            path.read_bytes()
        before = descriptors()
        for _ in range(100):
            for path in paths:
                with open(path, "rb") as file:
                    file.read(100)
        # The kernel sends the release after the close has returned.
        procs.wait_until(lambda: descriptors() <= before, "the release of all files")
        assert read_all(mount.raw(disk)) == disk_content
