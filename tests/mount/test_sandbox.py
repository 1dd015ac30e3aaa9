# SPDX-License-Identifier: GPL-2.0-or-later
"""The rights given up by a running mount, according to the kernel and tried from inside; and that
it lacks nothing."""

import os
import re
import signal
import socket
from hashlib import sha256
from pathlib import Path

import pytest

from qtest import env, procs
from qtest.checks import read_all
from qtest.mount import Daemon, Mount, mounts_at, unmount
from qtest.private import private_dev
from qtest.qcow2 import Qcow2File

MIB = 1 << 20


def thread_facts(pid):
    """For each thread, the lines of /proc with its privileges."""
    for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
        yield dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
                   if ":\t" in line)


@pytest.mark.parametrize("options", [[], ["-o", "rw"], ["-o", "cow"], ["-s"], ["-d"]])
@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_privileges_of_all_threads(kind, options, disk, mnt, disk_content):
    if kind is Daemon and options == ["-d"]:
        pytest.skip("-d stays in the foreground")
    with kind(disk, mnt, *options) as mount:
        assert read_all(mount.raw(disk)) == disk_content
        facts = list(thread_facts(mount.pid))
        assert len(facts) >= 2
        for one in facts:
            if env.sanitizer() == "thread" and one["Seccomp"] == "0":
                continue            # the sanitizer's own, of before
            assert one["NoNewPrivs"] == "1" and one["Seccomp"] == "2", one
            assert int(one["CapEff"], 16) == int(one["CapPrm"], 16) == 0, one
            assert int(one["CapInh"], 16) == int(one["CapAmb"], 16) == 0, one


def test_nosandbox(disk, mnt, disk_content):
    with Mount(disk, mnt, "-o", "nosandbox") as mount:
        assert read_all(mount.raw(disk)) == disk_content
        assert {one["Seccomp"] for one in thread_facts(mount.pid)} == {"0"}
        assert procs.children(mount.pid) == set()


def test_verbose_says_what_holds(disk, mnt):
    with Mount(disk, mnt, "-v") as mount:
        told = [line for line in mount.stderr().splitlines() if "confined" in line]
        assert len(told) == 1 and "no new privileges" in told[0], mount.stderr()
        for name in ("Landlock", "seccomp"):
            assert name in told[0]
    with Mount(disk, mnt) as mount:
        assert "confined" not in mount.stderr()


GDB_CALLS = """
print (int)open("/etc/passwd", 0)
print (int)open("%(image)s", 0)
print (int)open("%(image)s.new", 0102, 0600)
print (int)unlink("%(image)s")
print (int)socket(2, 1, 0)
print (int)socket(1, 2, 0)
print (int)fcntl(%(fd)d, 8, %(parent)d)
print (int)sendto(%(fd)d, $sp, 1, 0, $sp, 110)
print (int)connect(%(fd)d, $sp, 110)
print (int)execl("/bin/true", "true", (char *)0)
print (int)fork()
print (int)pread(%(fd)d, $sp - 4096, 16, 0)
"""


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_opening_a_file_fails(kind, disk, mnt, tmp_path):
    """From inside, by a debugger: neither another file, nor the image itself by its name can be
    opened; open files stay readable."""
    env.need_tools("gdb")
    if env.sanitizer():
        pytest.skip("a sanitizer's reports take files and calls")
    with kind(disk, mnt, "-v") as mount:
        if "no Landlock" in mount.stderr():
            pytest.skip("this kernel has no Landlock")
        fd = next(int(link.name) for link in Path(f"/proc/{mount.pid}/fd").iterdir()
                  if os.readlink(link) == str(disk))
        script = tmp_path / "calls"
        script.write_text(GDB_CALLS % {"image": disk, "fd": fd, "parent": os.getpid()})
        result = procs.run("gdb", "-p", str(mount.pid), "-batch", "-nx", "-x", script, check=False)
        values = [int(v) for v in re.findall(r"^\$\d+ = (-?\d+)$", result.text, re.M)]
        if not values and "ptrace" in result.errors:
            pytest.skip("gdb cannot attach: " + result.errors)
        assert values == [-1] * 11 + [16], result
    assert disk.exists() and not Path(f"{disk}.new").exists()


def unmounter_of(mount):
    """The server's unmounting helper, not the keeper."""
    (helper,) = (pid for pid in procs.children(mount.pid) if procs.name(pid) != "qimg-keeper")
    return helper


def test_the_other_process(disk, mnt):
    """The unmounting process holds nothing of the images and the mount, and ends with the server,
    in any way."""
    with Mount(disk, mnt, "-o", "rw") as mount:
        helper = unmounter_of(mount)
        links = sorted(os.readlink(f"/proc/{helper}/fd/{fd}")
                       for fd in os.listdir(f"/proc/{helper}/fd"))
        assert links[:3] == ["/dev/null"] * 3 and len(links) == 4, links
        assert links[3].startswith("socket:")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(helper, number)         # as to a whole group: it outlives the server
        mount.terminate(signal.SIGINT)
    assert not procs.is_running(helper)
    with Mount(disk, mnt) as mount:
        helper = unmounter_of(mount)
        mount.kill()                        # reaps the helper, too
    assert not procs.is_running(helper)
    unmount(mnt, lazy=True)


def test_death_of_the_other_process(disk, mnt, disk_content):
    """The end is in order without it, except that the mount stays."""
    with Mount(disk, mnt) as mount:
        os.kill(unmounter_of(mount), signal.SIGKILL)
        assert read_all(mount.raw(disk)) == disk_content
        os.kill(mount.pid, signal.SIGTERM)
        assert mount.process.wait(10 * env.slow()) == 0
        unmount(mnt, lazy=True)
        mount.close()


def test_a_mount_on_top_is_left_alone(disk, mnt):
    """The server's end removes its own mount, never another one above it."""
    env.need_root("mount")
    with Mount(disk, mnt) as mount:
        procs.run("mount", "-t", "tmpfs", "none", mnt)
        try:
            os.kill(mount.pid, signal.SIGTERM)
            assert mount.process.wait(10 * env.slow()) == 0
            assert mounts_at(mnt)[-1][1] == "tmpfs"
        finally:
            procs.run("umount", mnt)
        unmount(mnt, lazy=True)
        mount.close()


# ---- nothing is missing ---------------------------------------------------------------


def test_the_mark_goes(disk, mnt):
    """The confined server removes the mark used by --wait."""
    env.need_root("the directory of marks")
    name = sha256(os.fsencode(os.path.realpath(mnt))).hexdigest()[:32] + ".*"
    with Mount(disk, mnt):
        assert list(Path("/run/qcowfs").glob(name))
    assert not list(Path("/run/qcowfs").glob(name))


def work(mount, disk):
    """A bit of every kind of request of a client."""
    raw = mount.raw(disk)
    read_all(raw)
    for path in (mount.facts("stats.json"), mount.facts("disk", "map.json"),
                 mount.facts("disk", "info.json"), mount.facts("disk", "layers", "0.raw")):
        path.read_bytes()
    os.statvfs(raw)
    if not os.access(raw, os.W_OK):
        return
    fd = os.open(raw, os.O_RDWR)
    os.pwrite(fd, b"x" * 100000, MIB + 1)
    os.fsync(fd)
    procs.run("fallocate", "-p", "-o", str(MIB), "-l", "65536", raw)
    procs.run("fallocate", "-z", "-o", "0", "-l", "65536", raw)
    procs.run("fallocate", "-o", str(2 * MIB), "-l", "65536", raw)
    os.ftruncate(fd, 8 * MIB)
    os.close(fd)
    if "cow" in mount.options:
        return
    one = mount.snapshots(disk) / "one"
    one.mkdir()
    read_all(one / "disk.raw")
    one.rename(mount.snapshots(disk) / "two")
    (mount.snapshots(disk) / "two").rmdir()


@pytest.mark.parametrize("options", [[], ["-o", "rw"], ["-o", "cow"], ["-o", "rw,discard=zero"]])
@pytest.mark.parametrize("compressed", [False, True])
def test_no_call_is_refused(compressed, options, disk, mnt, tmp_path):
    """The list of allowed system calls is complete: a refused one would mean a feature that works
    by luck, or not at all."""
    env.need_tools("strace")
    if env.sanitizer():
        pytest.skip("a sanitizer's calls are another matter")
    image = disk
    if compressed:
        image = disk.parent / "compressed" / "disk.qcow2"
        image.parent.mkdir()
        procs.run("qemu-img", "convert", "-c", "-O", "qcow2", disk, image)
    log = tmp_path / "trace"
    # Slow, and the first process of all is not the server.
    with Mount(image, mnt, *options, wrapper=("strace", "-f", "-o", log), limit_s=40) as mount:
        work(mount, image)
    lines = log.read_text(errors="replace").splitlines()
    # The last one: before it the library tries out its features. Its result may be on a separate
    # line.
    start = max(i for i, line in enumerate(lines) if "SECCOMP_SET_MODE_FILTER" in line)
    # The C library tries these if it can, and has alternatives: for creating a thread, for freeing
    # a thread's memory at once.
    harmless = re.compile(r"\bclone3\b|/proc/sys/vm/overcommit_memory")
    refused = [line for line in lines[start + 1:]
               if re.search(r"= -1 (ENOSYS|EPERM|EACCES)\b", line) and not harmless.search(line)]
    assert refused == []


@pytest.mark.parametrize("name", ["info", "map"])
def test_facts_after_the_start(name, chain, mnt):
    """They are generated when read, from open files."""
    with Mount(chain, mnt) as mount:
        assert b"middle" in mount.facts("top", f"{name}.json").read_bytes() or name == "map"


# ---- the log --------------------------------------------------------------------------

def test_messages_in_the_background(disk, tmp_path):
    """Found damage, and an end with open files, go to the system's log as lines with the name of
    the image or mount."""
    env.need_root("a /dev of its own")
    with Qcow2File(disk) as file:
        file.set_l2_entry(0, 0x8000000000000200)        # not at a cluster's begin
    point = tmp_path / "mnt"
    point.mkdir()
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.settimeout(10 * env.slow())
    path = tmp_path / "log"
    log.bind(str(path))
    before = procs.children()
    procs.run(*private_dev(tmp_path, log=path), env.qcowfs(), disk, point)
    (pid,) = procs.children() - before
    fd = -1
    try:
        fd = os.open(f"/proc/{pid}/root{point}/disk.raw", os.O_RDONLY)
        with pytest.raises(OSError):
            os.pread(fd, 4096, 0)
        told = log.recv(4096).decode()
        assert re.match(rf"<\d+>.*qcowfs\[{pid}\]: .*{re.escape(str(disk))}", told), told
        # The log is restarted.
        log.close()
        path.unlink()
        log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        log.settimeout(10 * env.slow())
        log.bind(str(path))
        os.kill(pid, signal.SIGTERM)
        told = log.recv(4096).decode()
        assert str(point) in told and "open" in told, told
        assert procs.reap(pid) == 0
    except BaseException:
        helpers = procs.children(pid)
        os.kill(pid, signal.SIGKILL)
        for process in {pid} | helpers:
            procs.reap(process)
        raise
    finally:
        log.close()
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass
