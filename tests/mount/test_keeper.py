# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper: the process that stores pending entries when the server dies, so that writes need
not wait for the disk."""
import errno
import os
import signal
import subprocess

import pytest

from qtest import env, procs, qemu
from qtest.mount import Mount, unmount

KIB = 1 << 10
MIB = 1 << 20
SIZE = 16 * MIB
N_WRITES = 200


@pytest.fixture(name="overlay", params=["qcow2", "extended", "qed", "snapshot", "compressed"])
def overlay_fixture(request, tmp_path):
    """An image in which each write replaces data, and its content."""
    content = bytes(range(256)) * (SIZE // 256)
    (tmp_path / "base.raw").write_bytes(content)
    path = tmp_path / ("top.qed" if request.param == "qed" else "top.qcow2")
    if request.param in ("snapshot", "compressed"):
        qemu.img("convert", *["-c"] * (request.param == "compressed"), "-f", "raw", "-O", "qcow2",
                 tmp_path / "base.raw", path)
        if request.param == "snapshot":
            qemu.img("snapshot", "-c", "before", path)
    else:
        options = ["-o", "extended_l2=on"] if request.param == "extended" else []
        qemu.img("create", "-q", "-f", path.suffix[1:], *options, "-b", "base.raw", "-F", "raw", path)
    return path, bytearray(content)


def keepers(mount):
    return [pid for pid in procs.children(mount.pid) if procs.name(pid) == "qimg-keeper"]


def the_keeper(mount):
    """Its pid, once it has its name: the mount does not wait for that."""
    (keeper,) = procs.wait_until(lambda: keepers(mount), "the keeper")
    return keeper


def write_some(mount, path, content, rng, n=N_WRITES):
    """Writes in many clusters, without a sync; @content is updated, too."""
    fd = os.open(mount.raw(path), os.O_WRONLY)
    try:
        for _ in range(n):
            offset = rng.randrange(0, SIZE - 4 * KIB, 512)
            data = rng.randbytes(rng.choice((512, 4 * KIB)))
            assert os.pwrite(fd, data, offset) == len(data)
            content[offset:offset + len(data)] = data
    finally:
        os.close(fd)


def check(path, content):
    """The image is sound except for leaks, and has its content."""
    assert qemu.img("check", "-q", path, check=False).status in (0, 3)
    raw = path.with_suffix(".check")
    qemu.to_raw(path, raw)
    assert raw.read_bytes() == content


def test_the_server_is_killed(overlay, mnt, rng):
    """All writes are there, though nothing was synced, as soon as the mount is gone."""
    path, content = overlay
    with Mount(path, mnt, "-o", "rw") as mount:
        keeper = the_keeper(mount)
        write_some(mount, path, content, rng)
        mount.kill()
    assert not procs.is_running(keeper)
    with pytest.raises(OSError) as error:
        os.listdir(mnt)
    assert error.value.errno == errno.ENOTCONN
    unmount(mnt, lazy=True)
    check(path, content)


def test_the_keeper_is_killed(overlay, mnt, rng):
    """One line says so, and nothing else changes for writers; then the server dies."""
    path, content = overlay
    with Mount(path, mnt, "-o", "rw") as mount:
        write_some(mount, path, content, rng, N_WRITES // 2)
        os.kill(the_keeper(mount), signal.SIGKILL)
        procs.wait_until(lambda: "has ended" in mount.stderr(), "the message")
        write_some(mount, path, content, rng, N_WRITES // 2)
        with open(mount.raw(path), "r+b") as file:      # earlier entries are settled by then
            os.fsync(file.fileno())
        write_some(mount, path, content, rng, 20)
        mount.kill()
        assert mount.stderr().count("has ended") == 1
    unmount(mnt, lazy=True)
    check(path, content)


def test_signals_do_not_end_it(overlay, mnt, rng):
    """^C goes to a whole group of processes: the keeper is the last to leave."""
    path, content = overlay
    with Mount(path, mnt, "-o", "rw") as mount:
        keeper = the_keeper(mount)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(keeper, number)
        write_some(mount, path, content, rng)
        assert keepers(mount) == [keeper]
        mount.terminate(signal.SIGTERM)
    assert not procs.is_running(keeper)
    check(path, content)
    assert qemu.img("check", "-q", path, check=False).status == 0


def test_who_needs_none(overlay, mnt):
    """Mounts that write nothing, or only temporary data."""
    path, _ = overlay
    for options in ([], ["-o", "cow"]):
        with Mount(path, mnt, *options) as mount:
            assert keepers(mount) == []


def is_traced(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return any(line.startswith("TracerPid") and int(line.split()[1]) for line in file)


def count_syncs(log):
    return sum("fdatasync(" in line for line in log.read_text().splitlines())


def test_writes_do_not_sync(overlay, mnt, rng, tmp_path):
    """Hundreds of writes that replace data wait for no sync of theirs."""
    if env.sanitizer():
        pytest.skip("strace and sanitizers do not go together")
    env.need_tools("strace")
    path, content = overlay
    log = tmp_path / "strace"
    with Mount(path, mnt, "-o", "rw") as mount:
        write_some(mount, path, content, rng, 10)       # the first one does sync
        with subprocess.Popen(["strace", "-f", "-qq", "-o", log, "-e", "trace=fdatasync,fsync",
                               "-p", str(mount.pid)], stderr=subprocess.DEVNULL) as strace:
            procs.wait_until(lambda: is_traced(mount.pid), "strace")
            write_some(mount, path, content, rng)
            strace.send_signal(signal.SIGINT)
            strace.wait()
    assert count_syncs(log) < N_WRITES // 4
    check(path, content)
