# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg copy-out while files or devices change under it, or are in use: a source that is cut, a
device with two names, a log that finds no room."""

import contextlib
import os
import stat
import subprocess

import pytest

from qtest import env, loop, procs, qemu
from qtest.qcow2 import Qcow2File
from qtest.writing import small_tmpfs

MIB = 1 << 20


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    image = qemu.create(folder / "disk.qcow2", 16 * MIB)
    qemu.write(image, (0, 16 * MIB, "words", 1))
    return image


@contextlib.contextmanager
def streaming(image, *options):
    """A copy to a pipe that waits for its reader: only the first MiB is through."""
    process = subprocess.Popen([env.qimg(), "copy-out", *options, "--hash=md5", image, "-"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        assert len(process.stdout.read1(1)) == 1
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def assert_failed(process, *texts):
    errors = process.communicate()[1].decode()
    assert process.returncode == 1 and "MD5" not in errors, errors
    assert errors.startswith("qimg: ") and errors.count("\n") == 1, errors
    for text in texts:
        assert text in errors, errors


@pytest.mark.parametrize("options", [[], ["-o", "nolock"]], ids=["locked", "nolock"])
def test_source_cut_meanwhile(options, image):
    """A missing part is an error: no zeros, and no digest."""
    with streaming(image, *options) as process:
        os.truncate(image, 6 * MIB)
        assert_failed(process, str(image))


def test_base_cut_meanwhile(tmp_path):
    base = qemu.make_raw(tmp_path / "base.img", 16 * MIB, (0, 16 * MIB, "words", 1))
    image = qemu.create(tmp_path / "disk.qcow2", 16 * MIB, "base.img", "raw")
    with streaming(image) as process:
        os.truncate(base, 6 * MIB)
        assert_failed(process, str(base))


def test_data_file_cut_meanwhile(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", 16 * MIB, data_file=tmp_path / "disk.data")
    qemu.write(image, (0, 16 * MIB, "words", 1))
    with streaming(image) as process:
        os.truncate(tmp_path / "disk.data", 6 * MIB)
        assert_failed(process, "disk.data")


@contextlib.contextmanager
def second_node(device, path):
    """Another node of the same device."""
    os.mknod(path, stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        pytest.skip("device nodes cannot be opened here")
    os.close(fd)
    yield path


@pytest.mark.parametrize("options", [[], ["--force"], ["--resume"]], ids=["plain", "force", "resume"])
def test_two_nodes_of_one_device(options, tmp_path):
    """Source and OUT are one device with different names: nothing is written to it."""
    loop.need_loop_devices()
    path = qemu.make_raw(tmp_path / "disk.img", 4 * MIB, (0, 4 * MIB, "words", 3))
    before = path.read_bytes()
    with loop.attached(path) as device:
        with second_node(device, tmp_path / "node") as node:
            for source, out in ((device, node), (node, device), (node, node)):
                result = procs.run(env.qimg(), "copy-out", *options, "-o", "format=raw", source, out,
                                   check=False)
                assert result.status == 1 and result.errors.count("\n") == 1, result
                assert "is the image itself or one of its chain" in result.errors, result
    assert path.read_bytes() == before


def test_log_finds_no_room(image, tmp_path):
    """The log must not lose unreadable ranges."""
    env.need_root("mounts a small file system")
    with Qcow2File(image) as file:
        for cluster in range(1, 256, 2):
            file.set_l2_entry(cluster * 65536, 1 << 45 | 1 << 63)
    out = tmp_path / "out.raw"
    with small_tmpfs(tmp_path / "small", "64k") as small:
        (small / "full").write_bytes(bytes(60 << 10))
        log = small / "log"
        result = procs.run(env.qimg(), "copy-out", "--rescue", f"--log={log}", "--hash=md5", image, out,
                           check=False)
        assert result.status == 1 and "No space left on device" in result.errors, result
        assert str(log) in result.errors and "MD5" not in result.text + result.errors, result
