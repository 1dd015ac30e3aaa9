# SPDX-License-Identifier: GPL-2.0-or-later
"""The raw file below loop devices: partitions, file systems made by the host's tools, and the rule
for file systems with an unreplayed journal."""

import os
import shutil

import pytest

from qtest import env, loop, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount

MIB = 1 << 20


@pytest.fixture(autouse=True)
def needs_loop_devices():
    loop.need_loop_devices()


def partitioned(directory, rng, label):
    """A raw disk with two ext4 partitions, made without mounting anything: (path, [files])."""
    env.need_tools("sfdisk", "mke2fs")
    disk = qemu.make_raw(directory / "disk.raw.tmp", 40 * MIB)
    procs.run("sfdisk", "-q", disk, stdin=(f"label: {label}\n"
                                           "start=2048, size=32768, type=L\n"
                                           "start=36864, size=32768, type=L\n").encode())
    contents = []
    for number, start in enumerate((2048, 36864)):
        source = directory / f"source{number}"
        source.mkdir()
        contents.append(loop.fill(source, rng))
        procs.run("mke2fs", "-q", "-t", "ext4", "-d", source, "-E", f"offset={start * 512}", disk,
                  "16M")
    return disk, contents


@pytest.mark.parametrize("label", ["gpt", "dos"])
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=512"],
                                     ["-o", "extended_l2=on,cluster_size=128k"]],
                         ids=["plain", "compressed", "cs512", "el2"])
@pytest.mark.parametrize("direct", ["on", "off"])
def test_partitions(label, options, direct, tmp_path, mnt, rng):
    loop.need_filesystem("ext4", "mke2fs")
    raw, contents = partitioned(tmp_path, rng, label)
    images = tmp_path / "images"
    images.mkdir()
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", *options, raw, image)
    with Unchanged(images), Mount(image, mnt) as mount:
        with loop.attached(mount.raw(image), "-P", "-r", f"--direct-io={direct}") as device:
            state = procs.run("losetup", "-n", "-O", "RO,DIO,SIZELIMIT", device).text.split()
            assert state[0] == "1" and state[1] == ("1" if direct == "on" else "0")
            assert int(procs.run("blockdev", "--getsize64", device).text) == 40 * MIB
            for number, files in enumerate(contents, 1):
                node = loop.partition(device, number)
                with loop.mounted(node, tmp_path / f"p{number}", "ro") as top:
                    loop.assert_files(top, files)
            assert read_all(device, os.O_DIRECT) == raw.read_bytes()


def test_chain_below_a_loop_device(tmp_path, mnt, rng):
    """The file system spread over a base and two overlays that QEMU has written."""
    loop.need_filesystem("ext4", "mke2fs", "debugfs")
    source = tmp_path / "source"
    source.mkdir()
    files = loop.fill(source, rng)
    images = tmp_path / "images"
    images.mkdir()
    base = qemu.make_raw(images / "base.img", 16 * MIB)
    procs.run("mke2fs", "-q", "-t", "ext4", "-d", source, base, "16M")
    after = tmp_path / "after.img"
    shutil.copy(base, after)
    added = rng.randbytes(300_000)
    (tmp_path / "added").write_bytes(added)
    procs.run("debugfs", "-w", "-R", f"write {tmp_path}/added added", after)
    removed = next(iter(files))
    procs.run("debugfs", "-w", "-R", f'rm "{removed}"', after)
    middle = qemu.create(images / "middle.qcow2", 16 * MIB, "base.img", "raw")
    top = qemu.create(images / "top.qcow2", 16 * MIB, "middle.qcow2", "qcow2")
    old, new = base.read_bytes(), after.read_bytes()
    changed = [at for at in range(0, len(old), 4096) if old[at:at + 4096] != new[at:at + 4096]]
    assert len(changed) > 10
    # The middle first: its old bytes, copied by QEMU around a write to the top, must be final.
    for image, places in ((middle, changed[1::2]), (top, changed[::2])):
        for at in places:
            (images / "piece").write_bytes(new[at:at + 4096])
            qemu.io(image, f"write -s piece {at} 4096")
    (images / "piece").unlink()
    del files[removed]
    files["added"] = added
    with Mount(top, mnt) as mount:
        assert read_all(mount.raw(top)) == new
        with loop.attached(mount.raw(top), "-r", "--direct-io=on") as device:
            with loop.mounted(device, tmp_path / "fs", "ro", kind="ext4") as there:
                loop.assert_files(there, files)


def test_device_is_read_only(disk, mnt):
    with Mount(disk, mnt) as mount:
        with loop.attached(mount.raw(disk)) as device:
            assert procs.run("blockdev", "--getro", device).text.strip() == "1"
            with pytest.raises(OSError):
                fd = os.open(device, os.O_RDWR)
                try:
                    os.pwrite(fd, bytes(512), 0)
                    os.fsync(fd)
                finally:
                    os.close(fd)


def test_snapshot_below_a_loop_device(tmp_path, mnt, rng):
    loop.need_filesystem("ext4", "mke2fs")
    source = tmp_path / "source"
    source.mkdir()
    files = loop.fill(source, rng)
    raw = qemu.make_raw(tmp_path / "raw", 16 * MIB)
    procs.run("mke2fs", "-q", "-t", "ext4", "-d", source, raw, "16M")
    image = tmp_path / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    qemu.img("snapshot", "-c", "before", image)
    qemu.io(image, f"write -z 0 {16 * MIB}")
    with Mount(image, mnt) as mount:
        path = mount.snapshots(image) / "before" / "disk.raw"
        with loop.attached(path, "-r") as device, loop.mounted(device, tmp_path / "fs", "ro") as top:
            loop.assert_files(top, files)


# ---- the journal rule -----------------------------------------------------------------


@pytest.mark.parametrize("kind,rule", [("ext4", "noload"), ("xfs", "norecovery")])
def test_journal_rule(kind, rule, tmp_path, mnt, rng):
    """`ro` alone tries to replay the journal and cannot; with the rule it mounts."""
    loop.need_filesystem(kind, "mke2fs" if kind == "ext4" else "mkfs.xfs")
    raw, files = loop.dirty_copy(tmp_path, kind, rng)
    images = tmp_path / "images"
    images.mkdir()
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    with Unchanged(images), Mount(image, mnt) as mount:
        with loop.attached(mount.raw(image), "-r", "--direct-io=on") as device:
            with pytest.raises(AssertionError, match="mount"):
                with loop.mounted(device, tmp_path / "plain", "ro", kind=kind):
                    pass
            with loop.mounted(device, tmp_path / "ruled", "ro", rule, kind=kind) as top:
                for name, data in files.items():
                    assert (top / name).read_bytes() == data
