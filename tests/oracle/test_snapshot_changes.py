# SPDX-License-Identifier: GPL-2.0-or-later
"""`qimg snapshot` against `qemu-img snapshot`: the two make the same changes to an image and to
its twin, with writes and resizes between them; lists, sizes and content are the same all the
time, and `qemu-img check` never finds anything."""

import json
import os
import shutil
import struct

import pytest

from qtest import env, pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import file_digest
from qtest.mount import Mount
from qtest.qcow2 import COPIED, CORRUPT, DIRTY, OFFSET_MASK, Qcow2File
from qtest.recipes import default_size
from qtest.writing import check, opened, pwrite, small_tmpfs

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(autouse=True)
def needs():
    env.need_tools("qemu-img", "qemu-io")
    env.program("QIMG")


def snapshot(image, verb, *names, check=True, options=()):
    """qimg snapshot VERB IMAGE NAMES."""
    return procs.run(env.qimg(), "snapshot", *options, verb, image, *names, check=check)


def refused(image, verb, *names, contains):
    """The change is refused in one line with the reason, and no byte of the file changes."""
    before = file_digest(image)
    result = snapshot(image, verb, *names, check=False)
    assert result.status == 1 and result.text == "", result
    lines = [line for line in result.errors.splitlines() if line.startswith("qimg: ")]
    assert lines and contains in lines[-1], f"does not say {contains!r}\n{result}"
    assert file_digest(image) == before, "the image has changed"
    return result


def stored(image):
    """The snapshots by the table's bytes: {name: (ID, disk size, VM state)}."""
    with Qcow2File(image) as file:
        return {os.fsdecode(s["name"]): (s["id"].decode(), s["disk_size"], s["vm_state"])
                for s in file.snapshots()}


def listed(image):
    """As stored; qemu-img's list and ours are equal."""
    ours = json.loads(snapshot(image, "list", options=["--output=json"]).stdout)
    theirs = qemu.info_json(image).get("snapshots", [])
    for key in ("id", "name", "vm-state-size", "date-sec", "date-nsec"):
        assert [s[key] for s in ours] == [s[key] for s in theirs], key
    found = stored(image)
    assert [s["name"] for s in ours] == list(found)
    return found


def content_of(image, scratch, name=None):
    out = qemu.to_raw(image, scratch, name)
    try:
        return out.read_bytes()
    finally:
        out.unlink()


# ---- the same changes to twins ----


class Twins:
    """An image of ours and one of QEMU's, which must stay equal, and their content."""

    def __init__(self, folder, rng, build):
        self.rng, self._scratch = rng, folder / "scratch"
        ours = folder / "ours"
        ours.mkdir(parents=True)
        build(ours, rng)
        shutil.copytree(ours, folder / "theirs")
        self.ours, self.theirs = ours / "disk.qcow2", folder / "theirs" / "disk.qcow2"
        with Qcow2File(self.ours) as file:
            self.version, self.cluster = file.version, file.cluster_size
            self.can_share = file.get("refcount_order") > 1 if self.version > 2 else True
        self.content = content_of(self.theirs, self._scratch)
        self.snapshots = {}     # name: (its name on theirs, content)
        self._n_made = 0

    # ---- changes ----

    def change(self):
        """One random change of the snapshots."""
        kinds = ["create"] * 3
        # 2 bits can count two more references than the disk's own.
        if not self.can_share and len(self.snapshots) >= 2:
            kinds = []
        if self.snapshots:
            kinds += ["delete"] * (1 + len(self.snapshots)) + ["rename"]
            # Before a revert, QEMU counts the new state without releasing the old one.
            kinds += ["revert"] * (3 if self.can_share or len(self.snapshots) < 2 else 0)
        kind = self.rng.choice(kinds)
        name = self.rng.choice(list(self.snapshots)) if kind != "create" else None
        print(kind, name, f"of {len(self.snapshots)}")
        getattr(self, kind)(name)

    def _by_qemu(self):
        """Whether QEMU also changes our image."""
        return self.rng.randrange(4) == 0

    def create(self, _=None):
        self._n_made += 1
        name = f"s{self._n_made}"
        if self._by_qemu():
            qemu.img("snapshot", "-c", name, self.ours)
        else:
            snapshot(self.ours, "create", name)
        qemu.img("snapshot", "-c", name, self.theirs)
        self.snapshots[name] = name, self.content

    def delete(self, name):
        theirs = self.snapshots.pop(name)[0]
        if self._by_qemu():
            qemu.img("snapshot", "-d", name, self.ours)
        else:
            snapshot(self.ours, "delete", name)
        qemu.img("snapshot", "-d", theirs, self.theirs)

    def revert(self, name):
        theirs, self.content = self.snapshots[name]
        if self._by_qemu():
            qemu.img("snapshot", "-a", name, self.ours)
        else:
            snapshot(self.ours, "revert", name)
        qemu.img("snapshot", "-a", theirs, self.theirs)

    def rename(self, name):
        """QEMU cannot rename: its twin keeps the name."""
        self._n_made += 1
        new = f"renamed {self._n_made}" + "x" * self.rng.randrange(30)
        snapshot(self.ours, "rename", name, new)
        self.snapshots = {new if key == name else key: value
                          for key, value in self.snapshots.items()}

    def write(self):
        """The same to both; no half clusters at the end, which QEMU keeps when it cuts."""
        size, commands = len(self.content), []
        for _ in range(self.rng.randrange(1, 4) if size else 0):
            length = min(size, self.rng.choice([512, self.cluster, 3 * self.cluster, size // 5 // 512 * 512 + 512]))
            at = self.rng.randrange((size - length) // 512 + 1) * 512
            commands.append(self.rng.choice([f"write -P {self.rng.randrange(1, 255)} {at} {length}"] * 3 + [
                f"write -z {at} {length}", f"write -z -u {at} {length}", f"discard {at} {length}"]))
        for image in (self.ours, self.theirs) if commands else ():
            # Version 2 has no entry for a cluster that hides the backing file.
            qemu.io(image, *commands, check=self.version > 2)
        self.content = content_of(self.theirs, self._scratch)

    def resize(self, mountpoint):
        """Whole clusters, which QEMU does not keep when it cuts the disk."""
        if self.version < 3 and self.snapshots:
            return
        n_clusters = -(-len(self.content) // self.cluster)
        size = self.rng.randrange(max(1, n_clusters // 2), n_clusters * 3 // 2 + 2) * self.cluster
        qemu.img("resize", "-q", "--shrink", "-f", "qcow2", self.theirs, str(size))
        if self._by_qemu():
            qemu.img("resize", "-q", "--shrink", "-f", "qcow2", self.ours, str(size))
        elif self.rng.randrange(2):
            procs.run(env.qimg(), "resize", "--shrink", self.ours, str(size))
        else:
            with Mount(self.ours, mountpoint, "-o", "rw,backing=any") as mount:
                os.truncate(mount.raw(self.ours), size)
        self.content = content_of(self.theirs, self._scratch)

    # ---- comparing both ----

    def compare(self):
        check(self.ours)
        ours, theirs = stored(self.ours), stored(self.theirs)
        assert ours == {name: theirs[other] for name, (other, _) in self.snapshots.items()}
        assert list(ours) == list(self.snapshots), "the order has changed"
        if self.rng.randrange(2):
            pattern.assert_same(content_of(self.ours, self._scratch), self.content, "the disk")
        elif self.snapshots:
            self._compare_snapshot(self.rng.choice(list(self.snapshots)))

    def _compare_snapshot(self, name):
        """qemu-img shows snapshots in the disk's present size."""
        wanted = self.snapshots[name][1]
        got = content_of(self.ours, self._scratch, name)
        n = min(len(got), len(wanted))
        pattern.assert_same(got[:n], wanted[:n], f"snapshot {name}")

    def compare_all(self, mountpoint):
        """Each whole, also as shown by us; and QEMU's twin, as a reference for the rest."""
        listed(self.ours)
        procs.run(env.qimg(), "check", self.ours)
        for name, (theirs, wanted) in self.snapshots.items():
            self._compare_snapshot(name)
            got = content_of(self.theirs, self._scratch, theirs)
            n = min(len(got), len(wanted))
            pattern.assert_same(got[:n], wanted[:n], f"snapshot {name} of the twin")
        with Mount(self.ours, mountpoint, "-o", "backing=any") as mount:
            pattern.assert_same(read_all(mount.raw(self.ours)), self.content, "the mounted disk")
            folder = mount.snapshots(self.ours)
            assert sorted(os.listdir(folder)) == sorted(self.snapshots)
            for name, (_, wanted) in self.snapshots.items():
                pattern.assert_same(read_all(folder / name / "disk.raw"), wanted, f"mounted {name}")


def image(cluster=64 * KIB, backing=False, compressed=False, size=None, **options):
    """Builds disk.qcow2: a bit of every kind in its first half."""
    def build(folder, rng):
        n_bytes = size or default_size(cluster) // 2 // cluster * cluster
        if backing:
            qemu.make_raw(folder / "base.img", n_bytes * 3 // 4 // 512 * 512, (0, n_bytes // 2, "words", 60))
        path = qemu.create(folder / "disk.qcow2", n_bytes, "base.img" if backing else None,
                           "raw" if backing else None, cluster_size=cluster, **options)
        if compressed:
            qemu.write(path, *[(at, cluster, "mixed", 5, "-c")
                               for at in range(0, n_bytes // 3 // cluster * cluster, cluster)])
        at = n_bytes // 3 // cluster * cluster
        qemu.write(path, (at, min(2 * cluster, n_bytes - at), "noise", rng.randrange(1000)))

    return build


KINDS = {
    **{f"cs{cluster}": (image(cluster), True) for cluster in (512, 4096, 64 * KIB, 2 * MIB)},
    **{f"rb{bits}": (image(4096, refcount_bits=bits), True) for bits in (2, 4, 32)},
    "rb64-cs512": (image(512, refcount_bits=64), True),
    "v2": (image(compat="0.10"), True),
    "v2-cs512": (image(512, compat="0.10"), True),
    "v2-backing": (image(4096, backing=True, compat="0.10"), False),
    "el2": (image(extended_l2="on"), True),
    "el2-cs16384-backing": (image(16 * KIB, extended_l2="on", backing=True), True),
    "zlib-cs4096-rb8": (image(4096, compressed=True, refcount_bits=8), True),
    "zstd-cs4096": (image(4096, compressed=True, compression_type="zstd"), True),
    "backing": (image(backing=True), True),
    "backing-zlib-cs512": (image(512, backing=True, compressed=True), True),
    "unaligned": (image(size=3 * MIB + 512), False),
    "lazy": (image(lazy_refcounts="on"), True),
    "metadata": (image(4096, preallocation="metadata"), True),
    "empty": (image(4096, size=0), True),
}


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", KINDS)
def test_as_qemu_does(kind, tmp_path, mnt, rng):
    build, can_resize = KINDS[kind]
    if kind == "empty":
        def build(folder, _):
            qemu.create(folder / "disk.qcow2", 0, cluster_size=4096)
    twins = Twins(tmp_path / "twins", rng, build)
    twins.create()
    twins.compare()
    for _ in range(4 if env.sanitizer() else 5):
        twins.write()
        if can_resize and rng.randrange(3) == 0:
            twins.resize(mnt)
        twins.change()
        if rng.randrange(2):
            twins.change()
        twins.compare()
    twins.compare_all(mnt)


# ---- lists: names, IDs, unknown data ----


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB in clusters of 4 KiB, the first of which is written."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = qemu.create(folder / "disk.qcow2", MIB, cluster_size=4096)
    qemu.write(path, (0, 4096, "words", 1))
    return path


def raw_entries(image):
    """The bytes of each entry of the snapshot table, without padding."""
    with Qcow2File(image) as file:
        return [file.read(e["place"], 40 + e["extra"] + len(e["id"]) + len(e["name"]))
                for e in file.snapshots()]


def put_entries(image, entries):
    """Writes entries in place of the table, in its one cluster."""
    table = b"".join(entry.ljust(-(-len(entry) // 8) * 8, b"\0") for entry in entries)
    with Qcow2File(image) as file:
        assert len(table) <= file.cluster_size
        file.write(file.get("snapshots_offset"), table.ljust(file.cluster_size, b"\0"))
        file.set("nb_snapshots", len(entries))


def with_names(image, *names):
    """Gives the snapshots names and IDs, (name, ID), that qemu-img would not."""
    entries = []
    for entry, (name, number) in zip(raw_entries(image), names):
        extra = struct.unpack(">I", entry[36:40])[0]
        entries.append(entry[:12] + struct.pack(">HH", len(number), len(name)) +
                       entry[16:40 + extra] + number + name)
    put_entries(image, entries)
    check(image)


def add_snapshots(image, *names):
    for number, name in enumerate(names):
        qemu.write(image, (number * 4096, 4096, "words", number + 2))
        qemu.img("snapshot", "-c", name, image)


def test_what_is_not_understood_is_kept(disk):
    """Longer extra data than ours, other IDs: unchanged byte for byte."""
    add_snapshots(disk, "one", "two", "three", "four")
    entries = raw_entries(disk)
    for number, length in ((0, 40), (1, 1000), (3, 1)):
        entry = entries[number]
        extra = bytes(range(1, 256)) * 4
        entries[number] = entry[:36] + struct.pack(">I", 24 + length) + entry[40:64] + \
            extra[:length] + entry[64:]
    put_entries(disk, entries)
    check(disk)

    snapshot(disk, "rename", "two", "a name that is much longer than it was")
    long_name = b"a name that is much longer than it was"
    entries[1] = entries[1][:14] + struct.pack(">H", len(long_name)) + entries[1][16:-3] + long_name
    assert raw_entries(disk) == entries
    check(disk)
    snapshot(disk, "delete", "three")
    del entries[2]
    assert raw_entries(disk) == entries
    check(disk)
    snapshot(disk, "rename", long_name.decode(), "2")
    entries[1] = entries[1][:14] + struct.pack(">H", 1) + entries[1][16:-len(long_name)] + b"2"
    snapshot(disk, "create", "five")
    assert raw_entries(disk)[:3] == entries
    snapshot(disk, "revert", "four")
    assert raw_entries(disk)[:3] == entries
    check(disk)
    assert [i for i, *_ in listed(disk).values()] == ["1", "2", "4", "5"]


def test_entries_of_old_tables(tmp_path):
    """Version 2 without extra data: the new entry among them has some, theirs stay."""
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096, compat="0.10")
    add_snapshots(disk, "one", "two")
    entries = [e[:36] + bytes(4) + e[64:] for e in raw_entries(disk)]
    put_entries(disk, entries)
    check(disk)
    wanted = content_of(disk, tmp_path / "out", "one")
    snapshot(disk, "create", "three")
    assert raw_entries(disk)[:2] == entries
    snapshot(disk, "delete", "two")
    assert raw_entries(disk)[:1] == entries[:1]
    snapshot(disk, "revert", "one")
    check(disk)
    assert content_of(disk, tmp_path / "out") == wanted


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "日本語", "a/b", ".", "..", "-", "with space",
                                  "new\nline", "100%", "@1", b"caf\xe9", b"\xff" * 255],
                         ids=lambda name: ascii(name)[:20])
def test_names(name, disk):
    name = os.fsencode(name)
    snapshot(disk, "create", name)
    with Qcow2File(disk) as file:
        assert [entry["name"] for entry in file.snapshots()] == [name]
    check(disk)
    snapshot(disk, "rename", name, "other")
    snapshot(disk, "rename", "other", name)
    with Qcow2File(disk) as file:
        assert [(entry["name"], entry["id"]) for entry in file.snapshots()] == [(name, b"1")]
    snapshot(disk, "revert", name)
    snapshot(disk, "delete", name)
    check(disk)
    assert listed(disk) == {}


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128, "x" * 70000],
                         ids=["empty", "256", "256 of UTF-8", "70000"])
def test_names_that_are_no_names(name, disk):
    snapshot(disk, "create", "one")
    refused(disk, "create", name, contains="255 bytes")
    refused(disk, "rename", "one", name, contains="255 bytes")


def test_names_that_are_there_or_not(disk):
    add_snapshots(disk, "one", "two")
    refused(disk, "create", "one", contains="already")
    refused(disk, "rename", "two", "one", contains="already")
    for verb, *names in (("delete",), ("revert",), ("rename", "x")):
        refused(disk, verb, "three", *names, contains="no snapshot")
    refused(disk, "delete", "", contains="no snapshot")
    snapshot(disk, "rename", "one", "one")
    check(disk)
    # A name equal to another one's ID: ambiguous.
    snapshot(disk, "rename", "two", "1")
    for verb, *names in (("delete",), ("revert",), ("rename", "x")):
        refused(disk, verb, "1", *names, contains="several snapshots")
    snapshot(disk, "delete", "2")
    assert list(listed(disk)) == ["one"]
    snapshot(disk, "delete", "1")
    assert listed(disk) == {}
    check(disk)


def test_names_that_repeat(disk, tmp_path):
    """QEMU permits repeated names, and a foreign table may repeat IDs, too."""
    add_snapshots(disk, "p", "q", "r", "s")
    wanted = {name: content_of(disk, tmp_path / "out", name) for name in "pqrs"}
    with_names(disk, (b"same", b"1"), (b"same", b"2"), (b"other", b"7"), (b"last", b"7"))
    refused(disk, "delete", "same", contains="several snapshots")
    refused(disk, "revert", "same", contains="give another ID of 1, 2")
    refused(disk, "create", "same", contains="already")
    refused(disk, "delete", "7", contains="several snapshots")
    snapshot(disk, "revert", "2")
    assert content_of(disk, tmp_path / "out") == wanted["q"]
    snapshot(disk, "rename", "2", "second")
    snapshot(disk, "delete", "same")
    assert [e[0] for e in listed(disk).values()] == ["2", "7", "7"]
    snapshot(disk, "create", "new")
    assert listed(disk)["new"][0] == "8"
    snapshot(disk, "delete", "last")
    check(disk)
    assert content_of(disk, tmp_path / "out", "other") == wanted["r"]
    assert content_of(disk, tmp_path / "out", "second") == wanted["q"]


@pytest.mark.parametrize("ids, new", [((b"9", b"x"), "10"), ((b"", b""), "1"), ((b"abc", b"12b"), "13"),
                                      ((b"4294967296", b"1"), "4294967297")])
def test_numbers_of_new_ones(ids, new, disk, tmp_path):
    """One more than the largest; an ID that is no number does not count."""
    add_snapshots(disk, "p", "q")
    with_names(disk, (b"one", ids[0]), (b"two", ids[1]))
    twin = tmp_path / "twin.qcow2"
    shutil.copyfile(disk, twin)
    snapshot(disk, "create", "three")
    qemu.img("snapshot", "-c", "three", twin)
    assert listed(disk)["three"][0] == listed(twin)["three"][0] == new
    check(disk)


def test_no_number_left(disk):
    add_snapshots(disk, "p")
    with_names(disk, (b"one", b"18446744073709551615"))
    refused(disk, "create", "two", contains="limit")


@pytest.mark.limit(240)
def test_three_hundred(tmp_path, rng):
    """One per night of almost a year; deleted in any order."""
    disk = qemu.create(tmp_path / "disk.qcow2", 2 * MIB, cluster_size=4096)
    n, wanted = (40 if env.sanitizer() else 300), {}
    content = bytearray(2 * MIB)
    for number in range(n):
        if number % 20 == 0:
            at = number // 20 * 65536 % (2 * MIB)
            qemu.write(disk, (at, 5000, "words", number + 1))
            content[at:at + 5000] = pattern.words(at, 5000, number + 1)
        snapshot(disk, "create", f"s{number}")
        wanted[f"s{number}"] = bytes(content)
    check(disk)
    names = list(wanted)
    for name in rng.sample(names, n * 2 // 3):
        snapshot(disk, "delete", name)
        del wanted[name]
    check(disk)
    assert list(listed(disk)) == list(wanted)
    for name in rng.sample(list(wanted), 10):
        assert content_of(disk, tmp_path / "out", name) == wanted[name]
    last = list(wanted)[-1]
    snapshot(disk, "revert", last)
    for name in wanted:
        snapshot(disk, "delete", name)
    check(disk)
    assert content_of(disk, tmp_path / "out") == wanted[last]


# ---- VM states --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"compat": "0.10"}, {"extended_l2": "on"}],
                         ids=["64k", "4k", "v2", "el2"])
def test_vm_state(options, tmp_path, mnt):
    """A snapshot of a running machine: its state survives changes of others and is freed with it;
    a disk that reverts to it and grows shows nothing of it."""
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, **options)
    qemu.write(disk, (0, 64 * KIB, "words", 1))
    state = pattern.mixed(0, 200_192, 5)
    qemu.write(disk, (0, len(state), "mixed", 5, "-b"))
    qemu.img("snapshot", "-c", "running", disk)
    with Qcow2File(disk) as file:
        file.set_vm_state(0, 200_000)
    content = content_of(disk, tmp_path / "out")

    def looks_right():
        check(disk)
        with Mount(disk, mnt) as mount:
            folder = mount.snapshots(disk) / "running"
            pattern.assert_same(read_all(folder / "vmstate"), state[:200_000], "VM state")
            pattern.assert_same(read_all(folder / "disk.raw"), content, "its disk")

    snapshot(disk, "create", "without")
    assert listed(disk)["without"][2] == 0
    snapshot(disk, "rename", "running", "was running")
    snapshot(disk, "rename", "was running", "running")
    looks_right()
    qemu.write(disk, (0, MIB, "noise", 7))
    snapshot(disk, "revert", "running")
    snapshot(disk, "delete", "without")
    looks_right()
    assert content_of(disk, tmp_path / "out") == content
    if options.get("compat") != "0.10":
        with Mount(disk, mnt, "-o", "rw") as mount:
            with Qcow2File(disk) as file:
                end = file.l2_entries * file.cluster_size
            os.truncate(mount.raw(disk), end + MIB)
            with opened(mount.raw(disk)) as fd:
                assert os.pread(fd, MIB, 0) == content
                assert os.pread(fd, MIB, end) == bytes(MIB), "the VM state shows"
                pwrite(fd, b"x" * 4096, end + 8192)
        looks_right()
    snapshot(disk, "delete", "running")
    check(disk)
    # A leak would be found, a state that is still referred to would not.
    qemu.img("snapshot", "-c", "again", disk)
    check(disk)


# ---- narrow refcounts -----------------------------------------------------------------------


def test_refcounts_of_one_bit(tmp_path):
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096, refcount_bits=1)
    # No cluster of an empty disk is shared.
    snapshot(disk, "create", "empty")
    check(disk)
    snapshot(disk, "revert", "empty")
    snapshot(disk, "delete", "empty")
    check(disk)
    qemu.write(disk, (0, 4096, "words", 1))
    refused(disk, "create", "one", contains="too narrow")


@pytest.mark.parametrize("bits, n_fit", [(2, 2), (4, 14)])
def test_refcounts_that_are_full(bits, n_fit, tmp_path):
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096, refcount_bits=bits)
    qemu.write(disk, (0, 4096, "words", 1))
    for number in range(n_fit):
        snapshot(disk, "create", f"s{number}")
    refused(disk, "create", "one more", contains="delete a snapshot")
    refused(disk, "revert", "s0", contains="too narrow")
    check(disk)
    content = content_of(disk, tmp_path / "out")
    snapshot(disk, "delete", "s0")
    qemu.write(disk, (0, 4096, "words", 2))
    snapshot(disk, "revert", "s1")
    snapshot(disk, "create", "one more")
    check(disk)
    assert content_of(disk, tmp_path / "out") == content


def test_refcounts_of_compressed_clusters(tmp_path):
    """Streams that share a cluster share its refcount."""
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=64 * KIB, refcount_bits=4)
    qemu.write(disk, *[(at, 64 * KIB, "constant", 1, "-c") for at in range(0, 7 * 64 * KIB, 64 * KIB)])
    snapshot(disk, "create", "one")
    check(disk)
    refused(disk, "create", "two", contains="too narrow")
    check(disk)
    snapshot(disk, "delete", "one")
    check(disk)


# ---- refusals ----


VERBS = [("create", "new"), ("delete", "old"), ("rename", "old", "new"), ("revert", "old")]


def test_raw(tmp_path):
    raw = qemu.make_raw(tmp_path / "disk.img", MIB)
    refused(raw, "create", "one", contains="convert the image to qcow2")


def test_data_file(tmp_path):
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, data_file="disk.data")
    qemu.io(disk, "write -P 3 0 64k")
    refused(disk, "create", "one", contains="external data file")


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v[0])
def test_in_use(verb, disk, tmp_path, mnt):
    """By QEMU or by a writable mount."""
    add_snapshots(disk, "old")
    with qemu.held(disk):
        refused(disk, *verb, contains="another process")
    with Mount(disk, mnt, "-o", "rw") as mount:
        assert (mount.snapshots(disk) / "old").is_dir()
        refused(disk, *verb, contains="another process")
    snapshot(disk, *verb)
    check(disk)


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v[0])
def test_marked_corrupt(verb, disk):
    add_snapshots(disk, "old")
    with Qcow2File(disk) as file:
        file.set("incompatible", CORRUPT)
    refused(disk, *verb, contains="marked corrupt")


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v[0])
def test_dirty(verb, tmp_path):
    """The state left by another writer is repaired first, and none of it is lost."""
    disk = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, cluster_size=4096, lazy_refcounts="on")
    qemu.write(disk, (0, MIB, "noise", 1))
    qemu.img("snapshot", "-c", "old", disk)
    old = content_of(disk, tmp_path / "out", "old")
    qemu.die_writing(disk, "write -P 7 50k 200k", "write -P 8 3000k 70k")
    content = content_of(disk, tmp_path / "out")
    result = snapshot(disk, *verb)
    assert "has been repaired" in result.errors
    check(disk)
    with Qcow2File(disk) as file:
        assert not file.get("incompatible") & DIRTY
    if verb[0] == "revert":
        content = old
    assert content_of(disk, tmp_path / "out") == content
    for name, wanted in {"create": {"old": old, "new": content}, "delete": {}, "rename": {"new": old},
                         "revert": {"old": old}}[verb[0]].items():
        assert content_of(disk, tmp_path / "out", name) == wanted


def read_word(file, at):
    return struct.unpack(">Q", file.read(at, 8))[0]


def write_word(file, at, value):
    file.write(at, struct.pack(">Q", value))


class Wreck:
    """The places of the old snapshot's parts, to be damaged."""

    def __init__(self, file):
        self.file = file
        self.entry = file.snapshots()[0]
        self.l1 = self.entry["l1_offset"]
        self.l2 = read_word(file, self.l1) & OFFSET_MASK

    def set_l1(self, value):
        write_word(self.file, self.l1, value)

    def set_l2(self, value):
        write_word(self.file, self.l2 + 8, value)

    def refcount_block(self):
        return read_word(self.file, self.file.get("refcount_table_offset"))


def other_l1(w):
    w.set_l2(w.file.snapshots()[1]["l1_offset"])


def no_refcount(w):
    at = w.refcount_block() + 2 * (w.l2 // w.file.cluster_size)
    w.file.write(at, bytes(2))


def unaligned_l1(w):
    write_word(w.file, w.entry["place"], w.l1 + 8)


WRECKS = {
    "l1 reserved": lambda w: w.set_l1(w.l2 | 1 << 60),
    "l1 far": lambda w: w.set_l1(1 << 40),
    "l1 to l1": lambda w: w.set_l1(w.l1),
    "l1 to the refcount block": lambda w: w.set_l1(w.refcount_block()),
    "l1 to the refcount table": lambda w: w.set_l1(w.file.get("refcount_table_offset")),
    "l1 unaligned": unaligned_l1,
    "l2 far": lambda w: w.set_l2(1 << 40),
    "l2 unaligned": lambda w: w.set_l2(w.l2 + 512),
    "l2 to itself": lambda w: w.set_l2(w.l2),
    "l2 to the l1": lambda w: w.set_l2(w.l1),
    "l2 to the active l1": lambda w: w.set_l2(w.file.get("l1_table_offset")),
    "l2 to the active l2": lambda w: w.set_l2(w.file.l1_entry(0) & OFFSET_MASK),
    "l2 to the other l1": other_l1,
    "l2 to the refcount table": lambda w: w.set_l2(w.file.get("refcount_table_offset")),
    "l2 to the refcount block": lambda w: w.set_l2(w.refcount_block()),
    "l2 to the snapshot table": lambda w: w.set_l2(w.file.get("snapshots_offset")),
    "no refcount": no_refcount,
}


@pytest.mark.parametrize("wreck", WRECKS)
def test_damaged_snapshot(wreck, tmp_path):
    """Its tables change nothing; other snapshots can be changed."""
    disk = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    qemu.write(disk, (0, 64 * KIB, "words", 1))
    qemu.img("snapshot", "-c", "old", disk)
    qemu.write(disk, (0, MIB, "words", 2))
    qemu.img("snapshot", "-c", "other", disk)
    qemu.write(disk, (0, MIB, "words", 3))
    content = content_of(disk, tmp_path / "out")
    with Qcow2File(disk) as file:
        WRECKS[wreck](Wreck(file))
    refused(disk, "delete", "old", contains="run qimg check")
    if wreck != "no refcount":      # which would just be one more reference
        refused(disk, "revert", "old", contains="run qimg check")
    snapshot(disk, "create", "new")
    snapshot(disk, "rename", "other", "another")
    if wreck in ("l2 to the other l1", "no refcount"):  # clusters that the damage refers to stay
        refused(disk, "delete", "another", contains="run qimg check")
    else:
        snapshot(disk, "delete", "another")
    assert content_of(disk, tmp_path / "out") == content
    assert content_of(disk, tmp_path / "out", "new") == content


@pytest.mark.parametrize("damage", ["far", "on a table"])
def test_damaged_disk(damage, disk):
    """Neither taken nor deleted: a snapshot would keep the damage."""
    add_snapshots(disk, "old")
    qemu.write(disk, (0, 8192, "words", 9))
    with Qcow2File(disk) as file:
        value = {"far": 1 << 40, "on a table": file.get("snapshots_offset")}[damage]
        file.set_l2_entry(4096, value | COPIED)
    refused(disk, "create", "new", contains="run qimg check")
    refused(disk, "revert", "old", contains="run qimg check")


# ---- no room ------------------------------------------------------------------------------------


@pytest.mark.limit(120)
@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v[0])
@pytest.mark.parametrize("options", [{"cluster_size": 4096}, {"cluster_size": 4096, "compat": "0.10"}],
                         ids=["v3", "v2"])
def test_full_file_system(options, verb, tmp_path):
    """Page by page more room, until there is enough: a failing attempt changes nothing visible,
    and leaves nothing behind."""
    env.need_root("a tmpfs of its own")
    with small_tmpfs(tmp_path / "small", "2M") as small:
        disk = qemu.create(small / "disk.qcow2", 4 * MIB, **options)
        qemu.write(disk, (0, 256 * KIB, "noise", 1))
        qemu.img("snapshot", "-c", "old", disk)
        qemu.write(disk, (0, 256 * KIB, "noise", 2))
        qemu.img("snapshot", "-c", "other", disk)
        before = listed(disk)
        contents = [content_of(disk, tmp_path / "out", name) for name in (None, "old", "other")]
        n_failed = 0
        for n_pages in range(100):
            with open(small / "ballast", "wb", buffering=0) as ballast:
                try:
                    while True:
                        ballast.write(bytes(4096))
                except OSError:
                    pass
                ballast.truncate(max(0, os.fstat(ballast.fileno()).st_size - 4096 * n_pages))
            result = snapshot(disk, *verb, check=False)
            (small / "ballast").unlink()
            check(disk)
            if result.status == 0:
                break
            n_failed += 1
            assert "no space is left" in result.errors, result
            assert listed(disk) == before
            assert [content_of(disk, tmp_path / "out", name) for name in (None, "old", "other")] == contents
        assert result.status == 0, result
        assert n_failed > 0 or verb[0] == "delete", "there was always room"
        check(disk)
        if verb[0] == "revert":
            assert content_of(disk, tmp_path / "out") == contents[1]
        else:
            assert content_of(disk, tmp_path / "out") == contents[0]
        assert content_of(disk, tmp_path / "out", "other") == contents[2]


@pytest.mark.parametrize("verb", ["delete", "revert"])
def test_refcounts_too_low(verb, tmp_path):
    """A cluster of two disks is counted once: lowering that would free it for the other one."""
    image = qemu.create(tmp_path / "disk.qcow2", MIB, cluster_size=4096)
    qemu.write(image, (0, MIB // 2, "words", 1))
    qemu.img("snapshot", "-c", "one", image.name, cwd=tmp_path)
    with Qcow2File(image) as file:
        block = struct.unpack(">Q", file.read(file.get("refcount_table_offset"), 8))[0]
        place = file.l2_entry(0) & 0x00fffffffffffe00
        file.write(block + place // 4096 * 2, b"\0\1")
    before = qemu.to_raw(image, tmp_path / "raw").read_bytes()
    result = procs.run(env.qimg(), "snapshot", verb, image, "one", check=False)
    assert result.status == 1 and "run qimg check" in result.errors
    assert qemu.to_raw(image, tmp_path / "raw").read_bytes() == before
    procs.run(env.qimg(), "check", "-r", "all", image)
    procs.run(env.qimg(), "snapshot", verb, image, "one")
    qemu.img("check", "-q", image.name, cwd=tmp_path)
    assert qemu.to_raw(image, tmp_path / "raw").read_bytes() == before
