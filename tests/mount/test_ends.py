# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends of a mount in use, starts that fail outside of the images, and their messages: each refusal
is one line with the cause and the cure."""

import contextlib
import ctypes
import errno
import os
import pty
import signal
import subprocess

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.mount import ONE_LINE, Daemon, Mount, mounts_at, refused, unmount
from qtest.private import as_user, private_dev, private_files
from qtest.writing import check

# ---- a mount in use -------------------------------------------------------------------


@pytest.fixture
def writer(disk, mnt):
    """(mount, descriptor): a writable disk, open for writing."""
    with Mount(disk, mnt, "-o", "rw") as mount:
        fd = os.open(mount.raw(disk), os.O_RDWR)
        yield mount, fd
        try:
            os.close(fd)
        except OSError:
            pass
        mount.process.wait(10 * env.slow())


def wait_for_message(mount, word):
    procs.wait_until(lambda: word in mount.stderr(), f"a message with {word!r}")
    lines = [line for line in mount.stderr().splitlines() if word in line]
    assert len(lines) == 1 and lines[0].startswith("qcowfs: "), mount.stderr()
    return lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_writer_is_waited_for(number, writer, disk):
    """The mount is gone at once; the writer's later writes are kept, and the end comes when it
    closes the file."""
    mount, fd = writer
    os.kill(mount.pid, number)
    told = wait_for_message(mount, "open for writing")
    assert str(mount.mountpoint) in told and "1 of its files" in told
    assert "second signal" in told and "losetup -d" in told
    assert not mounts_at(mount.mountpoint)
    os.pwrite(fd, b"written after the signal", 0)
    os.fsync(fd)
    assert mount.process.poll() is None
    os.close(fd)
    assert mount.process.wait(10 * env.slow()) == 0
    check(disk)
    assert qemu.to_raw(disk, disk.parent / "raw").read_bytes().startswith(b"written after")


def test_a_second_signal_ends_it(writer):
    mount, fd = writer
    os.pwrite(fd, b"x" * 4096, 0)
    os.kill(mount.pid, signal.SIGTERM)
    wait_for_message(mount, "open for writing")
    os.kill(mount.pid, signal.SIGTERM)
    assert mount.process.wait(10 * env.slow()) == 0
    with pytest.raises(OSError) as caught:
        os.pwrite(fd, b"y", 0)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_new_mount_while_a_writer_is_waited_for(writer, disk, tmp_path):
    """The end of the old server leaves the new mount at the same place alone."""
    mount, fd = writer
    other = qemu.make_raw(tmp_path / "other.img", 4096)
    os.kill(mount.pid, signal.SIGTERM)
    wait_for_message(mount, "open for writing")
    with Daemon(other, mount.mountpoint) as second:
        os.close(fd)
        assert mount.process.wait(10 * env.slow()) == 0
        assert len(read_all(second.raw(other))) == 4096
        qemu.io(disk, "write -P 7 0 512")       # unlocked


@pytest.mark.parametrize("options,flags", [([], os.O_RDONLY), (["-o", "rw"], os.O_RDONLY),
                                           (["-o", "cow"], os.O_RDWR)])
def test_others_are_not_waited_for(options, flags, disk, mnt):
    """Readers, and writers to a temporary overlay: they have nothing to lose."""
    with Mount(disk, mnt, *options) as mount:
        fd = os.open(mount.raw(disk), flags)
        mount.terminate(signal.SIGTERM)
        lines = [line for line in mount.stderr().splitlines() if "open" in line]
        assert len(lines) == 1 and "1 of its files" in lines[0], mount.stderr()
        assert str(mnt) in lines[0] and "errors" in lines[0]
        with pytest.raises(OSError):
            os.pread(fd, 1, 0)
        try:
            os.close(fd)
        except OSError:
            pass


def test_an_end_without_open_files_is_silent(disk, mnt):
    with Mount(disk, mnt, "-o", "rw") as mount:
        os.listdir(mnt)
        before = mount.stderr()
        mount.terminate(signal.SIGTERM)
        assert mount.stderr() == before


# ---- /dev/fd/N ------------------------------------------------------------------------


def mount_descriptor(point):
    """Opens /dev/fuse and mounts with it, as a program does that provides a container with a
    mount."""
    env.need_root("mount(2)")
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"disk", os.fsencode(point), b"fuse.qcowfs", 6, data.encode()) != 0:
        os.close(fd)
        raise OSError(ctypes.get_errno(), "mount")
    return fd


@pytest.mark.parametrize("foreground", [True, False])
def test_descriptor_as_mountpoint(foreground, disk, mnt, disk_content):
    fd = mount_descriptor(mnt)
    before = procs.children()
    try:
        argv = [env.qcowfs(), *(["-f"] if foreground else []), disk, f"/dev/fd/{fd}"]
        process = subprocess.Popen(argv, pass_fds=[fd], stderr=subprocess.PIPE)
        os.close(fd)
        if not foreground:
            assert process.wait(20 * env.slow()) == 0
        assert read_all(mnt / "disk.raw") == disk_content
        pids = procs.children() - before
        assert len(pids) == 1
    finally:
        procs.run("umount", mnt)
    if foreground:
        assert process.wait(10 * env.slow()) == 0
        assert process.stderr.read() == b""
    else:
        assert procs.reap(min(pids)) == 0
    process.stderr.close()


def test_signal_with_a_descriptor(disk, mnt):
    """The program that mounted also unmounts."""
    fd = mount_descriptor(mnt)
    try:
        process = subprocess.Popen([env.qcowfs(), "-f", disk, f"/dev/fd/{fd}"], pass_fds=[fd],
                                   stderr=subprocess.DEVNULL)
        os.close(fd)
        os.stat(mnt / "disk.raw")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * env.slow()) == 0
        with pytest.raises(OSError) as caught:
            os.statvfs(mnt)
        assert caught.value.errno == errno.ENOTCONN
    finally:
        procs.run("umount", mnt)


@pytest.mark.parametrize("name", ["99", "0", "x", "", "-1", "18446744073709551616"])
def test_descriptor_that_is_none(name, disk):
    result = procs.run(env.qcowfs(), disk, f"/dev/fd/{name}", check=False)
    match = ONE_LINE.match(result.errors)
    assert result.status == 1 and match, result
    assert match["file"] == f"/dev/fd/{name}" and "no open descriptor of /dev/fuse" in match["what"]


@pytest.mark.parametrize("options", [[], ["-f"]])
def test_descriptor_without_a_mount(options, disk):
    fd = os.open("/dev/fuse", os.O_RDWR)
    try:
        result = procs.run(env.qcowfs(), *options, disk, f"/dev/fd/{fd}", check=False,
                           pass_fds=[fd])
    finally:
        os.close(fd)
    match = ONE_LINE.match(result.errors)
    assert result.status == 1 and match, result
    assert "nothing is mounted with that descriptor" in match["what"]


# ---- missing prerequisites ----


def test_without_dev_fuse(disk, mnt, tmp_path):
    """The refusal names a working alternative."""
    wrapper = private_dev(tmp_path, has_fuse=False)
    match = refused(disk, mnt, wrapper=wrapper, file=mnt,
                    contains=["/dev/fuse", "modprobe", "container", "copy-out", "snapshot list"])
    assert match["what"].startswith("cannot mount")
    out = tmp_path / "out.raw"
    (tmp_path / "nodes").rmdir()
    wrapper = private_dev(tmp_path, has_fuse=False)
    for arguments in (["info", disk], ["map", disk], ["snapshot", "list", disk],
                      ["copy-out", disk, out]):
        procs.run(*wrapper, env.qimg(), *arguments)
    assert read_all(out) == qemu.to_raw(disk, tmp_path / "qemu.raw").read_bytes()


@pytest.fixture
def user_files(tmp_path, disk, mnt):
    """A wrapper for another user, who may use /dev/fuse, and owns the image and the mountpoint."""
    env.need_root("another user")
    tmp_path.chmod(0o755)
    wrapper = (*private_dev(tmp_path), *as_user(disk.parent, disk, mnt))
    if procs.run(*wrapper, env.qcowfs(), "--version", check=False).status != 0:
        pytest.skip("the program lies where other users cannot start it")
    return wrapper


def fuse_conf(tmp_path, text):
    path = tmp_path / "fuse.conf"
    path.write_text(text)
    return private_files({"/etc/fuse.conf": path})


def start_and_end(*argv):
    """Starts a daemon at a terminal, ends it by a signal, and returns the output of the start."""
    before = procs.children()
    ours, theirs = pty.openpty()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    for pid in procs.children() - before:
        os.kill(pid, signal.SIGTERM)
        assert procs.reap(pid) == 0
    told = b""
    with contextlib.suppress(OSError):      # EIO is a terminal's end
        while chunk := os.read(ours, 4096):
            told += chunk
    os.close(ours)
    return told.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("text,is_set", [("", False), ("# user_allow_other\n", False),
                                         ("user_allow_other_x\n", False),
                                         ("user_allow_other\n", True),
                                         ("mount_max = 5000\n  user_allow_other \n", True)])
def test_hint_of_a_user(text, is_set, user_files, disk, mnt, tmp_path):
    """The hint about access by others names exactly the missing prerequisites."""
    told = start_and_end(*fuse_conf(tmp_path, text), *user_files, env.qcowfs(), disk, mnt)
    assert told.count("\n") == 1 and len(told) < 120 and "-o allow_root" in told, told
    assert ("user_allow_other in /etc/fuse.conf" in told) == (not is_set), told


def test_hint_of_root(disk, mnt):
    """Short, at a terminal alone, and not with -q."""
    env.need_root("being it")
    told = start_and_end(env.qcowfs(), disk, mnt)
    assert "-o allow_other" in told and told.count("\n") == 1 and len(told) < 80
    assert start_and_end(env.qcowfs(), "-o", "allow_other", disk, mnt) == ""
    assert start_and_end(env.qcowfs(), "-q", disk, mnt) == ""
    assert start_and_end(env.qcowfs(), "--quiet", disk, mnt) == ""
    with Daemon(disk, mnt) as mount:
        assert mount.stderr() == ""


@pytest.mark.parametrize("option", ["allow_other", "allow_root"])
def test_allow_other_without_the_line(option, user_files, disk, mnt, tmp_path):
    refused("-o", option, disk, mnt, file=mnt,
            wrapper=(*fuse_conf(tmp_path, "#\n"), *user_files),
            contains=[option, "put the line user_allow_other into /etc/fuse.conf"])


def test_mountpoint_of_somebody_else(user_files, disk, tmp_path):
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    refused(disk, other, file=other, wrapper=user_files,
            contains=["no write access", "of your own"])


def test_without_fusermount3(user_files, disk, mnt, tmp_path):
    empty = tmp_path / "none"
    empty.write_text("")
    wrapper = (*private_files({"/usr/bin/fusermount3": empty}), *user_files)
    refused(disk, mnt, file=mnt, wrapper=wrapper,
            contains=["fusermount3", "install fusermount3, from the package fuse3"])


def test_too_many_mounts(user_files, disk, mnt, tmp_path):
    refused(disk, mnt, file=mnt, contains=["too many", "mount_max"],
            wrapper=(*fuse_conf(tmp_path, "mount_max = 0\n"), *user_files))


USER_SESSION = """
"$1" -f "$2" "$3" 2>/dev/null &
pid=$!
until [ -e "$3/disk.raw" ]; do
    kill -0 $pid || exit 1
    sleep 0.02
done
kill $pid
wait $pid || exit 1
! grep -F " $3 " /proc/self/mountinfo
"""


def test_user_unmounts_by_signal(user_files, disk, mnt):
    """The unmounting process is not confined, so that fusermount3 works for it."""
    procs.run(*user_files, "sh", "-c", USER_SESSION, "sh", env.qcowfs(), disk, mnt)


USER_WAITS = """
XDG_RUNTIME_DIR=$4 "$1" "$2" "$3" 2>/dev/null || exit 1
XDG_RUNTIME_DIR=$5 "$1" --wait "$3" &
waiter=$!
sleep 0.3
kill -0 $waiter && echo waits
fusermount3 -u "$3"
wait $waiter && echo ended
"""


@pytest.mark.parametrize("of_server", ["own", "missing", "of-root"])
@pytest.mark.parametrize("of_waiter", ["own", "missing", "of-root"])
def test_wait_from_another_session(of_server, of_waiter, user_files, disk, mnt, tmp_path):
    """XDG_RUNTIME_DIR may be another user's after su, or missing in a cron job."""
    if "own" in (of_server, of_waiter) and of_server != of_waiter:
        pytest.skip("only one that is not /run/user/UID can be lost")
    for name in ("own", "of-root"):
        (tmp_path / name).mkdir(mode=0o700)
    os.chown(tmp_path / "own", os.stat(disk).st_uid, -1)
    before = procs.children()
    result = procs.run(*user_files, "sh", "-c", USER_WAITS, "sh", env.qcowfs(), disk, mnt,
                       tmp_path / of_server, tmp_path / of_waiter)
    for pid in procs.children() - before:
        procs.reap(pid)
    assert result.text == "waits\nended\n", result


def test_wait_by_another_user(disk, mnt, user_files):
    """Root's server, unmounted by sudo and waited for without it."""
    with Daemon(disk, mnt) as mount:
        waiter = subprocess.Popen([*user_files, env.qcowfs(), "--wait", str(mnt)])
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                waiter.wait(0.3)
            unmount(mnt)
            assert waiter.wait(10 * env.slow()) == 0
        finally:
            procs.end_process(waiter)
        mount.close()
