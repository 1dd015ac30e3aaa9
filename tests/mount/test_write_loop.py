# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems of the kernel on loop devices above a writable disk: made, worked on, trimmed,
checked; and journals replayed into an overlay."""

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from qtest import env, loop, procs, qemu
from qtest.evidence import Unchanged
from qtest.fsload import Load, run_together
from qtest.mount import Mount
from qtest.real_disk import directory_on_a_disk
from qtest.writing import allocated_bytes, check

MIB = 1 << 20
MAKE = {"ext4": ["mke2fs", "-q", "-t", "ext4", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
CHECK = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}
SIZE = {"ext4": 64 * MIB, "xfs": 320 * MIB}


@pytest.fixture(autouse=True)
def needs_loop_devices():
    loop.need_loop_devices()


def need(kind):
    loop.need_filesystem(kind, MAKE[kind][0], CHECK[kind][0])


@pytest.mark.limit(240)
@pytest.mark.parametrize("direct", ["on", "off"])
@pytest.mark.parametrize("options", ["qcow2", "4k", "el2", "raw", "chain", "cow"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_file_system(kind, options, direct, tmp_path, mnt, rng):
    need(kind)
    if kind == "xfs" and options in ("4k", "chain"):
        pytest.skip("as with ext4")
    path, mount_option = make_image(tmp_path, options, SIZE[kind])
    n_steps = 40 if env.sanitizer() else 200
    with Mount(path, mnt, "-o", mount_option) as mount:
        with loop.attached(mount.raw(path), f"--direct-io={direct}") as device:
            state = procs.run("losetup", "-n", "-O", "RO,DIO", device).text.split()
            assert state == ["0", "1" if direct == "on" else "0"]
            procs.run(*MAKE[kind], device)
            with loop.mounted(device, tmp_path / "fs", kind=kind) as top:
                loads = [Load(top, f"load{n}", type(rng)(rng.getrandbits(32))).start()
                         for n in range(3)]
                run_together(loads, n_steps)
                for load in loads:
                    load.verify()
                procs.run("fstrim", top)
                run_together(loads, n_steps // 2)
            procs.run(*CHECK[kind], device)
            # Reread from the device, bypassing every cache of the kernel.
            procs.run("blockdev", "--flushbufs", device)
            with loop.mounted(device, tmp_path / "fs", kind=kind) as top:
                for load in loads:
                    load.verify(top)
    if options != "raw":
        check(path)
    if options != "cow":
        with Mount(path, mnt) as mount, loop.attached(mount.raw(path), "-r") as device:
            procs.run(*CHECK[kind], device)
            with loop.mounted(device, tmp_path / "fs", "ro", kind=kind) as top:
                for load in loads:
                    load.verify(top)


def make_image(folder, options, size):
    """(path, mount option)"""
    if options == "raw":
        return qemu.make_raw(folder / "disk.img", size), "rw"
    if options == "chain":
        qemu.make_raw(folder / "base.img", size, (0, MIB, "noise", 1))
        return qemu.create(folder / "disk.qcow2", None, "base.img", "raw"), "rw"
    path = qemu.create(folder / "disk.qcow2", size, **{
        "4k": {"cluster_size": 4096}, "el2": {"extended_l2": "on", "cluster_size": "128k"},
    }.get(options, {}))
    return path, "cow" if options == "cow" else "rw"


@pytest.mark.parametrize("direct", ["on", "off"])
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_trim_gives_space_back(image_format, direct, tmp_path, mnt, rng):
    need("ext4")
    if image_format == "raw":
        path = qemu.make_raw(tmp_path / "disk.img", 128 * MIB)
    else:
        path = qemu.create(tmp_path / "disk.qcow2", 128 * MIB)
    with Mount(path, mnt, "-o", "rw") as mount:
        with loop.attached(mount.raw(path), f"--direct-io={direct}") as device:
            procs.run(*MAKE["ext4"], device)
            with loop.mounted(device, tmp_path / "fs") as top:
                (top / "large").write_bytes(rng.randbytes(48 * MIB))
                (top / "small").write_bytes(b"stays")
                procs.run("sync", "-f", top)
                full = allocated_bytes(path)
                (top / "large").unlink()
                procs.run("sync", "-f", top)
                procs.run("fstrim", top)
                procs.run("sync", device)       # freed at the next flush
                assert full - allocated_bytes(path) > 40 * MIB
                assert (top / "small").read_bytes() == b"stays"
            procs.run(*CHECK["ext4"], device)
    if image_format == "qcow2":
        check(path)


def test_sync_reaches_the_image(tmp_path, mnt, rng):
    """Data synced through the loop device are in the image, also for QEMU's readers."""
    need("ext4")
    path = qemu.create(tmp_path / "disk.qcow2", 32 * MIB)
    with Mount(path, mnt, "-o", "rw") as mount:
        with loop.attached(mount.raw(path), "--direct-io=on") as device:
            procs.run(*MAKE["ext4"], device)
            with loop.mounted(device, tmp_path / "fs") as top:
                data = rng.randbytes(300_000)
                (top / "file").write_bytes(data)
                procs.run("sync", "-f", top)
                before = procs.run("cp", path, tmp_path / "copy.qcow2")
                assert before.status == 0
    qemu.to_raw(tmp_path / "copy.qcow2", tmp_path / "copy.raw")
    with loop.attached(tmp_path / "copy.raw") as device:
        with loop.mounted(device, tmp_path / "fs") as top:
            assert (top / "file").read_bytes() == data


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_journal_is_played_back_into_an_overlay(kind, tmp_path, mnt, rng):
    """A plain mount: the replay writes to the overlay, and no byte of the image changes."""
    need(kind)
    raw, files = loop.dirty_copy(tmp_path, kind, rng)
    images = tmp_path / "images"
    images.mkdir()
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    with Unchanged(images), Mount(image, mnt, "-o", "cow") as mount:
        with loop.attached(mount.raw(image), "--direct-io=on") as device:
            with loop.mounted(device, tmp_path / "fs", kind=kind) as top:
                for name, data in files.items():
                    assert (top / name).read_bytes() == data
                for number in range(20):        # these were only in the journal
                    assert (top / f"late{number}").read_bytes() == b"x" * 100
                (top / "new").write_bytes(rng.randbytes(100_000))
            procs.run(*CHECK[kind], device)


def test_device_that_is_dropped(tmp_path, mnt, rng):
    """A signal ends the mount below a file system that is still mounted, as in a failing shutdown:
    the image stays clean, and synced data are there."""
    need("ext4")
    path = qemu.create(tmp_path / "disk.qcow2", 32 * MIB)
    data = rng.randbytes(300_000)
    with Mount(path, mnt, "-o", "rw") as mount:
        with loop.attached(mount.raw(path)) as device:
            procs.run(*MAKE["ext4"], device)
            with loop.mounted(device, tmp_path / "fs") as top:
                (top / "file").write_bytes(data)
                procs.run("sync", "-f", top)
                os.kill(mount.pid, signal.SIGTERM)      # which waits for the device
                procs.wait_until(lambda: "open for writing" in mount.stderr(), "the wait")
                (top / "file2").write_bytes(data)
                procs.run("sync", "-f", top)
                mount.terminate()
    check(path)
    with Mount(path, mnt, "-o", "cow") as mount, loop.attached(mount.raw(path)) as device:
        with loop.mounted(device, tmp_path / "fs") as top:
            assert (top / "file").read_bytes() == data
            assert (top / "file2").read_bytes() == data


def memory_group():
    """(directory of this process's control group with a memory controller, name of the file that
    limits it), of either version."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        for _, top, kind, options, *_ in mounts:
            here = Path(top) / group.strip("/")
            if kind == "cgroup2" and not controllers and \
                    "memory" in (here / "cgroup.subtree_control").read_text().split():
                return here, "memory.max"
            if kind == "cgroup" and "memory" in controllers.split(",") and \
                    "memory" in options.split(","):
                return here, "memory.limit_in_bytes"
    return pytest.skip("no control group with a memory controller")


def may_be_io_flusher():
    CAP_SYS_RESOURCE = 24
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^CapEff:\s*(\w+)", status, re.M)[1], 16) >> CAP_SYS_RESOURCE & 1


@contextlib.contextmanager
def memory_limit(n_bytes):
    """A control group below our own, whose processes share @n_bytes; yields the command line that
    starts a program in it."""
    parent, limit = memory_group()
    group = parent / f"qcowfs-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        (group / limit).write_text(str(n_bytes))
        yield "sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$@"', "sh"
    finally:
        procs.wait_until(lambda: _is_removed(group), "the control group to be empty")


def _is_removed(group):
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.limit(240)
@pytest.mark.parametrize("direct", ["on", "off"])
def test_short_of_memory(direct, tmp_path, mnt):
    """Server and writer in a group with less memory than the written data: writing back through
    the loop device must not wait for itself."""
    need("ext4")
    if env.sanitizer():
        pytest.skip("a sanitizer needs the memory itself")
    if not may_be_io_flusher():
        pytest.skip("no CAP_SYS_RESOURCE: a server that is no I/O flusher may hang for good")
    # Pages of a tmpfs would count toward the limit, and cannot be written back.
    with memory_limit(64 * MIB) as limited, directory_on_a_disk() as folder:
        path = qemu.create(folder / "disk.qcow2", 512 * MIB)
        with Mount(path, mnt, "-o", "rw,l2_cache=1M", wrapper=limited) as mount:
            with loop.attached(mount.raw(path), f"--direct-io={direct}") as device:
                procs.run(*MAKE["ext4"], device)
                with loop.mounted(device, tmp_path / "fs") as top:
                    procs.run(*limited, "dd", "if=/dev/urandom", f"of={top}/file", "bs=1M",
                              "count=200", "conv=fsync", limit_s=120)
                    first = procs.run("sha256sum", top / "file", limit_s=60).text
                procs.run(*CHECK["ext4"], device)
                with loop.mounted(device, tmp_path / "fs") as top:
                    assert procs.run("sha256sum", top / "file", limit_s=60).text == first
        check(path)
