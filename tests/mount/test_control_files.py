# SPDX-License-Identifier: GPL-2.0-or-later
"""The files below .qcowfs and the like: generated while they are read, in little memory, with
their true size if it can be known."""

import json
import os
import subprocess
import threading

import pytest

from qtest import env, qemu
from qtest.mount import Mount
from qtest.qcow2 import Qcow2File

MIB = 1 << 20
N_MANY = 65535


def add_snapshots(image, count):
    """@count snapshots with names long enough to show in the memory usage."""
    qemu.img("snapshot", "-c", "first", image.name, cwd=image.parent)
    with Qcow2File(image) as file:
        entry = file.snapshots()[0]
        file.write_snapshots([{**entry, "id": b"%d" % (number + 1),
                               "name": b"snapshot number %d" % number}
                              for number in range(count)])
    return image


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    image = qemu.create(tmp_path_factory.mktemp("many") / "disk.qcow2", MIB, cluster_size=4096)
    return add_snapshots(image, N_MANY)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    image = qemu.create(tmp_path_factory.mktemp("few") / "disk.qcow2", MIB, cluster_size=4096)
    return add_snapshots(image, 3)


def peak_bytes(mount):
    with open(f"/proc/{mount.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def control_files(mount):
    return [path for path in mount.mountpoint.rglob("*.json")]


def test_memory_of_many_snapshots(many, mnt):
    """Six open files with the same long text need only the memory of their pieces."""
    with Mount(many, mnt) as mount:
        path = mount.facts("disk", "info.json")
        os.stat(path)
        before = peak_bytes(mount)
        files = [open(path, "rb", buffering=0) for _ in range(6)]
        try:
            for file in files:
                file.read(65536)
            text = files[0].read()
        finally:
            for file in files:
                file.close()
        assert len(text) > 20 * MIB
        # A sanitizer keeps freed memory.
        assert env.sanitizer() or peak_bytes(mount) - before < 16 * MIB
        assert path.stat().st_size == 0     # unknown, as documented


def test_many_snapshots_are_listed(many, mnt):
    with Mount(many, mnt) as mount:
        facts = json.loads(mount.facts("disk", "info.json").read_text())
    names = [f"snapshot number {number}" for number in range(N_MANY)]
    assert [s["name"] for s in facts["snapshots"]] == names
    assert [s["name"] for s in facts["chain"][0]["snapshots"]] == names


def test_any_order(many, mnt):
    """Reads at any place, forwards and backwards, by two readers of one open file."""
    with Mount(many, mnt) as mount:
        path = mount.facts("disk", "info.json")
        whole = path.read_bytes()
        places = [len(whole) - 100, 0, 12 * MIB, 5, 20 * MIB + 77, 12 * MIB + 1, len(whole), 3 * MIB]
        with open(path, "rb", buffering=0) as file:
            for place in places:
                assert os.pread(file.fileno(), 5000, place) == whole[place:place + 5000], place
            found = {}

            def read_from(start):
                found[start] = b"".join(os.pread(file.fileno(), 4096, start + i * 4096)
                                        for i in range(64))

            threads = [threading.Thread(target=read_from, args=(start,))
                       for start in (MIB, 15 * MIB)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for start, text in found.items():
                assert text == whole[start:start + 64 * 4096]


@pytest.mark.parametrize("options", [[], ["-o", "rw"]])
def test_sizes(options, few, tmp_path, mnt):
    """A read returns the size given by stat(2); also for programs that trust it."""
    with Mount(few, mnt, *options) as mount:
        files = control_files(mount)
        assert {path.name for path in files} == {"errors.json", "info.json", "map.json",
                                                 "stats.json"}
        for path in files:
            size = path.stat().st_size
            mount.raw(few).read_bytes()     # counters change
            assert len(path.read_bytes()) == size or path.name == "map.json", path
            json.loads(path.read_text())
            assert path.stat().st_size == size
        subprocess.run(["tar", "-C", mnt, "-cf", tmp_path / "all.tar", ".qcowfs", "disk.snapshots"],
                       check=True, stderr=subprocess.PIPE)
        (tmp_path / "out").mkdir()
        subprocess.run(["tar", "-C", tmp_path / "out", "-xf", tmp_path / "all.tar"], check=True)
        for path in files:
            copy = tmp_path / "out" / path.relative_to(mnt)
            if path.name != "map.json":
                json.loads(copy.read_text())
            if path.name == "info.json":
                assert copy.read_bytes() == path.read_bytes()


def _rsync(source, target):
    env.need_tools("rsync")
    return ["rsync", "-a", f"{source}/", f"{target}/"]


@pytest.mark.parametrize("options", [[], ["-o", "rw"]], ids=["ro", "rw"])
@pytest.mark.parametrize("tool", ["rsync", "cp", "tar"])
def test_copied(tool, options, few, tmp_path, mnt):
    """The copies of control files by programs that copy trees: complete. The map, whose size is
    unknown, is complete for a program that reads to the end."""
    out = tmp_path / "out"
    out.mkdir()
    with Mount(few, mnt, *options) as mount:
        command = {"rsync": lambda: _rsync(mnt / ".qcowfs", out),
                   "cp": lambda: ["cp", "-a", f"{mnt}/.qcowfs/.", f"{out}/"],
                   "tar": lambda: ["sh", "-c", 'tar -C "$0" -c . | tar -C "$1" -x', mnt / ".qcowfs", out],
                   }[tool]()
        subprocess.run(command, check=True, stderr=subprocess.PIPE)
        paths = [path for path in (mnt / ".qcowfs").rglob("*") if path.is_file()]
        assert len(paths) >= 5
        for path in paths:
            copy = out / path.relative_to(mnt / ".qcowfs")
            if path.name == "stats.json":
                assert json.loads(copy.read_text()).keys() == json.loads(path.read_text()).keys()
            elif path.name != "map.json" or tool == "cp":
                assert copy.read_bytes() == path.read_bytes(), path
            if path.name != "map.json":
                assert copy.stat().st_mtime_ns // 1000 == path.stat().st_mtime_ns // 1000 or \
                    tool == "tar"


def test_errors(tmp_path, mnt):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "odd \"name\\.qcow2").write_bytes(b"QFI\xfb" + bytes([0, 0, 0, 3]) + b"\xff" * 200)
    with Mount([folder], mnt) as mount:
        path = mount.mountpoint / ".qcowfs" / "errors.json"
        with pytest.raises(OSError):
            next(mnt.glob("odd*.raw")).read_bytes()
        size = path.stat().st_size
        text = path.read_bytes()
        assert len(text) == size
        assert json.loads(text)[0]["file"].endswith("odd \"name\\.qcow2")


def test_changed_while_read(tmp_path, mnt):
    """A list in the middle of reading is of one moment."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    names = [f"{number:0200}" for number in range(80)]      # more than is generated whole
    with Mount(image, mnt, "-o", "rw") as mount:
        folder = mount.snapshots(image)
        for name in names:
            (folder / name).mkdir()
        with open(mount.facts("disk", "info.json"), "rb", buffering=0) as file:
            text = file.read(4096)
            (folder / names[-1]).rename(folder / "other")
            (folder / names[10]).rmdir()
            text += file.read()
        facts = json.loads(text)
        assert [s["name"] for s in facts["snapshots"]] == names
        assert [s["name"] for s in facts["chain"][0]["snapshots"]] == names
        assert "other" in mount.facts("disk", "info.json").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("options", ["allow_other,umask=0077", "allow_other,umask=0077,rw"])
def test_permission_bits_are_enforced(options, few, mnt):
    mnt.parent.chmod(0o755)
    with Mount(few, mnt, "-o", options) as mount:
        result = subprocess.run(["cat", mount.facts("disk", "info.json")], check=False, user=65534,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert result.returncode == 1 and b"Permission denied" in result.stderr
        assert json.loads(mount.facts("disk", "info.json").read_text())["format"] == "qcow2"
