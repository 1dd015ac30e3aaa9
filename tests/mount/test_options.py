# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: every option works as designed or is an error."""

import os
import stat

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.mount import Mount, mounts_at, refused


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option):
    result = procs.run(env.qcowfs(), option, limit_s=20)
    for word in ("qcowfs", "MOUNTPOINT", "backing", "format", "nolock", "allow_other"):
        assert word in result.text, result
    assert result.errors == ""


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option):
    result = procs.run(env.qcowfs(), option, limit_s=20)
    assert result.text.startswith("qcowfs ") and result.text.count("\n") >= 1
    assert any(c.isdigit() for c in result.text)


@pytest.mark.parametrize("argv", [[], ["only-one-argument"]])
def test_arguments_missing(argv, tmp_path):
    result = procs.run(env.qcowfs(), *argv, check=False, cwd=tmp_path)
    assert result.status == 1
    assert result.errors.startswith("qcowfs: ") and result.errors.count("\n") == 1
    assert "help" in result.errors


@pytest.mark.parametrize("options", [["-o", "ro"], ["--ro"], ["-oro"], ["-o", "ro,nodev,nosuid"]])
def test_ro(options, disk, mnt, disk_content):
    with Mount(disk, mnt, *options) as mount:
        assert read_all(mount.raw(disk)) == disk_content
        assert "ro" in mounts_at(mnt)[-1][3].split(",")


def test_type_of_the_mount(disk, mnt):
    """/etc/fstab and mount(8) know it as fuse.qcowfs."""
    with Mount(disk, mnt):
        assert mounts_at(mnt)[-1][1] == "fuse.qcowfs"


@pytest.mark.parametrize("options,words", [
    (["-o", "ro,cow"], ["ro", "cow"]),
    (["--cow=overlay.qcow2", "-o", "ro"], ["ro", "cow"]),
    (["-o", "cow="], ["cow"]),
    (["-o", "rw=1"], ["rw"]),
    (["-o", "growable=1"], ["growable"]),
    (["-o", "discard"], ["discard"]),
    (["-o", "discard="], ["discard"]),
    (["-o", "discard=sometimes"], ["discard", "sometimes", "unmap"]),
    (["-o", "rw,discard=sometimes"], ["discard", "sometimes"]),
    (["-o", "nonsense"], ["nonsense", "unknown"]),
    (["-o", "ro,nonsense=3"], ["nonsense", "unknown"]),
    (["--nonsense"], ["nonsense", "unknown"]),
    (["--nonsense=1"], ["nonsense", "unknown"]),
    (["-x"], ["-x", "unknown"]),
    (["-o", "format"], ["format"]),
    (["-o", "format=vmdk"], ["format", "vmdk"]),
    (["-o", "backing="], ["backing"]),
    (["-o", "backing=/does/not/exist"], ["backing", "/does/not/exist"]),
    (["-o", "backing_map=x"], ["backing_map", "="]),
    (["-o", "threads=0"], ["threads"]),
    (["-o", "threads=many"], ["threads"]),
    (["-o", "threads=-1"], ["threads"]),
    (["-o", "l2_cache=12Q"], ["l2_cache"]),
    (["-o", "l2_cache=-1"], ["l2_cache"]),
    (["-o", "data_cache=99999999999999999999"], ["data_cache"]),
    (["-o", "umask=999"], ["umask"]),
    (["-o", "uid=-5"], ["uid"]),
    (["-o", "nolock=1"], ["nolock", "takes no value"]),
    (["--nolock=1"], ["nolock", "takes no value"]),
    (["--threads"], ["threads"]),
])
def test_refused_options(options, words, disk, mnt):
    """One line that names the option. No file is at fault, so none need be named."""
    before = procs.children()
    result = procs.run(env.qcowfs(), *options, disk, mnt, check=False, limit_s=20)
    assert result.status == 1 and not mounts_at(mnt), result
    assert procs.children() <= before
    assert result.errors.startswith("qcowfs: ") and result.errors.count("\n") == 1, result
    assert all(word in result.errors for word in words), result


def test_default_is_read_only(disk, mnt):
    with Mount(disk, mnt) as mount:
        with pytest.raises(OSError) as caught:
            os.open(mount.raw(disk), os.O_RDWR)
        assert caught.value.errno == 30, "EROFS"


@pytest.mark.parametrize("options,is_writable", [
    (["-o", "rw"], True), (["--rw"], True), (["-o", "ro,rw"], True), (["--ro", "-orw"], True),
    (["-o", "rw,ro"], False), (["--rw", "--ro"], False), (["--cow"], True), (["-o", "cow"], True),
    (["-o", "growable"], False), (["-o", "nogrowable,discard=zero"], False),
])
def test_last_of_ro_and_rw_counts(options, is_writable, disk, mnt, disk_content):
    with Mount(disk, mnt, *options) as mount:
        assert ("rw" if is_writable else "ro") in mounts_at(mnt)[-1][3].split(",")
        assert os.access(mount.raw(disk), os.W_OK) == is_writable
        assert read_all(mount.raw(disk)) == disk_content


def test_one_overlay_for_two_images(disk, mnt, tmp_path):
    other = qemu.make_raw(tmp_path / "other.img", 4096)
    overlay = tmp_path / "overlay.qcow2"
    result = procs.run(env.qcowfs(), "-o", f"cow={overlay}", disk, other, mnt, check=False)
    assert result.status == 1 and not mounts_at(mnt) and not overlay.exists()
    assert result.errors.startswith(f"qcowfs: cow={overlay}: one overlay")
    assert result.errors.count("\n") == 1


def test_notes_on_writing(disk, mnt, tmp_path):
    """A dangerous pair gets a note; with -v, so does the destination of writes. One line each, and
    only when needed."""
    def lines(*options):
        with Mount(disk, mnt, *options) as mount:
            return [line for line in mount.stderr().splitlines()
                    if "nolock" in line or "writes go" in line]

    overlay = tmp_path / "overlay.qcow2"
    told = lines("-o", "rw,nolock")
    assert len(told) == 1 and "dangerous" in told[0] and told[0].startswith("qcowfs: ")
    told = lines("-v", "-o", "cow")
    assert len(told) == 1 and "vanishes" in told[0]
    told = lines("-v", "-o", f"cow={overlay}")
    assert len(told) == 1 and str(overlay) in told[0]
    for options in (["-o", "nolock"], ["-o", "rw"], ["-o", "cow"], ["-o", "cow,nolock"], ["-v"]):
        assert lines(*options) == [], options


@pytest.mark.parametrize("umask,mode", [("0", 0o644), ("022", 0o644), ("027", 0o640),
                                        ("0222", 0o444)])
def test_umask_of_a_writable_disk(umask, mode, disk, mnt):
    with Mount(disk, mnt, "-o", f"rw,umask={umask}") as mount:
        assert stat.S_IMODE(os.stat(mount.raw(disk)).st_mode) == mode
        assert stat.S_IMODE(os.stat(mnt).st_mode) & 0o222 == 0


@pytest.mark.parametrize("options,mode", [
    ([], None),
    (["-o", "umask=0"], 0o444),
    (["-o", "umask=022"], 0o444),
    (["-o", "umask=027"], 0o440),
    (["-o", "umask=077"], 0o400),
    (["--umask=037"], 0o440),
])
def test_umask(options, mode, disk, mnt):
    if mode is None:
        now = os.umask(0)
        os.umask(now)
        mode = 0o444 & ~now
    with Mount(disk, mnt, *options) as mount:
        facts = os.stat(mount.raw(disk))
        assert stat.S_IMODE(facts.st_mode) == mode
        folder = os.stat(mount.snapshots(disk))
        assert stat.S_ISDIR(folder.st_mode)
        assert stat.S_IMODE(folder.st_mode) & 0o444 == mode, "directories follow the umask"
        assert stat.S_IMODE(folder.st_mode) & 0o222 == 0


def test_owner(disk, mnt):
    with Mount(disk, mnt) as mount:
        facts = os.stat(mount.raw(disk))
        assert (facts.st_uid, facts.st_gid) == (os.geteuid(), os.getegid())


def test_uid_gid(disk, mnt):
    with Mount(disk, mnt, "-o", "uid=12345,gid=54321") as mount:
        for path in (mount.raw(disk), mount.snapshots(disk), mount.facts("stats.json"), mnt):
            facts = os.stat(path)
            assert (facts.st_uid, facts.st_gid) == (12345, 54321), path


@pytest.mark.parametrize("options", [
    ["-s"], ["-o", "threads=1"], ["-o", "threads=8"], ["--threads=3"],
    ["-o", "l2_cache=64K"], ["-o", "l2_cache=1M,data_cache=1M"], ["--l2_cache=1M"],
    ["-o", "data_cache=0"], ["-o", "max_read=131072"], ["-v"], ["-o", "format=qcow2"],
    ["-o", "backing=any"], ["-o", "backing=none"], ["-o", "default_permissions"],
    ["-o", "fsname=some-name"], ["-o", "noatime"],
])
def test_accepted_options(options, disk, mnt, disk_content):
    """They change the way, never the result of a read."""
    with Mount(disk, mnt, *options) as mount:
        assert read_all(mount.raw(disk)) == disk_content
        assert read_all(mount.raw(disk), os.O_DIRECT) == disk_content


def test_options_in_any_order(disk, mnt, disk_content):
    """mount(8) calls `TYPE SOURCE DIR -o OPTIONS`."""
    result = procs.run(env.qcowfs(), disk, mnt, "-o", "ro,nosuid,nodev", check=False)
    try:
        assert result.status == 0, result
        assert read_all(mnt / "disk.raw") == disk_content
    finally:
        if mounts_at(mnt):
            procs.run("fusermount3", "-u", mnt)
            for pid in procs.children():
                procs.reap(pid)


def test_double_dash(tmp_path, disk, disk_content):
    """`--` ends the options: an image may have any name."""
    odd = disk.rename(disk.parent / "-o.qcow2")
    with Mount([odd.name], tmp_path / "mnt", "--", cwd=odd.parent) as mount:
        assert read_all(mount.path("-o.raw")) == disk_content


def test_format_raw_shows_the_file_itself(disk, mnt):
    with Mount(disk, mnt, "-o", "format=raw") as mount:
        assert read_all(mount.raw(disk)) == disk.read_bytes()


def test_format_qcow2_of_a_raw_file(tmp_path, mnt):
    raw = qemu.make_raw(tmp_path / "plain.img", 65536, (0, 65536, "words", 1))
    refused("-o", "format=qcow2", raw, mnt, file=raw, contains=["magic"])


@pytest.mark.parametrize("make,words", [
    (lambda p: None, ["No such file", ]),
    (lambda p: os.mkfifo(p), []),
])
def test_image_that_is_none(make, words, tmp_path, mnt):
    """A missing file, a FIFO (which must not be waited for)."""
    path = tmp_path / "thing.qcow2"
    make(path)
    refused(path, mnt, file=path, contains=words)


def test_image_is_a_character_device(mnt):
    refused("/dev/zero", mnt, file="/dev/zero")
    refused("/dev/null", mnt, file="/dev/null")


def test_image_without_permission(disk, mnt):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    disk.chmod(0)
    refused(disk, mnt, file=disk, contains=["Permission denied"])


def test_empty_file(tmp_path, mnt):
    """A raw disk of no bytes, where the user says so: mostly a download has failed."""
    image = tmp_path / "empty.img"
    image.touch()
    refused(image, mnt, file=image, contains=["empty"])
    with Mount(image, mnt, "-o", "format=raw") as mount:
        assert os.stat(mount.raw(image)).st_size == 0
        assert read_all(mount.raw(image)) == b""


@pytest.mark.parametrize("content", [b"QFI\xfb", b"QFI\xfb\0\0\0\3" + bytes(50)],
                         ids=["magic-only", "cut-header"])
def test_cut_header(content, tmp_path, mnt):
    """A file that begins with the magic number of qcow2 is never shown as raw by default."""
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    refused(image, mnt, file=image)
    with Mount(image, mnt, "-o", "format=raw") as mount:
        assert read_all(mount.raw(image)) == content
