# SPDX-License-Identifier: GPL-2.0-or-later
"""Loop devices and the file systems on them, set up and always taken down again."""

import contextlib
import os
from pathlib import Path

import pytest

from . import env, procs, qemu

MIB = 1 << 20


def need_loop_devices():
    env.need_root("loop devices and mounts")
    env.need_tools("losetup", "mount", "umount")
    if not Path("/dev/loop-control").exists():
        pytest.skip("no loop devices here")


def need_filesystem(name, *tools):
    """Skips unless the kernel has the file system and the tools can make it."""
    env.need_tools(*tools)
    if env.find_tool("modprobe"):
        procs.run("modprobe", "-q", name, check=False)
    known = Path("/proc/filesystems").read_text().split()
    if name not in known:
        pytest.skip(f"the kernel has no {name}")


@contextlib.contextmanager
def attached(path, *options):
    """The loop device of a file, detached for sure when the block ends."""
    device = procs.run("losetup", "--find", "--show", *options, path).text.strip()
    try:
        yield Path(device)
    finally:
        if env.find_tool("partx"):
            procs.run("partx", "-d", device, check=False)
        procs.run("losetup", "-d", device, check=False)
        procs.wait_until(lambda: not _backing_file(device), f"{device} to detach", 10)


def _backing_file(device):
    try:
        return Path(f"/sys/block/{Path(device).name}/loop/backing_file").read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def mounted(device, point, *options, kind=None):
    """A file system of the host's kernel. Unmounted for sure when the block ends."""
    point = Path(point)
    point.mkdir(exist_ok=True)
    argv = ["mount"] + (["-t", kind] if kind else [])
    if options:
        argv += ["-o", ",".join(options)]
    procs.run(*argv, device, point)
    try:
        yield point
    finally:
        result = procs.run("umount", point, check=False)
        if result.status:
            procs.run("umount", "-l", point, check=False)
        assert result.status == 0, result


def partition(device, number):
    """The device node of a partition. Some kernels are built without any partition table: there
    partx reads the table, from the same device, and reports it to the kernel."""
    node = Path(f"{device}p{number}")
    try:
        procs.wait_until(node.exists, f"{node}", 0.2)
    except AssertionError:
        env.need_tools("partx")
        procs.run("partx", "-a", device)
        try:
            procs.wait_until(node.exists, f"{node}", 5)
        except AssertionError:
            pytest.skip(f"{node} does not appear: /dev is not managed here")
    return node


def fill(directory, rng, n_files=30):
    """Files of many sizes for making a file system; returns {name: bytes}."""
    out = {}
    for number in range(n_files):
        name = f"dir{number % 4}/file-{number:02} äöü"
        data = rng.randbytes(rng.choice([0, 1, 100, 4096, 50_000, 200_000]))
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
        out[name] = data
    return out


def assert_files(top, wanted):
    found = {os.path.relpath(os.path.join(folder, name), top)
             for folder, _, names in os.walk(top) if "lost+found" not in folder for name in names}
    assert found == set(wanted)
    for name, data in wanted.items():
        assert (Path(top) / name).read_bytes() == data, name


def dirty_copy(directory, kind, rng):
    """A raw disk as of a moment while the file system is in use: only its journal has some
    changes. Returns (path, files that were synced before)."""
    size, make = {"ext4": (24 * MIB, ["mke2fs", "-q", "-t", "ext4", "-J", "size=4"]),
                  "xfs": (320 * MIB, ["mkfs.xfs", "-q", "-f"])}[kind]
    live = qemu.make_raw(directory / "live.img", size)
    procs.run(*make, live)
    with attached(live) as device:
        with mounted(device, directory / "live", kind=kind) as top:
            files = fill(top, rng, 10)
        # Unmounted once: these files need no journal, and must be visible without it.
        stack = contextlib.ExitStack()
        top = stack.enter_context(mounted(device, directory / "live", kind=kind))
        with stack:
            for number in range(20):        # in the journal, not in place
                file = stack.enter_context(open(top / f"late{number}", "wb"))
                file.write(b"x" * 100)
                file.flush()
                os.fsync(file.fileno())
            procs.run("cp", "--sparse=always", live, directory / "dirty.img")
    return directory / "dirty.img", files
