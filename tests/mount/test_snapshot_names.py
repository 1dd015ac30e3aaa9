# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshot names of every kind as file names, and the saved VM state as a file. Spec: design, "The
tree"; qcow2, "Snapshot table", "VM state"."""

import json
import os
import urllib.parse

import pytest

from qtest import pattern, qemu
from qtest.checks import check_random_reads, read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount
from qtest.qcow2 import Qcow2File

MIB = 1 << 20


def image_with(directory, *names, edits=None):
    """disk.qcow2 with one snapshot for each name: number n has cluster n filled."""
    image = qemu.create(directory / "disk.qcow2", MIB, cluster_size=4096)
    for number, name in enumerate(names):
        qemu.write(image, (number * 4096, 4096, "words", number + 1))
        qemu.img("snapshot", "-c", f"placeholder-{number}", image.name, cwd=directory)
    with Qcow2File(image) as file:
        entries = file.snapshots()
        for entry, name in zip(entries, names):
            entry["name"] = name
            entry.update((edits or {}).get(name, {}))
        file.write_snapshots(entries)
    return image


def content(number):
    out = bytearray(MIB)
    for earlier in range(number + 1):
        out[earlier * 4096:(earlier + 1) * 4096] = pattern.words(earlier * 4096, 4096, earlier + 1)
    return bytes(out)


ENCODED = {
    b"plain": b"plain",
    b"with space": b"with space",
    b"a/b": b"a%2Fb",
    b"/": b"%2F",
    b"..": b"%2E.",
    b".": b"%2E",
    b".hidden": b"%2Ehidden",
    b"not.leading": b"not.leading",
    b"100%": b"100%25",
    b"%2F": b"%252F",
    b"new\nline": b"new%0Aline",
    b"tab\there": b"tab%09here",
    b"escape\x1b[31m": b"escape%1B[31m",
    b"delete\x7f": b"delete%7F",
    b"nul\0inside": b"nul%00inside",
    b"caf\xe9": b"caf%E9",
    b"caf\xc3\xa9": b"caf\xc3\xa9",
    "日本語".encode(): "日本語".encode(),
    b"\xc3": b"%C3",
    b"\xed\xa0\x80": b"%ED%A0%80",           # a surrogate is no UTF-8
    b"\xf0\x9f\x98\x80": b"\xf0\x9f\x98\x80",
    b"over\xc0\xaflong": b"over%C0%AFlong",
    b"*?[x]\\'\"": b"*?[x]\\'\"",
    b"@1": b"@1",
    b" ": b" ",
    b"-rf": b"-rf",
}


def test_encoding(tmp_path, mnt):
    """All odd names at once, each with its own content."""
    image = image_with(tmp_path, *ENCODED)
    with Mount(image, mnt) as mount:
        folder = os.fsencode(mount.snapshots(image))
        shown = os.listdir(folder)
        assert sorted(shown) == sorted(ENCODED.values())
        for number, (name, encoded) in enumerate(ENCODED.items()):
            # Decoding gives the name again.
            assert urllib.parse.unquote_to_bytes(encoded) == name
            with open(os.path.join(folder, encoded, b"disk.raw"), "rb") as file:
                pattern.assert_same(file.read(), content(number), repr(name))
            with open(os.path.join(folder, encoded, b"info.json"), "rb") as file:
                assert json.load(file)["id"] == str(number + 1)


@pytest.mark.parametrize("names,shown", [
    ([b""], [b"@1"]),
    ([b"a", b"a"], [b"a", b"a@2"]),
    ([b"a", b"a", b"a"], [b"a", b"a@2", b"a@3"]),
    ([b"", b""], [b"@1", b"@2"]),
    ([b"a/b", b"a/b"], [b"a%2Fb", b"a%2Fb@2"]),
])
def test_repeated_and_empty(names, shown, tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    for number, _ in enumerate(names):
        qemu.write(image, (number * 4096, 4096, "words", number + 1))
        qemu.img("snapshot", "-c", f"p{number}", image.name, cwd=tmp_path)
    with Qcow2File(image) as file:
        entries = file.snapshots()
        for entry, name in zip(entries, names):
            entry["name"] = name
        file.write_snapshots(entries)
    with Mount(image, mnt) as mount:
        folder = os.fsencode(mount.snapshots(image))
        assert sorted(os.listdir(folder)) == sorted(shown)
        for number, name in enumerate(shown):
            with open(os.path.join(folder, name, b"disk.raw"), "rb") as file:
                pattern.assert_same(file.read(), content(number), repr(name))


def test_thousands_of_the_same(tmp_path, mnt):
    """Equal names and equal IDs, which only a damaged table has, cost no more than others."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    qemu.img("snapshot", "-c", "a", image.name, cwd=tmp_path)
    with Qcow2File(image) as file:
        file.write_snapshots(file.snapshots() * 20000)
    with Mount(image, mnt) as mount:
        shown = os.listdir(mount.snapshots(image))
        assert len(shown) == len(set(shown)) == 20000
        assert len(json.loads(mount.facts("disk", "info.json").read_text())["snapshots"]) == 20000


def test_long_names_in_facts(tmp_path, mnt):
    """A name longer than any program makes it is cut, at a character."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    for number in range(2):
        qemu.img("snapshot", "-c", f"p{number}", image.name, cwd=tmp_path)
    with Qcow2File(image) as file:
        entries = file.snapshots()
        entries[0]["name"] = "ä".encode() * 30000
        entries[1]["name"] = b"\xff" * 65000
        file.write_snapshots(entries)
    with Mount(image, mnt) as mount:
        stored = json.loads(mount.facts("disk", "info.json").read_text())["snapshots"]
        assert stored[0]["name"] == "ä" * 127
        assert stored[1]["name"] == "%FF" * 255


@pytest.mark.parametrize("names", [
    [b"a@2", b"a", b"a"],               # the suffix would give an existing name
    [b"a", b"a@2", b"a"],
    [b"x" * 255, b"x" * 255],           # no room for the suffix
    [b"%" * 255],                       # three times as long when encoded
    ["ä".encode() * 127, "ä".encode() * 127 + b"x"],
    [b"y" * 1000],
    [b"\xff" * 60000],
    [b"z" * 65535],
])
def test_every_snapshot_has_a_name(names, tmp_path, mnt):
    """For all names: as many directories as snapshots, each usable."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    for number, _ in enumerate(names):
        qemu.write(image, (number * 4096, 4096, "words", number + 1))
        qemu.img("snapshot", "-c", f"p{number}", image.name, cwd=tmp_path)
    with Qcow2File(image) as file:
        entries = file.snapshots()
        for entry, name in zip(entries, names):
            entry["name"] = name
        file.write_snapshots(entries)
    with Mount(image, mnt) as mount:
        folder = os.fsencode(mount.snapshots(image))
        shown = os.listdir(folder)
        assert len(shown) == len(set(shown)) == len(names)
        assert all(len(name) <= 255 for name in shown)
        found = set()
        for name in shown:
            with open(os.path.join(folder, name, b"disk.raw"), "rb") as file:
                found.add(file.read())
        assert found == {content(n) for n in range(len(names))}


def test_same_id_twice(tmp_path, mnt):
    """A damaged table may repeat IDs, too."""
    image = image_with(tmp_path, b"one", b"two", b"three")
    with Qcow2File(image) as file:
        entries = file.snapshots()
        for entry in entries:
            entry["id"], entry["name"] = b"7", b"same"
        file.write_snapshots(entries)
    with Mount(image, mnt) as mount:
        assert len(set(os.listdir(mount.snapshots(image)))) == 3


# ---- individual sizes ----


def test_own_sizes(tmp_path, mnt):
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    for number, name in enumerate(("small", "large")):
        qemu.write(image, (number * 4096, 4096, "words", number + 1))
        qemu.img("snapshot", "-c", name, image)
    qemu.img("resize", "-q", image, str(4 * MIB))
    qemu.img("snapshot", "-c", "larger", image)
    with Qcow2File(image) as file:
        entries = file.snapshots()
        entries[0]["disk_size"] = 100 * 512
        file.write_snapshots(entries)
    with Mount(image, mnt) as mount:
        folder = mount.snapshots(image)
        sizes = {name: os.stat(folder / name / "disk.raw").st_size for name in os.listdir(folder)}
        assert sizes == {"small": 51200, "large": MIB, "larger": 4 * MIB}
        assert read_all(folder / "small" / "disk.raw") == content(0)[:51200]
        assert os.stat(mount.raw(image)).st_size == 4 * MIB


def test_version_2_without_extra_data(tmp_path, mnt):
    """Old tables have neither a size nor a long VM state: the header's size counts."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096, compat="0.10")
    qemu.write(image, (0, 4096, "words", 1))
    qemu.img("snapshot", "-c", "old", image)
    qemu.write(image, (0, 4096, "words", 2))
    with Qcow2File(image) as file:
        entries = file.snapshots()
        for entry in entries:
            entry["extra"] = 0
        file.write_snapshots(entries)
    with Mount(image, mnt) as mount:
        assert read_all(mount.snapshots(image) / "old" / "disk.raw") == content(0)


# ---- VM state -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 512, 100_000, 65536, 3 * MIB + 17])
@pytest.mark.parametrize("cluster,options", [(65536, {}), (4096, {}), (65536, {"extended_l2": "on"}),
                                             (65536, {"compat": "0.10"})])
def test_vmstate(length, cluster, options, tmp_path, mnt, rng):
    """Written by QEMU's own code for it; the exact length is put into the table, which qemu-img
    leaves at 0."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=cluster, **options)
    qemu.write(image, (0, 65536, "words", 1))
    rounded = -(-length // 512) * 512
    qemu.write(image, (0, rounded, "mixed", 5, "-b"))
    qemu.img("snapshot", "-c", "running", image)
    qemu.img("snapshot", "-c", "without", image)
    with Qcow2File(image) as file:
        file.set_vm_state(0, length)
    wanted = pattern.mixed(0, rounded, 5)[:length]
    with Unchanged(image), Mount(image, mnt) as mount:
        folder = mount.snapshots(image)
        path = folder / "running" / "vmstate"
        assert os.stat(path).st_size == length
        pattern.assert_same(read_all(path), wanted, "vmstate")
        pattern.assert_same(read_all(path, os.O_DIRECT), wanted, "vmstate, O_DIRECT")
        check_random_reads(path, wanted, rng, 20)
        assert json.loads((folder / "running" / "info.json").read_text())["vm-state-size"] == length
        assert not (folder / "without" / "vmstate").exists()
        assert os.stat(folder / "running" / "disk.raw").st_size == MIB
        assert read_all(folder / "running" / "disk.raw")[:65536] == pattern.words(0, 65536, 1)


def test_vmstate_longer_than_its_tables(tmp_path, mnt):
    """A length beyond the L1 table: never bytes of other data, no crash."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB)
    qemu.write(image, (0, 65536, "words", 1))
    qemu.write(image, (0, 65536, "words", 5, "-b"))
    qemu.img("snapshot", "-c", "running", image)
    with Qcow2File(image) as file:
        file.set_vm_state(0, 1 << 62)
    with Mount(image, mnt) as mount:
        path = mount.snapshots(image) / "running" / "vmstate"
        try:
            with open(path, "rb") as file:
                assert file.read(65536) == pattern.words(0, 65536, 5)
                file.seek(1 << 40)
                assert file.read(4096) in (b"", bytes(4096))
        except OSError:
            pass        # refusing it is as good
        assert read_all(mount.raw(image))[:65536] == pattern.words(0, 65536, 1)
