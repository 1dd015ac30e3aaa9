# SPDX-License-Identifier: GPL-2.0-or-later
"""Images whose writer died with lazy refcounts: the first write's repair of arbitrary refcounts
and COPIED flags, judged by `qemu-img check`; and its refusals."""

import errno
import mmap
import os
import shutil
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from qtest import pattern, qemu
from qtest.checks import read_all
from qtest.evidence import file_digest
from qtest.mount import Mount
from qtest.procs import run
from qtest.qcow2 import COMPRESSED, COPIED, DIRTY, OFFSET_MASK, Qcow2File
from qtest.writing import assert_content, check, opened, pwrite

KIB, MIB = 1 << 10, 1 << 20
BITMAPS_VALID = 1
NOT_CLOSED = "was not closed properly and has been repaired"


# ---- making images -------------------------------------------------------------------------

def make(folder, snapshots=0, compressed=False, before=(), backing=False, size=4 * MIB, **options):
    folder.mkdir()
    path = folder / "disk.qcow2"
    if backing:
        qemu.make_raw(folder / "base.img", size, (0, size, "words", 70))
    qemu.create(path, size, "base.img" if backing else None, "raw" if backing else None,
                lazy_refcounts="on", **options)
    for command in before:
        qemu.io(path, command)
    if compressed:
        qemu.write(path, *[(at, 64 * KIB, "words", 5, "-c") for at in range(MIB, 2 * MIB, 64 * KIB)])
    for number in range(snapshots):
        qemu.write(path, (number * 100 * KIB, 300 * KIB, "noise", number))
        qemu.img("snapshot", "-c", f"s{number}", path)
    qemu.die_writing(path, "write -P 7 50k 200k", "write -P 8 3000k 70k", "write -z 2200k 200k",
                "discard 60k 70k")
    return path


LAYOUTS = {
    "plain": {},
    **{f"bits-{bits}": {"refcount_bits": bits, "compressed": bits != 1} for bits in (1, 2, 4, 8, 32, 64)},
    "clusters-512": {"cluster_size": 512, "compressed": True, "snapshots": 1},
    "clusters-512-64-bits": {"cluster_size": 512, "refcount_bits": 64},
    "clusters-4k": {"cluster_size": 4096, "snapshots": 3, "compressed": True},
    "clusters-2M": {"cluster_size": 2 * MIB, "snapshots": 1},
    "snapshots": {"snapshots": 3},
    "snapshots-2-bits": {"snapshots": 2, "refcount_bits": 2},
    "compressed": {"compressed": True, "snapshots": 2},
    "extended": {"extended_l2": "on", "compressed": True, "snapshots": 1, "backing": True},
    "extended-16k": {"extended_l2": "on", "cluster_size": 16384, "snapshots": 2},
    "backing": {"backing": True, "snapshots": 1},
    "reserved": {"preallocation": "metadata", "before": ["write -P 1 0 1M", "write -z 100k 300k"]},
    "reserved-extended": {"preallocation": "metadata", "extended_l2": "on", "before": ["write -P 1 3k 1M"]},
    "data-file": {"data_file": "disk.data"},
    "data-file-extended": {"data_file": "disk.data", "extended_l2": "on"},
}


# ---- damage: possible refcounts and flags of a dirty image ----

def refcount_table(image):
    n = image.get("refcount_table_clusters") * image.cluster_size // 8
    return list(struct.unpack(f">{n}Q", image.read(image.get("refcount_table_offset"), 8 * n)))


def fill_blocks(image, byte):
    for block in filter(None, refcount_table(image)):
        image.write(block, bytes([byte]) * image.cluster_size)


def change_flags(image, change):
    """Sets the COPIED flags of the active tables by @change(flag)."""
    at = image.get("l1_table_offset")
    for index in range(image.get("l1_size")):
        entry = struct.unpack(">Q", image.read(at + 8 * index, 8))[0]
        table = entry & OFFSET_MASK
        if not table:
            continue
        entry = entry & ~COPIED | change(entry & COPIED)
        image.write(at + 8 * index, struct.pack(">Q", entry))
        for place in range(table, table + image.cluster_size, image.l2_entry_size):
            word = struct.unpack(">Q", image.read(place, 8))[0]
            if word & OFFSET_MASK and not word & COMPRESSED:
                word = word & ~COPIED | change(word & COPIED)
                image.write(place, struct.pack(">Q", word))


def drop_blocks(image):
    """The refcount table as if no block had ever been made."""
    at = image.get("refcount_table_offset")
    image.write(at, bytes(image.get("refcount_table_clusters") * image.cluster_size))


def swap_flags(image):
    if not image.get("incompatible") & 4:  # with a data file the flag marks allocated clusters
        change_flags(image, lambda flag: COPIED ^ flag)


def all_of_it(image):
    fill_blocks(image, 0x5a)
    swap_flags(image)


DAMAGES = {
    "as-left": lambda image: None,
    "zeros": lambda image: fill_blocks(image, 0),
    "ones": lambda image: fill_blocks(image, 0xff),
    "flags": swap_flags,
    "dropped": drop_blocks,
    "all": all_of_it,
}


@pytest.fixture(scope="module")
def layouts():
    """Images are made once, and copied for each damage."""
    from qtest import env, fixtures
    env.need_tools("qemu-img", "qemu-io")
    root = fixtures.make_scratch("dirty-images")
    made = {}

    def get(name, target):
        if name not in made:
            made[name] = make(root / name, **LAYOUTS[name])
        shutil.copytree(made[name].parent, target)
        return target / "disk.qcow2"

    yield get
    fixtures.remove_scratch(root)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_write_repairs(layout, damage, layouts, tmp_path, mnt, rng):
    path = layouts(layout, tmp_path / "images")
    content = bytearray(qemu.to_raw(path, tmp_path / "out").read_bytes())
    snapshots = qemu.snapshot_contents(path, tmp_path)
    with Qcow2File(path) as image:
        DAMAGES[damage](image)
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            # In written, compressed, shared, zeroed, and unallocated parts.
            for at in (51_000, 150_000, MIB + 5000, 2_300_000, 3_900_000):
                data = rng.randbytes(3000)
                pwrite(fd, data, at)
                content[at:at + len(data)] = data
            with Qcow2File(path) as image:
                assert not image.get("incompatible") & DIRTY
        pattern.assert_same(read_all(mount.raw(path)), bytes(content), "the mounted disk")
        assert mount.stderr().count(NOT_CLOSED) == 1
    check(path)
    assert_content(path, content, tmp_path / "out")
    assert qemu.snapshot_contents(path, tmp_path) == snapshots


@pytest.mark.parametrize("damage", ["as-left", "all", "dropped"])
def test_nothing_happens_without_a_write(damage, layouts, tmp_path, mnt):
    path = layouts("compressed", tmp_path / "images")
    with Qcow2File(path) as image:
        DAMAGES[damage](image)
    expected = qemu.to_raw(path, tmp_path / "out").read_bytes()
    before = file_digest(path), os.stat(path).st_mtime_ns
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            os.fsync(fd)
        pattern.assert_same(read_all(mount.raw(path)), expected, "the mounted disk")
        assert NOT_CLOSED not in mount.stderr()
    assert (file_digest(path), os.stat(path).st_mtime_ns) == before


def test_only_the_repair(layouts, tmp_path, mnt):
    """As `qemu-img check -r all`: the same refcounts and flags for a sound mapping, and no other
    byte differs."""
    path = layouts("compressed", tmp_path / "images")
    with Qcow2File(path) as image:
        DAMAGES["all"](image)
    twin = tmp_path / "twin.qcow2"
    shutil.copyfile(path, twin)
    qemu.img("check", "-q", "-r", "all", twin, check=False)
    with Qcow2File(twin) as image:  # QEMU leaves the counts behind the file
        n = image.file_size() // image.cluster_size
        image.write(refcount_table(image)[0] + 2 * n, bytes(image.cluster_size - 2 * n))
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, bytes([7]) * 512, 150_016)       # in place: it has that content already
    check(path)
    pattern.assert_same(path.read_bytes(), twin.read_bytes(), "the file and QEMU's repair of it")


def test_readers_at_once(layouts, tmp_path, mnt):
    """Readers during the repair of the tables see the disk as it is, at any moment."""
    path = layouts("clusters-4k", tmp_path / "images")
    content = qemu.to_raw(path, tmp_path / "out").read_bytes()
    with Qcow2File(path) as image:
        DAMAGES["all"](image)
    end = threading.Event()
    n_rounds = threading.Semaphore(0)

    def read(number):
        with opened(mount.raw(path), os.O_RDONLY | os.O_DIRECT) as fd:
            while not end.is_set():
                at = number * MIB
                buffer = mmap.mmap(-1, MIB)
                assert os.preadv(fd, [buffer], at) == MIB
                pattern.assert_same(buffer[:], content[at:at + MIB], "read meanwhile")
                mount.facts("disk", "info.json").read_bytes()
                n_rounds.release()

    with Mount(path, mnt, "-o", "rw") as mount, ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, number) for number in range(4)]
        try:
            for _ in readers:
                n_rounds.acquire(timeout=20)
            with opened(mount.raw(path)) as fd:
                pwrite(fd, content[3 * MIB:3 * MIB + 4096], 3 * MIB)    # the present content
            for _ in range(8):
                n_rounds.acquire(timeout=20)
        finally:
            end.set()
        for reader in readers:
            reader.result()
    check(path)
    assert_content(path, content, tmp_path / "out")


# ---- leaks and missing blocks ----------------------------------------------------------------

def test_leaks_are_freed(layouts, tmp_path, mnt):
    path = layouts("plain", tmp_path / "images")
    with Qcow2File(path) as image:
        for _ in range(5):
            image.append_cluster(b"nobody's")
        block = refcount_table(image)[0]
        n = image.file_size() // image.cluster_size
        image.write(block, struct.pack(">H", 1) * n)
        image.write(block + 2 * (n + 100), struct.pack(">H", 3) * 7)   # behind the file
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 512, 51_200)
    check(path)


def test_a_block_for_a_full_range(tmp_path, mnt, rng):
    """The missing block's own range has no free cluster: it is placed behind the file."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = qemu.create(folder / "disk.qcow2", MIB, cluster_size=512, refcount_bits=64,
                       lazy_refcounts="on")
    content = bytearray(MIB)
    content[:300 * KIB] = bytes([6]) * (300 * KIB)
    qemu.io(path, "write -P 6 0 300k")
    with Qcow2File(path) as image:
        image.set("incompatible", image.get("incompatible") | DIRTY)
        table = refcount_table(image)
        n_used = sum(1 for entry in table if entry)
        assert n_used > 8
        at = image.get("refcount_table_offset")
        # Blocks whose cluster is counted by another block: so their ranges stay full without them.
        per_block = 64 * 512
        elsewhere = [i for i, entry in enumerate(table[:n_used]) if entry // per_block != i]
        inside = [i for i in range(2, 5) if i not in elsewhere]
        for index in (*elsewhere[:2], *inside):
            image.write(at + 8 * index, bytes(8))
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 5000, 1000)
            content[1000:6000] = b"x" * 5000
    check(path)
    assert_content(path, content, tmp_path / "out")


# ---- bitmaps ---------------------------------------------------------------------------------

@pytest.mark.parametrize("is_valid", [True, False], ids=["valid", "stale"])
def test_bitmaps(is_valid, tmp_path, mnt):
    """Consistent bitmaps are counted; those made stale by an earlier writer are leaks."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = qemu.create(folder / "disk.qcow2", 4 * MIB, lazy_refcounts="on")
    for name in ("one", "two"):
        qemu.img("bitmap", "--add", path, name)
    qemu.io(path, "write -P 4 0 1M", "write -P 5 2M 1M")
    with Qcow2File(path) as image:
        fill_blocks(image, 0)
        image.set("incompatible", image.get("incompatible") | DIRTY)
        if not is_valid:
            image.set("autoclear", image.get("autoclear") & ~BITMAPS_VALID)
        extension = next(data for _, kind, data in image.extensions() if kind == 0x23852875)
        directory = struct.unpack(">IIQQ", extension)[3]
        table = struct.unpack(">Q", image.read(directory, 8))[0]
        data = struct.unpack(">Q", image.read(table, 8))[0] & OFFSET_MASK
        assert data
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            pwrite(fd, b"x" * 512, 4096)            # in place
            pwrite(fd, b"y" * 65536, 1536 * KIB)    # takes a cluster: one of theirs, if free
        with Qcow2File(path) as image:
            block = refcount_table(image)[0]
            counts = [struct.unpack(">H", image.read(block + 2 * (at // image.cluster_size), 2))[0]
                      for at in (directory, table, data)]
            # The reserve of the allocator takes clusters without a count.
            assert not is_valid or counts == [1, 1, 1]
    check(path, leaks_allowed=is_valid)
    content = bytearray(4 * MIB)
    content[:MIB], content[2 * MIB:3 * MIB] = bytes([4]) * MIB, bytes([5]) * MIB
    content[4096:4608], content[1536 * KIB:1600 * KIB] = b"x" * 512, b"y" * 65536
    assert_content(path, content, tmp_path / "out")


# ---- irreparable images ----

def l1_unaligned(image):
    image.set_l1_entry(0, image.l1_entry(0) + 512)


def l1_far(image):
    image.set_l1_entry(0, 1 << 40 | COPIED)


def l1_reserved(image):
    image.set_l1_entry(0, image.l1_entry(0) | 1 << 60)


def l2_unaligned(image):
    image.set_l2_entry(64 * KIB * 2, image.l2_entry(64 * KIB * 2) + 512)


def l2_far(image):
    image.set_l2_entry(64 * KIB * 2, 1 << 40 | COPIED)


def l2_on_l1(image):
    image.set_l2_entry(64 * KIB * 2, image.get("l1_table_offset") | COPIED)


def l2_on_itself(image):
    image.set_l2_entry(64 * KIB * 2, image.l1_entry(0))


def l2_table_in_refcount_block(image):
    image.set_l1_entry(0, refcount_table(image)[0] | COPIED)


def l2_compressed_far(image):
    image.set_l2_entry(64 * KIB * 2, COMPRESSED | 1 << 40)


def two_blocks_in_one(image):
    at = image.get("refcount_table_offset")
    image.write(at + 8, image.read(at, 8))


def snapshot_l1_in_active(image):
    entry = image.snapshots()[0]
    image.write(entry["place"], struct.pack(">Q", image.get("l1_table_offset")))


def many_references(image):
    """More than refcounts of 2 bits can count."""
    for index in range(4):
        image.set_l2_entry(64 * KIB * (8 + index), image.l2_entry(64 * KIB * 2) | COPIED)


WRECKS = [
    ("plain", l1_unaligned, "no multiple of the cluster size"),
    ("plain", l1_far, "beyond the end of the file"),
    ("plain", l1_reserved, "reserved bits"),
    ("plain", l2_unaligned, "no multiple of the cluster size"),
    ("plain", l2_far, "beyond the end of the file"),
    ("plain", l2_on_l1, "overlap"),
    ("plain", l2_on_itself, "overlap"),
    ("plain", l2_table_in_refcount_block, "overlap"),
    ("compressed", l2_compressed_far, "beyond the end of the file"),
    ("plain", two_blocks_in_one, "overlap"),
    ("snapshots", snapshot_l1_in_active, "overlap"),
    ("snapshots-2-bits", many_references, "too many references"),
]


@pytest.mark.parametrize("layout, wreck, text", WRECKS, ids=[w[1].__name__ for w in WRECKS])
def test_wrecks_are_not_touched(layout, wreck, text, layouts, tmp_path, mnt):
    path = layouts(layout, tmp_path / "images")
    with Qcow2File(path) as image:
        wreck(image)
    before = path.read_bytes()
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            for number in (errno.EIO, errno.EROFS):
                with pytest.raises(OSError) as caught:
                    os.pwrite(fd, b"x" * 512, 3_500_000)
                assert caught.value.errno == number
        said = mount.stderr()
        assert text in said and said.count("cannot be repaired") == 1, said
        assert "qimg check -r all" in said
    assert path.read_bytes() == before


def test_refcount_table_too_small(tmp_path, mnt):
    """A table that ends before the file does: it is not rebuilt."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = qemu.create(folder / "disk.qcow2", 4 * MIB, cluster_size=512, refcount_bits=64,
                       lazy_refcounts="on")
    qemu.io(path, "write -P 6 0 4M")
    with Qcow2File(path) as image:
        image.set("incompatible", image.get("incompatible") | DIRTY)
        assert image.get("refcount_table_clusters") > 1
        image.set("refcount_table_clusters", 1)
    before = path.read_bytes()
    with Mount(path, mnt, "-o", "rw") as mount:
        with opened(mount.raw(path)) as fd:
            with pytest.raises(OSError) as caught:
                os.pwrite(fd, b"x" * 512, 0)
            assert caught.value.errno == errno.EIO
        assert "does not reach all clusters in use" in mount.stderr()
    assert path.read_bytes() == before
