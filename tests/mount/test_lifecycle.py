# SPDX-License-Identifier: GPL-2.0-or-later
"""Start and end of a mount: background, signals, stale mounts, mount points of every kind; and the
guarantees for scripts."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Daemon, Mount, mounts_at, refused, unmount

MIB = 1 << 20


def test_background(disk, mnt, disk_content):
    with Daemon(disk, mnt) as mount:
        # No waiting: exit 0 promised a mount that answers.
        assert read_all(mount.raw(disk)) == disk_content


def test_background_leaves_the_terminal(disk, mnt):
    """The daemon keeps neither the caller's pipes (a script's `$(qcowfs …)` would hang), nor its
    directory, nor its session."""
    with Daemon(disk, mnt) as mount:
        links = {fd: os.readlink(f"/proc/{mount.pid}/fd/{fd}") for fd in (0, 1, 2)}
        assert all(link == "/dev/null" for link in links.values()), links
        assert os.readlink(f"/proc/{mount.pid}/cwd") == "/"
        assert os.getsid(mount.pid) != os.getsid(0)


def test_background_relative_paths(disk, disk_content):
    """Relative paths start in the directory of the start, not the daemon's."""
    (disk.parent / "point").mkdir()
    with Daemon([disk.name], disk.parent / "point", cwd=disk.parent) as mount:
        assert read_all(mount.raw(disk)) == disk_content
        assert read_all(mount.facts("disk", "layers", "0.raw")) == disk_content


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(closed, disk, mnt, disk_content):
    """Going to the background replaces descriptors 0 to 2: never an image's."""
    wrapper = ("sh", "-c", f'exec "$@" {closed}', "sh")
    with Daemon(disk, mnt, wrapper=wrapper) as mount:
        assert read_all(mount.raw(disk)) == disk_content
        opened = [os.readlink(f"/proc/{mount.pid}/fd/{fd}")
                  for fd in os.listdir(f"/proc/{mount.pid}/fd")]
        assert str(disk) in opened


def test_signal_with_a_relative_mountpoint(disk):
    """The right mount is unmounted, though the daemon's directory is /."""
    point = disk.parent / "point"
    point.mkdir()
    before = procs.children()
    procs.run(env.qcowfs(), disk.name, "point", cwd=disk.parent)
    new = procs.children() - before
    assert len(new) == 1
    os.stat(point / "disk.raw")
    os.kill(min(new), signal.SIGTERM)
    assert procs.reap(min(new)) == 0
    assert not mounts_at(point) and os.listdir(point) == []


def test_signal_at_any_time_leaves_nothing(disk, mnt):
    """As soon as the mount is there, a signal ends it in order."""
    mnt.mkdir(exist_ok=True)
    for _ in range(20):
        process = subprocess.Popen([env.qcowfs(), "-f", disk, mnt], stderr=subprocess.DEVNULL)
        while not mounts_at(mnt):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * env.slow()) == 0
        assert not mounts_at(mnt)


def test_background_relative_chain(chain, chain_content):
    (chain.parent / "point").mkdir()
    with Daemon([chain.name], chain.parent / "point", cwd=chain.parent) as mount:
        assert read_all(mount.raw(chain)) == chain_content


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_signals_end_it(kind, number, disk, mnt):
    with kind(disk, mnt) as mount:
        os.stat(mount.raw(disk))
        mount.terminate(number)
    assert not mounts_at(mnt)


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_ignored_signals_stay_ignored(kind, disk, mnt):
    """As by nohup, and by shells for background processes of scripts."""
    wrapper = ["env", "--ignore-signal=HUP", "--ignore-signal=INT"]
    with kind(disk, mnt, wrapper=wrapper) as mount:
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(mount.process.pid, number)
        os.stat(mount.raw(disk))
        with pytest.raises(AssertionError):
            procs.wait_until(lambda: mount.process.poll() is not None or not mounts_at(mnt),
                             "it ends", 0.3)
        os.kill(mount.process.pid, signal.SIGTERM)      # below the wrapper, pid is a helper's
        mount.process.wait(10 * env.slow())
    assert not mounts_at(mnt)


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_unmount_ends_it(kind, disk, mnt):
    with kind(disk, mnt) as mount:
        read_all(mount.raw(disk))
        unmount(mnt)
        assert mount.process.wait(10 * env.slow()) == 0
        mount.close()
    assert not mounts_at(mnt) and os.listdir(mnt) == []


def test_plain_umount(disk, mnt):
    env.need_root("umount")
    with Mount(disk, mnt) as mount:
        procs.run("umount", mnt)
        assert mount.process.wait(10 * env.slow()) == 0
        mount.close()


def test_signal_with_an_open_file(disk, mnt):
    """An open file does not keep it: the mount goes, the file reads ENOTCONN."""
    with Mount(disk, mnt) as mount:
        fd = os.open(mount.raw(disk), os.O_RDONLY | os.O_DIRECT)
        try:
            mount.terminate(signal.SIGTERM)
            with pytest.raises(OSError) as caught:
                os.pread(fd, 1, 0)
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        finally:
            try:
                os.close(fd)
            except OSError:
                pass        # the flush at close has no recipient


def test_locks_are_free_after_the_end(disk, mnt):
    """A script that starts QEMU right after never sees a lock error."""
    for _ in range(5):
        with Mount(disk, mnt):
            pass
        qemu.io(disk, "write -P 7 0 512")


@pytest.mark.parametrize("spelling", ["mnt", "mnt/", "mnt//", "./mnt/.", "link", "link/"])
def test_wait_by_any_spelling(spelling, disk, mnt):
    (mnt.parent / "link").symlink_to(mnt.name)
    with Daemon(disk, mnt) as mount:
        waiter = subprocess.Popen([env.qcowfs(), "--wait", spelling], cwd=mnt.parent)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                waiter.wait(0.2)
            unmount(mnt)
            assert waiter.wait(10 * env.slow()) == 0
        finally:
            procs.end_process(waiter)
        mount.close()


def test_wait_for_the_second_of_two(disk, mnt):
    """The first has lost its mount, and still has its images open for an open file."""
    with Daemon(disk, mnt) as first:
        fd = os.open(first.raw(disk), os.O_RDONLY)
        try:
            unmount(mnt, lazy=True)
            with Daemon(disk, mnt) as second:
                os.close(fd)
                fd = -1
                assert first.process.wait(10 * env.slow()) == 0
                waiter = subprocess.Popen([env.qcowfs(), "--wait", str(mnt)])
                try:
                    with pytest.raises(subprocess.TimeoutExpired):
                        waiter.wait(0.3)
                    unmount(mnt)
                    assert waiter.wait(10 * env.slow()) == 0
                finally:
                    procs.end_process(waiter)
                second.close()
        finally:
            if fd >= 0:
                os.close(fd)
        first.close()


def test_wait_for_the_first_of_two(disk, mnt):
    """The second has ended; the first still has its images open for an open file."""
    with Daemon(disk, mnt) as first:
        fd = os.open(first.raw(disk), os.O_RDONLY)
        waiter = None
        try:
            unmount(mnt, lazy=True)
            with Daemon(disk, mnt) as second:
                second.close()
            waiter = subprocess.Popen([env.qcowfs(), "--wait", str(mnt)])
            with pytest.raises(subprocess.TimeoutExpired):
                waiter.wait(0.3)
            os.close(fd)
            fd = -1
            assert waiter.wait(10 * env.slow()) == 0
        finally:
            if fd >= 0:
                os.close(fd)
            if waiter:
                procs.end_process(waiter)
        first.close()


HOLD = """
for place in $(grep ' - fuse.qcowfs ' /proc/self/mountinfo | cut -d' ' -f5); do
    [ "$place" = "$1" ] || umount --lazy "$place"
done
echo ready
exec sleep 1000
"""


def hold_in_namespace(mnt, other):
    """The namespace of a container has a copy of the mount; not of those of other tests."""
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", HOLD, "sh", mnt],
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process, "in the mount namespace of process "


def hold_by_bind(mnt, other):
    procs.run("mount", "--bind", mnt, other)
    return None, f"is still mounted as {other} (unmount that, too)"


@pytest.mark.parametrize("hold", [hold_in_namespace, hold_by_bind])
def test_wait_says_what_holds_the_mount(hold, disk, mnt, tmp_path):
    env.need_root("mounting")
    other = tmp_path / "other"
    other.mkdir()
    with Daemon(disk, mnt) as mount:
        process, wanted = hold(mnt, other)
        waiter = None
        try:
            unmount(mnt)
            waiter = subprocess.Popen([env.qcowfs(), "--wait", str(mnt)], stderr=subprocess.PIPE)
            line = waiter.stderr.readline().decode()
            assert line.startswith(f"qcowfs: {mnt}: is still mounted as ") and wanted in line
            assert waiter.poll() is None
            if process:
                procs.end_process(process)
            else:
                procs.run("umount", other)
            assert waiter.wait(10 * env.slow()) == 0
            assert waiter.stderr.read() == b""
        finally:
            if process:
                procs.end_process(process)
            else:
                procs.run("umount", other, check=False)
            if waiter:
                waiter.stderr.close()
                procs.end_process(waiter)
        mount.close()


def test_wait_for_a_path_that_is_not_there(tmp_path):
    result = procs.run(env.qcowfs(), "--wait", tmp_path / "none", check=False)
    assert result.status == 1
    assert result.errors == f"qcowfs: {tmp_path}/none: no such mountpoint (give the path that " \
                            "was mounted on)\n"


def test_wait(disk, mnt):
    """--wait returns when the images are released, not before."""
    with Daemon(disk, mnt) as mount:
        waiter = subprocess.Popen([env.qcowfs(), "--wait", str(mnt)], stderr=subprocess.PIPE)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                waiter.wait(0.3)
            unmount(mnt)
            assert waiter.wait(10 * env.slow()) == 0
            qemu.io(disk, "write -P 7 0 512")
        finally:
            procs.end_process(waiter)
        mount.close()


@pytest.mark.parametrize("broken", ["missing", "version"])
def test_errors_come_before_the_fork(broken, tmp_path, disk, mnt):
    bad = tmp_path / "bad.qcow2"
    if broken == "version":
        bad.write_bytes(disk.read_bytes()[:4] + b"\0\0\0\x63" + disk.read_bytes()[8:])
    refused(bad, mnt, file=bad)
    # The good one before it is closed again: nothing stays locked.
    refused(disk, bad, mnt, file=bad)
    qemu.io(disk, "write -P 7 0 512")


@pytest.mark.parametrize("point", ["missing/dir", "file-in-the-way/dir"])
def test_mountpoint_that_is_none(point, disk, tmp_path):
    (tmp_path / "file-in-the-way").write_text("x")
    refused(disk, tmp_path / point, file=tmp_path / point)


def test_several_images(tmp_path, mnt):
    images = []
    for number in range(20):
        image = qemu.create(tmp_path / f"image-{number}.qcow2", MIB)
        qemu.write(image, (number * 1024, 4096, "words", number))
        images.append(image)
    raw = qemu.make_raw(tmp_path / "plain.raw", 12345, (0, 12345, "noise", 3))
    other = qemu.make_raw(tmp_path / "no-suffix", 999, (0, 999, "noise", 4))
    with Mount([*images, raw, other], mnt) as mount:
        for image in images:
            assert read_all(mount.raw(image)) == qemu.to_raw(image, tmp_path / "x").read_bytes()
        assert read_all(mnt / "plain.raw") == raw.read_bytes()
        assert read_all(mnt / "no-suffix.raw") == other.read_bytes()
        shown = set(os.listdir(mnt))
        assert {f"image-{n}.raw" for n in range(20)} <= shown
        assert {f"image-{n}.snapshots" for n in range(20)} <= shown


@pytest.mark.parametrize("other", ["disk.img", "disk.raw", "disk.qed", "disk", "sub/disk.qcow2"])
def test_two_images_of_one_name(other, disk, mnt):
    second = disk.parent / other
    second.parent.mkdir(exist_ok=True)
    qemu.make_raw(second, 4096)
    refused(disk, second, mnt, file=disk.name.split(".")[0], contains=["name"])


def test_more_images_than_files_may_be_open(tmp_path, mnt):
    """The soft limit is no reason to stop: it is meant for programs that select(2)."""
    source = qemu.create(tmp_path / "source.qcow2", MIB)
    images = [tmp_path / f"image-{number}.qcow2" for number in range(80)]
    for image in images:
        image.write_bytes(source.read_bytes())
    limited = ["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh"]
    with Daemon(images, mnt, wrapper=limited) as mount:
        assert read_all(mount.raw(images[79])) == bytes(MIB)
    limited[2] = limited[2].replace("-Sn", "-n")
    refused(*images, mnt, wrapper=limited, contains=["too many open files", "ulimit -n"])


@pytest.mark.parametrize("name", ["..qcow2", "...raw"])
def test_names_that_a_directory_has_itself(name, disk, mnt):
    image = disk.rename(disk.parent / name)
    refused(image, mnt, file=image, contains=["taken"])


def test_a_message_is_one_line(disk, mnt):
    """For any file name."""
    image = disk.parent / "new\nline\033[31m.qcow2"
    image.write_bytes(b"QFI\xfb\0\0\0\x09" + bytes(504))
    refused(image, mnt, contains=["new?line?[31m.qcow2: "])


def test_a_mount_below_another(disk, chain, mnt, tmp_path):
    """It cannot be unmounted by a signal, and says so."""
    lower = subprocess.Popen([env.qcowfs(), "-f", disk, mnt], stderr=subprocess.PIPE)
    try:
        procs.wait_until((mnt / "disk.raw").exists, "the lower one is there")
        with Mount(chain, mnt) as upper:
            procs.wait_until(upper.raw(chain).exists, "the upper one is there")
            lower.send_signal(signal.SIGTERM)
            told = lower.communicate(timeout=10 * env.slow())[1].decode()
            assert lower.returncode == 0
            assert os.listdir(upper.snapshots(chain)) == []
    finally:
        procs.end_process(lower)
        unmount(mnt, check=False)
    assert "cannot be unmounted" in told and "then use fusermount3 -u" in told


def test_one_image_twice(disk, mnt):
    refused(disk, disk, mnt, contains=["name"])


# ---- a regular file as mount point ----------------------------------------------------


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_file_as_mountpoint(kind, disk, tmp_path, disk_content):
    point = tmp_path / "here.raw"
    point.write_text("was here before")
    with kind(disk, point):
        assert point.stat().st_size == len(disk_content)
        assert read_all(point) == disk_content
        assert read_all(point, os.O_DIRECT) == disk_content
        with pytest.raises(OSError):
            os.open(point, os.O_WRONLY)
    assert point.read_text() == "was here before"


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_image_itself_as_mountpoint(kind, disk, disk_content):
    with Unchanged(disk):
        with kind(disk, disk):
            assert read_all(disk) == disk_content
    assert disk.read_bytes()[:4] == b"QFI\xfb"


def test_image_itself_with_chain(chain, chain_content):
    """The backing files are still found beside the covered image."""
    with Unchanged(chain.parent):
        with Mount(chain, chain):
            assert read_all(chain) == chain_content


def test_image_itself_after_kill(disk):
    """kill -9, then an unmount, shows the image again."""
    original = disk.read_bytes()
    with Mount(disk, disk) as mount:
        mount.kill()
        unmount(disk)
    assert disk.read_bytes() == original


def test_two_images_on_a_file(disk, tmp_path):
    other = qemu.make_raw(tmp_path / "other.img", 4096)
    point = tmp_path / "point"
    point.write_text("")
    refused(disk, other, point, contains=["one image"])


# ---- stale mounts ---------------------------------------------------------------------


@pytest.mark.parametrize("again", [Mount, Daemon])
def test_stale_mount_is_replaced(again, disk, mnt, disk_content):
    with Mount(disk, mnt) as mount:
        mount.kill()
    with pytest.raises(OSError) as caught:
        os.listdir(mnt)
    assert caught.value.errno == errno.ENOTCONN
    try:
        with again(disk, mnt) as second:
            assert read_all(second.raw(disk)) == disk_content
            assert len(mounts_at(mnt)) == 1, "mounted over the stale one"
            told = [line for line in second.stderr().splitlines() if "unmounted" in line]
            assert len(told) == 1 and str(mnt) in told[0], "does not say what it did"
        assert not mounts_at(mnt)
    finally:
        while mounts_at(mnt):
            unmount(mnt, lazy=True)


@pytest.mark.parametrize("spelling", ["mnt/", "./mnt/.", "link"])
def test_stale_mount_by_any_spelling(spelling, disk, mnt, disk_content):
    (mnt.parent / "link").symlink_to(mnt.name)
    with Mount(disk, mnt) as mount:
        mount.kill()
    try:
        before = procs.children()
        procs.run(env.qcowfs(), disk, spelling, cwd=mnt.parent)
        assert len(mounts_at(mnt)) == 1
        assert read_all(mnt / "disk.raw") == disk_content
        unmount(mnt)
        for pid in procs.children() - before:
            assert procs.reap(pid) == 0
    finally:
        while mounts_at(mnt):
            unmount(mnt, lazy=True)


def test_stale_mount_on_a_file(disk, disk_content):
    with Mount(disk, disk) as mount:
        mount.kill()
    try:
        with Mount(disk, disk):
            assert read_all(disk) == disk_content
            assert len(mounts_at(disk)) == 1
        assert disk.read_bytes()[:4] == b"QFI\xfb"
    finally:
        while mounts_at(disk):
            unmount(disk, lazy=True)


def test_live_mount_is_left_alone(disk, chain, mnt, tmp_path, disk_content):
    """A mount that answers is no stale one: a second start must not unmount it."""
    with Mount(disk, mnt) as mount:
        result = procs.run(env.qcowfs(), chain, mnt, check=False)
        daemons = [p for p in procs.children() if p != mount.pid]
        try:
            if result.status == 0:      # stacked above it, as FUSE file systems do
                unmount(mnt)
                for pid in daemons:
                    assert procs.reap(pid) == 0
            assert read_all(mount.raw(disk)) == disk_content
        finally:
            while len(mounts_at(mnt)) > 1:
                unmount(mnt, lazy=True)


def test_auto_unmount(disk, mnt):
    """fusermount3 watches for the death in a separate process. When it looks before the kernel has
    closed all of the dead server's files, it finds a mount that seems to live, and leaves it:
    that must not be the rule."""
    for _ in range(3):
        with Mount(disk, mnt, "-o", "auto_unmount") as mount:
            known = procs.children()
            mount.kill()
            watchers = procs.children() | known - {mount.pid}
            for pid in watchers:
                procs.reap(pid)
            if not mounts_at(mnt):
                return
            unmount(mnt, lazy=True)
    pytest.fail("the mounts stay after the death of their servers")


def test_start_is_quick(disk, mnt):
    if env.sanitizer():
        pytest.skip("sanitizers take their time")
    best = min(_start_seconds(disk, mnt) for _ in range(5))
    assert best < 0.2, f"{best:.3f} s of the processor from start to first byte"


def _start_seconds(disk, mnt):
    """CPU time: the need of the server, independent of other load."""
    with Mount(disk, mnt) as mount:
        with open(mount.raw(disk), "rb") as file:
            file.read(1)
        fields = Path(f"/proc/{mount.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
