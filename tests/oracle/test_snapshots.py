# SPDX-License-Identifier: GPL-2.0-or-later
"""Internal snapshots against `qemu-img convert -l`, and against `qemu-img snapshot -a` on a copy,
since the former shows them in the disk's present size: each is the disk as of its moment, with
its own size, while the disk keeps changing."""

import json
import os
import shutil

import pytest

from qtest import pattern, qemu
from qtest.checks import LastChecks, MatrixChecks, check_random_reads, read_all
from qtest.matrix import Case
from qtest.recipes import default_size, sprinkle

NAMES = ["first", "second", "third"]


def _expect(image, snapshot, out):
    """Writes a snapshot's expected content; QEMU's two ways must agree if both work."""
    reverted = image.with_name("reverted.tmp")
    shutil.copyfile(image, reverted)
    qemu.img("snapshot", "-a", snapshot, reverted.name, cwd=image.parent)
    content = qemu.to_raw(reverted, out).read_bytes()
    reverted.unlink()
    converted = qemu.to_raw(image, out.with_suffix(".converted"), snapshot)
    both = min(len(content), converted.stat().st_size)
    pattern.assert_same(converted.read_bytes()[:both], content[:both], "qemu-img with itself")


def _with_snapshots(name, cluster=65536, backing=False, resize=False, compressed=False, **options):
    size = default_size(cluster)

    def build(directory, rng):
        if backing:
            qemu.make_raw(directory / "base.img", size - 1000, (0, size // 2, "words", 60))
        image = qemu.create(directory / f"{name}.qcow2", size, "base.img" if backing else None,
                            "raw" if backing else None, cluster_size=cluster, **options)
        now = size
        for salt, snapshot in enumerate(NAMES, 1):
            sprinkle(image, now, cluster, rng, salt, compressed and salt == 1)
            qemu.write(image, (salt * cluster % now, 512, "noise", salt))
            qemu.img("snapshot", "-c", snapshot, image.name, cwd=directory)
            if resize:
                now = [size * 2, size // 2 // 512 * 512, size + 512][salt - 1]
                if now < size * 2 and salt == 2:
                    qemu.img("resize", "-q", "--shrink", image.name, str(now), cwd=directory)
                else:
                    qemu.img("resize", "-q", image.name, str(now), cwd=directory)
        qemu.write(image, (0, 512, "noise", 9))
        qemu.io(image, f"discard 0 {min(cluster, now)}", f"write -z {min(cluster, now) // 2} 512")
        for snapshot in NAMES:
            _expect(image, snapshot, directory.parent.parent / f"{name}.{snapshot}.snapshot")
        return image

    return Case(name, build)


class TestSnapshots(MatrixChecks, LastChecks):
    cases = [_with_snapshots(f"cs{cluster}", cluster) for cluster in (512, 4096, 65536, 2 << 20)]
    cases += [
        _with_snapshots("v2", compat="0.10"),
        _with_snapshots("v2-cs512", 512, compat="0.10"),
        _with_snapshots("el2", extended_l2="on"),
        _with_snapshots("el2-cs16384", 16384, extended_l2="on"),
        _with_snapshots("rb8", refcount_bits=8),
        _with_snapshots("rb64", refcount_bits=64),
        _with_snapshots("lazy", lazy_refcounts="on"),
        _with_snapshots("backing", backing=True),
        _with_snapshots("backing-cs4096", 4096, backing=True),
        _with_snapshots("compressed", compressed=True),
        _with_snapshots("zstd", compressed=True, compression_type="zstd"),
        _with_snapshots("resized", resize=True),
        _with_snapshots("resized-cs512", 512, resize=True),
        _with_snapshots("metadata", preallocation="metadata"),
    ]

    @pytest.mark.parametrize("snapshot", NAMES)
    @pytest.mark.parametrize("name", [c.name for c in cases])
    def test_snapshot(self, matrix, name, snapshot, rng):
        case = next(c for c in self.cases if c.name == name)
        built = matrix.get(case)
        folder = matrix.mount.snapshots(built.image) / snapshot
        wanted = (matrix.root / f"{name}.{snapshot}.snapshot").read_bytes()
        assert os.stat(folder / "disk.raw").st_size == len(wanted)
        pattern.assert_same(read_all(folder / "disk.raw"), wanted, f"snapshot {snapshot}")
        pattern.assert_same(read_all(folder / "disk.raw", os.O_DIRECT), wanted, "O_DIRECT")
        check_random_reads(folder / "disk.raw", wanted, rng, 20)
        assert not (folder / "vmstate").exists()
        stored = next(s for s in built.qemu_info["snapshots"] if s["name"] == snapshot)
        info = json.loads((folder / "info.json").read_text())
        assert info["name"] == snapshot and info["id"] == stored["id"]
        assert info["date-sec"] == stored["date-sec"]
        assert info["vm-state-size"] == 0

    def test_folders(self, matrix):
        for built in matrix.built.values():
            assert sorted(os.listdir(matrix.mount.snapshots(built.image))) == sorted(NAMES)


def _many(directory, rng):
    """A hundred snapshots, each with one cluster of its own."""
    image = qemu.create(directory / "many.qcow2", 1 << 20, cluster_size=4096)
    for number in range(100):
        qemu.write(image, (number * 8192, 4096, "words", number + 1))
        qemu.img("snapshot", "-c", f"s{number:03}", image.name, cwd=directory)
    return image


class TestManySnapshots(LastChecks):
    cases = [Case("many", _many)]

    def test_each(self, matrix, case):
        built = matrix.get(case)
        folder = matrix.mount.snapshots(built.image)
        assert sorted(os.listdir(folder)) == [f"s{n:03}" for n in range(100)]
        for number in range(100):
            content = read_all(folder / f"s{number:03}" / "disk.raw")
            wanted = bytearray(1 << 20)
            for earlier in range(number + 1):
                wanted[earlier * 8192:earlier * 8192 + 4096] = \
                    pattern.words(earlier * 8192, 4096, earlier + 1)
            pattern.assert_same(content, bytes(wanted), f"s{number:03}")
