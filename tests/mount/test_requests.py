# SPDX-License-Identifier: GPL-2.0-or-later
"""The number and size of requests that reach the server: the basis of a mount's speed, as counts
that do not depend on the machine."""

import mmap
import os
from pathlib import Path

import pytest

from qtest import env, extents, procs, qemu
from qtest.checks import read_all
from qtest.mount import Mount
from qtest.trace import Answers

MIB = 1 << 20


@pytest.fixture
def big(tmp_path):
    image = qemu.create(tmp_path / "big.qcow2", 16 * MIB)
    qemu.write(image, (0, 16 * MIB, "words", 1))
    return image


@pytest.mark.parametrize("cluster", [512, 65536])
def test_direct_reads_of_a_mib_arrive_whole(cluster, tmp_path, mnt):
    image = qemu.create(tmp_path / "big.qcow2", 8 * MIB, cluster_size=cluster)
    qemu.write(image, (0, 8 * MIB, "words", 1))
    with Mount(image, mnt) as mount:
        with Answers(mount.pid, tmp_path / "trace") as answers:
            content = read_all(mount.raw(image), os.O_DIRECT, chunk=MIB)
        assert len(content) == 8 * MIB
        assert answers.data == [MIB] * 8


def test_larger_direct_reads_are_cut_into_mibs(big, mnt, tmp_path):
    with Mount(big, mnt) as mount:
        with Answers(mount.pid, tmp_path / "trace") as answers:
            read_all(mount.raw(big), os.O_DIRECT, chunk=8 * MIB)
        assert set(answers.data) == {MIB} and len(answers.data) == 16


@pytest.mark.parametrize("how", ["read", "mmap"])
def test_cached_file_sends_no_request(how, big, mnt, tmp_path):
    """The page cache outlives the open file. Linux 6.18 loses a few pages of one in a hundred
    files (of every FUSE server's): one of several tries must do without."""
    sent = []
    with Mount(big, mnt) as mount:
        first = read_all(mount.raw(big))
        while len(sent) < 5 and 0 not in sent:
            with Answers(mount.pid, tmp_path / "trace") as answers:
                if how == "read":
                    again = read_all(mount.raw(big))
                else:
                    with open(mount.raw(big), "rb") as file:
                        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                            again = mapped[:]
            assert again == first
            sent.append(sum(answers.data))
    assert 0 in sent and max(sent) < MIB, f"bytes sent again: {sent}"


def read_ahead_knob(mnt):
    """The kernel's setting for the mount; skips where it cannot be changed."""
    env.need_root("read_ahead_kb")
    device = os.stat(mnt).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if not knob.exists() or not os.access(knob, os.W_OK):
        pytest.skip("no such file in /sys")
    return knob


def test_buffered_reading_uses_a_raised_read_ahead(big, mnt, tmp_path):
    with Mount(big, mnt) as mount:
        knob = read_ahead_knob(mnt)
        procs.wait_until(lambda: int(knob.read_text()) == 1024, "a longer read-ahead", 5)
        with Answers(mount.pid, tmp_path / "trace") as answers:
            with open(mount.raw(big), "rb", buffering=0) as file:
                while file.read(128 * 1024):
                    pass
        assert sum(answers.data) == 16 * MIB, "each byte once"
        assert answers.data.count(MIB) >= 14, answers.data


def test_no_long_read_ahead_into_holes(tmp_path, mnt):
    """Stretches of data shorter than the read-ahead, as far as sampled."""
    image = qemu.create(tmp_path / "disk.qcow2", 256 * MIB)
    qemu.write(image, *[(at, 65536, "words", 1) for at in range(0, 256 * MIB, 512 * 1024)])
    with Mount(image, mnt) as mount:
        knob = read_ahead_knob(mnt)
        before = int(knob.read_text())
        read_all(mount.raw(image))
        assert int(knob.read_text()) == before == 128


def test_max_read(big, mnt, tmp_path):
    with Mount(big, mnt, "-o", "max_read=131072") as mount:
        with Answers(mount.pid, tmp_path / "trace") as answers:
            read_all(mount.raw(big), os.O_DIRECT)
        assert max(answers.data) == 131072


@pytest.mark.parametrize("copy", [
    lambda src, dst: procs.run("cp", "--sparse=always", src, dst),
    lambda src, dst: qemu.img("convert", "-f", "raw", "-O", "raw", src, dst),
], ids=["cp", "qemu-img"])
def test_holes_are_not_read(copy, tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", 1 << 30)
    places = [n * (64 * MIB) + 65536 for n in range(16)]
    qemu.write(image, *[(at, 65536, "words", 1) for at in places])
    with Mount(image, mnt) as mount:
        with Answers(mount.pid, tmp_path / "trace") as answers:
            copy(mount.raw(image), tmp_path / "copy")
        assert extents.seek_data(tmp_path / "copy")
    # Read-ahead may reach over the end of each run, but not through the disk.
    assert sum(answers.data) <= 16 * (65536 + 2 * MIB), f"{sum(answers.data) >> 20} MiB read"


def test_attributes_are_cached(disk, mnt, tmp_path):
    """Nothing changes in a read-only mount: a hundred stats cause a few requests at most."""
    with Mount(disk, mnt) as mount:
        os.stat(mount.raw(disk))
        with Answers(mount.pid, tmp_path / "trace") as answers:
            for _ in range(100):
                os.stat(mount.raw(disk))
        assert len(answers.sizes) <= 4
