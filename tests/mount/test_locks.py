# SPDX-License-Identifier: GPL-2.0-or-later
"""Image locks shared with QEMU's programs: which excludes which, and the texts of refusals. Spec:
locking, "Who holds what", "What we take"."""

import contextlib
import os
import subprocess

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.mount import Daemon, Mount, refused

MIB = 1 << 20


def is_locked(image):
    """Whether any process has a byte lock on the file."""
    inode = f":{os.stat(image).st_ino} "
    with open("/proc/locks", encoding="ascii") as locks:
        return any(inode in line for line in locks)


@contextlib.contextmanager
def held_by_qemu_nbd(image, tmp_path, *options):
    env.need_tools("qemu-nbd")
    socket = tmp_path / "nbd.sock"
    process = subprocess.Popen([env.find_tool("qemu-nbd"), "-t", "-k", str(socket), *options,
                                str(image)], stdin=subprocess.DEVNULL)
    try:
        # It listens before it has opened, and locked, the image.
        procs.wait_until(lambda: (socket.exists() and is_locked(image)) or
                         process.poll() is not None, "qemu-nbd")
        assert process.poll() is None
        yield process
    finally:
        procs.end_process(process)


WHO = ["lock", ("fuser", "process", "virtual machine"), "nolock"]


def test_writer_is_respected(disk, mnt):
    """A running VM's image is refused, with a way to find the VM and the option that overrides."""
    with qemu.held(disk):
        refused(disk, mnt, file=disk, contains=WHO)


def test_nolock(disk, mnt, disk_content):
    with qemu.held(disk):
        with Mount(disk, mnt, "-o", "nolock") as mount:
            assert read_all(mount.raw(disk)) == disk_content


def test_nolock_takes_no_locks(disk, mnt):
    with Mount(disk, mnt, "-o", "nolock"):
        qemu.io(disk, "write -P 9 0 512")


def test_writer_of_a_backing_file(chain, mnt, chain_content):
    middle = chain.parent / "middle.qcow2"
    with qemu.held(middle):
        refused(chain, mnt, file=chain, contains=["middle.qcow2", *WHO])
    with Mount(chain, mnt) as mount:
        assert read_all(mount.raw(chain)) == chain_content


def test_writer_of_a_raw_backing_file(chain, mnt):
    with qemu.held(chain.parent / "base.img", "-f", "raw"):
        refused(chain, mnt, file=chain, contains=["base.img", *WHO])


def test_writer_of_a_raw_image(tmp_path, mnt):
    raw = qemu.make_raw(tmp_path / "disk.img", MIB, (0, MIB, "words", 1))
    with qemu.held(raw, "-f", "raw"):
        refused(raw, mnt, file=raw, contains=WHO)


def test_writer_of_a_data_file(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data", data_file_raw="on")
    with qemu.held(tmp_path / "disk.data", "-f", "raw"):
        refused(image, mnt, file=image, contains=["disk.data", *WHO])


def test_readers_coexist(disk, mnt, tmp_path, disk_content):
    with qemu.held(disk, "-r"):
        with Mount(disk, mnt) as mount:
            assert read_all(mount.raw(disk)) == disk_content
            assert qemu.to_raw(disk, tmp_path / "copy").read_bytes() == disk_content
            qemu.info_json(disk)


def test_qemu_nbd_read_only_coexists(disk, mnt, tmp_path, disk_content):
    with held_by_qemu_nbd(disk, tmp_path, "--read-only"):
        with Mount(disk, mnt) as mount:
            assert read_all(mount.raw(disk)) == disk_content


def test_qemu_nbd_writing_does_not(disk, mnt, tmp_path):
    with held_by_qemu_nbd(disk, tmp_path):
        refused(disk, mnt, file=disk, contains=WHO)


def test_two_mounts_coexist(disk, mnt, tmp_path, disk_content):
    with Mount(disk, mnt) as one, Daemon(disk, tmp_path / "other") as two:
        assert read_all(one.raw(disk)) == read_all(two.raw(disk)) == disk_content


def test_chain_shared_by_mounts(chain, mnt, tmp_path, chain_content):
    """Two overlays on one base, in one mount and in two."""
    second = qemu.create(chain.parent / "second.qcow2", None, "middle.qcow2", "qcow2")
    with Mount([chain, second], mnt) as one, Mount(second, tmp_path / "other") as two:
        assert read_all(one.raw(chain)) == chain_content
        assert read_all(one.raw(second)) == read_all(two.raw(second))


@pytest.mark.parametrize("kind", [Mount, Daemon])
def test_writers_are_refused_while_mounted(kind, disk, mnt):
    """The locks survive going to the background."""
    before = disk.read_bytes()
    with kind(disk, mnt):
        result = qemu.io(disk, "write -P 9 0 512", check=False)
        assert "lock" in result.text + result.errors, result
        assert disk.read_bytes() == before
        result = qemu.img("resize", disk, str(8 * MIB), check=False)
        assert result.status != 0 and "lock" in result.errors
        result = qemu.img("snapshot", "-c", "x", disk, check=False)
        assert result.status != 0 and "lock" in result.errors
    qemu.io(disk, "write -P 9 0 512")


def test_writers_of_the_chain_are_refused_while_mounted(chain, mnt):
    with Mount(chain, mnt):
        for name, options in (("middle.qcow2", ()), ("base.img", ("-f", "raw"))):
            result = qemu.io(chain.parent / name, "write -P 9 0 512", options=options, check=False)
            assert "lock" in result.text + result.errors, result
        # A new overlay on the same base may be written: the base is only read.
        other = qemu.create(chain.parent / "other.qcow2", None, "middle.qcow2", "qcow2")
        qemu.io(other, "write -P 9 0 512")


def test_data_file_is_locked_while_mounted(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data", data_file_raw="on")
    with Mount(image, mnt):
        result = qemu.io(tmp_path / "disk.data", "write -P 9 0 512", options=("-f", "raw"),
                         check=False)
        assert "lock" in result.text + result.errors, result


def test_refusal_leaves_nothing_locked(chain, mnt):
    """The top image is locked before its backing file turns out to be in use."""
    with qemu.held(chain.parent / "middle.qcow2"):
        refused(chain, mnt, file=chain)
        # The overlay itself is free again (-U would hide a lock that stayed).
        with open(f"/proc/{os.getpid()}/mountinfo", encoding="utf-8") as file:
            assert str(mnt) not in file.read()
    qemu.io(chain, "write -P 9 0 512")


def test_qimg_respects_writers(disk):
    with qemu.held(disk):
        result = procs.run(env.qimg(), "map", "--output=json", disk, check=False)
        assert result.status != 0 and "lock" in result.errors and result.errors.count("\n") == 1
