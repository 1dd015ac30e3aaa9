# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounting images at the start of a machine: mount(8), /etc/fstab, a service manager that gets a
report when the mount is ready."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.mount import mounts_at, unmount
from qtest.private import private_programs

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"


class ByMount:
    """Runs mount(8), whose helper finds the tested program in /usr/bin: a mount namespace makes it
    so, which the test inspects through the server."""

    def __init__(self, tmp_path, mnt):
        env.need_root("mount")
        if not os.path.exists("/sbin/mount.fuse3"):
            pytest.skip("mount.fuse3 is not installed")
        programs = tmp_path / "programs"
        programs.mkdir()
        shutil.copy(env.qcowfs(), programs / "qcowfs")
        self._wrapper, self._mnt = private_programs(programs), mnt
        self.pid = None

    def __call__(self, *argv, check=True):
        before = procs.children()
        result = procs.run(*self._wrapper, "mount", *argv, check=False)
        new = procs.children() - before
        if new:
            (self.pid,) = new
        if result.status == 77:
            pytest.skip(f"no overlay file system: {result.errors}")
        assert not check or result.status == 0, str(result)
        assert bool(new) == (result.status == 0), str(result)
        return result

    @property
    def top(self):
        return Path(f"/proc/{self.pid}/root{self._mnt}")

    def mount_line(self):
        (line,) = [line for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
                   if f" {self._mnt} " in line]
        return line

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            assert procs.reap(self.pid) == 0


@pytest.fixture
def by_mount(tmp_path, mnt):
    one = ByMount(tmp_path, mnt)
    yield one
    one.close()


def test_mount_by_type(by_mount, disk, mnt, disk_content):
    by_mount("-t", "fuse.qcowfs", "-o", "ro,allow_other", disk, mnt)
    assert read_all(by_mount.top / "disk.raw") == disk_content
    assert re.search(rf" ro,\S* - fuse.qcowfs {disk} ro,", by_mount.mount_line())


@pytest.mark.parametrize("options,is_writable", [
    ("defaults", True), ("ro", False), ("ro,noauto,user", False), ("cow,nofail", True),
    ("ro,users,_netdev,x-systemd.automount,x-systemd.requires=a.service,x-gvfs-hide", False),
    ("ro,owner,group,auto,nouser,comment=text", False),
    ("ro,relatime,noatime,nodiratime,nodev,nosuid,noexec,async", False),
    ("ro,nofail,x-systemd.device-timeout=5s,l2_cache=1M", False),
])
def test_fstab(options, is_writable, by_mount, disk, mnt, disk_content, tmp_path):
    table = tmp_path / "fstab"
    table.write_text(f"{disk} {mnt} fuse.qcowfs {options} 0 0\n")
    by_mount("-T", table, mnt)
    assert read_all(by_mount.top / "disk.raw") == disk_content
    assert os.access(by_mount.top / "disk.raw", os.W_OK) == is_writable


def test_failure_by_mount(by_mount, disk, mnt):
    """The reason is passed on, and so is the failure."""
    disk.write_bytes(disk.read_bytes()[:4] + b"\0\0\0\x63" + disk.read_bytes()[8:])
    result = by_mount("-t", "fuse.qcowfs", disk, mnt, check=False)
    assert result.status != 0
    assert result.errors.startswith(f"qcowfs: {disk}: "), result


def test_privileges_dropped_by_mount(by_mount, disk, mnt, disk_content):
    """mount.fuse3 mounts by itself, and passes on the descriptor."""
    by_mount("-t", "fuse.qcowfs", "-o", "ro,drop_privileges", disk, mnt)
    assert read_all(by_mount.top / "disk.raw") == disk_content
    assert "/dev/fd/" in Path(f"/proc/{by_mount.pid}/cmdline").read_text()


@pytest.mark.parametrize("option", [
    "rw,dev,suid,noauto,user,_netdev,nofail,defaults", "x-systemd.automount,X-mount.mkdir=0755",
    "auto,nouser,users,owner,group,user=somebody", "sync,dirsync,async",
    "relatime,norelatime,strictatime,diratime,nodiratime", "comment=a text",
])
def test_options_of_mount_are_taken(option, disk, mnt, disk_content):
    """Also if no program has sorted them before."""
    before = procs.children()
    procs.run(env.qcowfs(), "-o", option, disk, mnt)
    try:
        assert read_all(mnt / "disk.raw") == disk_content
    finally:
        unmount(mnt)
    for pid in procs.children() - before:
        assert procs.reap(pid) == 0


# ---- a service manager ----------------------------------------------------------------


class Manager:
    """The socket of a service manager, by a path or by an abstract name."""

    def __init__(self, directory, is_abstract):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(20 * env.slow())
        path = f"{directory}/notify"
        self.socket.bind("\0" + path if is_abstract else path)
        self.env = {"NOTIFY_SOCKET": "@" + path if is_abstract else path}

    def receive(self):
        """The next message, as a dict."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())

    def receive_until(self, name):
        while True:
            message = self.receive()
            if name in message:
                return message

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def manager(request, tmp_path):
    with Manager(tmp_path, request.param) as one:
        yield one


@pytest.mark.parametrize("foreground", [True, False])
def test_readiness(foreground, manager, disk, mnt, disk_content):
    before = procs.children()
    process = subprocess.Popen([env.qcowfs(), *(["-f"] if foreground else []), disk, mnt],
                               env=dict(os.environ, **manager.env), stderr=subprocess.DEVNULL)
    message = manager.receive_until("READY")
    assert message["READY"] == "1" and str(mnt) in message["STATUS"]
    if not foreground:
        assert process.wait(20 * env.slow()) == 0
    (pid,) = procs.children() - before
    assert int(message["MAINPID"]) == pid
    assert read_all(mnt / "disk.raw") == disk_content
    os.kill(pid, signal.SIGTERM)
    assert manager.receive() == {"STOPPING": "1"}
    assert (process.wait(10 * env.slow()) if foreground else procs.reap(pid)) == 0


def test_waiting_for_a_writer_is_told(manager, disk, mnt):
    process = subprocess.Popen([env.qcowfs(), "-f", "-o", "rw", disk, mnt],
                               env=dict(os.environ, **manager.env), stderr=subprocess.DEVNULL)
    manager.receive_until("READY")
    fd = os.open(mnt / "disk.raw", os.O_RDWR)
    process.send_signal(signal.SIGTERM)
    assert manager.receive() == {"STOPPING": "1"}
    assert "1 file" in manager.receive()["STATUS"]
    os.close(fd)
    assert process.wait(10 * env.slow()) == 0


def test_a_wrong_image_is_told(manager, disk, mnt):
    """The manager gets the message, too; standard error goes to the journal."""
    disk.write_bytes(disk.read_bytes()[:4] + b"\0\0\0\x63" + disk.read_bytes()[8:])
    result = procs.run(env.qcowfs(), "-f", disk, mnt, env_add=manager.env, check=False)
    assert result.status == 1 and result.errors.count("\n") == 1
    assert f"qcowfs: {manager.receive()['STATUS']}\n" == result.errors


@pytest.mark.parametrize("name", ["", "@", "relative", "/does/not/exist", "x" * 300, "/" + "x" * 300])
def test_a_wrong_socket_is_nothing(name, disk, mnt, disk_content):
    before = procs.children()
    procs.run(env.qcowfs(), disk, mnt, env_add={"NOTIFY_SOCKET": name})
    try:
        assert read_all(mnt / "disk.raw") == disk_content
    finally:
        unmount(mnt)
    for pid in procs.children() - before:
        assert procs.reap(pid) == 0


# ---- the units ------------------------------------------------------------------------


def template_unit():
    return (UNITS / "qcowfs@.service.in").read_text().replace("@bindir@/qcowfs", env.qcowfs())


def test_units_are_well_formed(tmp_path):
    env.need_tools("systemd-analyze")
    (tmp_path / "qcowfs@.service").write_text(template_unit())
    (tmp_path / "srv-disk.mount").write_text((UNITS / "srv-disk.mount").read_text())
    for unit in ("qcowfs@example.service", "srv-disk.mount"):
        result = procs.run("systemd-analyze", "verify", "--man=no", tmp_path / unit, check=False)
        told = [line for line in result.errors.splitlines() if "qcowfs" in line or "srv-" in line]
        assert told == [], result


def test_template_unit(manager, disk, mnt, disk_content, tmp_path):
    """Its command with its settings, as a service manager would run it."""
    other = qemu.make_raw(tmp_path / "other.img", 8192)
    settings = {}
    example = (UNITS / "example.conf").read_text()
    assert re.search(r"^OPTIONS=ro,allow_other$", example, re.M)
    example = re.sub(r'^IMAGES=.*$', f'IMAGES="{disk} {other}"', example, flags=re.M)
    example = re.sub(r"^MOUNTPOINT=.*$", f"MOUNTPOINT={mnt}", example, flags=re.M)
    for word in shlex.split(example, comments=True):
        name, _, value = word.partition("=")
        settings[name] = value
    (command,) = re.findall(r"^ExecStart=(.*)$", template_unit(), re.M)
    argv = []
    for word in command.split():
        if re.fullmatch(r"\$\w+", word):
            argv += settings[word[1:]].split()
        else:
            argv.append(re.sub(r"\$\{(\w+)\}", lambda m: settings[m[1]], word))
    process = subprocess.Popen(argv, env=dict(os.environ, **manager.env),
                               stderr=subprocess.DEVNULL)
    assert int(manager.receive_until("READY")["MAINPID"]) == process.pid
    assert read_all(mnt / "disk.raw") == disk_content
    assert (mnt / "other.raw").stat().st_size == 8192
    process.send_signal(signal.SIGTERM)
    assert process.wait(10 * env.slow()) == 0
    assert not mounts_at(mnt)
