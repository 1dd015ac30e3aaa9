# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg check and its repairs, beside qemu-img's: sound images of all sorts, and deliberately
damaged images. We repair everything that qemu-img repairs, and the disk is the same as before."""

import json
import shutil
import struct
import subprocess

import pytest

from qtest import env, fixtures, pattern, qemu
from qtest.evidence import Unchanged
from qtest.procs import Result, run
from qtest.qcow2 import COMPRESSED, COPIED, CORRUPT, DIRTY, OFFSET_MASK, ZERO, Qcow2File
from qtest.writing import allocated_bytes

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
CLEAN, FAILED, CORRUPTED, LEAKED, NO_CHECK = 0, 1, 2, 3, 63
COUNTS = ("check-errors", "corruptions", "leaks")
STATISTICS = ("image-end-offset", "total-clusters", "allocated-clusters", "fragmented-clusters",
              "compressed-clusters")


# ---- running ---------------------------------------------------------------------------------

def qimg_check(path, *options):
    """(exit status, JSON) of our check."""
    result = run(env.qimg(), "check", "--output=json", *options, path, check=False, limit_s=60)
    return result.status, json.loads(result.text) if result.text else None


def qemu_check(path, *options):
    """(exit status, JSON) of QEMU's; it prints other lines before the JSON when it repairs."""
    result = qemu.img("check", "--output=json", *options, path.name, cwd=path.parent, check=False)
    text = result.text[result.text.find("{"):]
    return result.status, json.loads(text) if text.startswith("{") else None


def assert_same(ours, theirs, keys):
    wrong = {key: (ours[key], theirs.get(key, 0)) for key in keys if ours[key] != theirs.get(key, 0)}
    assert not wrong, f"ours and qemu-img's: {wrong}\n{json.dumps(ours['findings'], indent=1)}"


# ---- images ------------------------------------------------------------------------------------

def make(folder, size=4 * MIB, snapshots=0, compressed=False, bitmaps=0, backing=False, **options):
    folder.mkdir()
    path = folder / "disk.qcow2"
    if backing:
        qemu.make_raw(folder / "base.img", size, (0, size, "words", 70))
    qemu.create(path, size, "base.img" if backing else None, "raw" if backing else None, **options)
    qemu.io(path, "write -P 5 100k 500k", "write -P 6 3M 200k")
    if compressed:
        qemu.write(path, *[(at, 64 * KIB, "words", 5, "-c") for at in range(MIB, 2 * MIB, 64 * KIB)])
    for number in range(snapshots):
        qemu.img("snapshot", "-c", f"s{number}", path)
        qemu.io(path, f"write -P {9 + number} {number * 100}k 300k")
    for number in range(bitmaps):
        qemu.img("bitmap", "--add", path, f"b{number}")
    qemu.io(path, "write -P 8 2500k 70k", "discard 2560k 64k")
    if options.get("compat") != "0.10":
        qemu.io(path, "write -z 3100k 64k", "write -z -u 3200k 64k")
    return path


LAYOUTS = {
    "plain": {},
    "v2": {"compat": "0.10", "snapshots": 1, "compressed": True},
    **{f"bits-{bits}": {"refcount_bits": bits, "compressed": bits != 1, "snapshots": int(bits > 2)}
       for bits in (1, 2, 4, 8, 32, 64)},
    "clusters-512": {"cluster_size": 512, "snapshots": 2, "compressed": True},
    "clusters-512-64-bits": {"cluster_size": 512, "refcount_bits": 64},
    "clusters-4k": {"cluster_size": 4096, "snapshots": 3, "compressed": True},
    "clusters-2M": {"cluster_size": 2 * MIB, "snapshots": 1},
    "zstd": {"compression_type": "zstd", "compressed": True, "snapshots": 1},
    "extended": {"extended_l2": "on", "compressed": True, "snapshots": 1, "backing": True},
    "extended-16k": {"extended_l2": "on", "cluster_size": 16384, "snapshots": 2},
    "snapshots": {"snapshots": 4},
    "bitmaps": {"bitmaps": 3},
    "bitmaps-512": {"bitmaps": 2, "cluster_size": 512, "snapshots": 1},
    "backing": {"backing": True, "snapshots": 1},
    "lazy": {"lazy_refcounts": "on"},
    "reserved": {"preallocation": "metadata"},
    "reserved-extended": {"preallocation": "metadata", "extended_l2": "on"},
    "data-file": {"data_file": "disk.data"},
    "data-file-raw": {"data_file": "disk.data", "data_file_raw": "on"},
}


class Layouts:
    """Images are made once, and copied for each test."""

    def __init__(self, root):
        self._root, self._made, self._contents = root, {}, {}

    def _path(self, name):
        if name not in self._made:
            self._made[name] = make(self._root / name, **LAYOUTS[name])
        return self._made[name]

    def __call__(self, name, target):
        shutil.copytree(self._path(name).parent, target)
        return target / "disk.qcow2"

    def contents(self, name, scratch):
        """The content of the disk and its snapshots."""
        if name not in self._contents:
            self._contents[name] = contents(self._path(name), scratch)
        return self._contents[name]


@pytest.fixture(scope="module")
def layouts():
    env.need_tools("qemu-img", "qemu-io")
    env.qimg()
    root = fixtures.make_scratch("check-images")
    yield Layouts(root)
    fixtures.remove_scratch(root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sound(layout, layouts, tmp_path):
    path = layouts(layout, tmp_path / "images")
    with Unchanged(path.parent):
        for options in ((), ("-r", "leaks"), ("-r", "all")):
            status, ours = qimg_check(path, *options)
            assert (status, ours["findings"]) == (CLEAN, [])
    status, theirs = qemu_check(path)
    assert status == CLEAN
    assert_same(ours, theirs, COUNTS + STATISTICS)
    assert theirs.keys() <= ours.keys()
    assert ours["filename"] == str(path) and ours["format"] == "qcow2"


def test_encrypted(tmp_path):
    """The area of the LUKS header is counted without a key."""
    path = qemu.create_encrypted(tmp_path / "disk.qcow2", 4 << 20, secret="words")
    status, ours = qimg_check(path)
    assert (status, ours["findings"]) == (CLEAN, [])
    with Qcow2File(path) as image:
        set_refcount(image, 20, 0)
        set_refcount(image, image.file_size() // image.cluster_size - 1, 5)
    assert qimg_check(path)[0] == CORRUPTED
    assert qimg_check(path, "-r", "all")[0] == CLEAN
    qemu.img("check", "--object", "secret,id=s,data=words", "--image-opts",
             f"driver=qcow2,file.filename={path},encrypt.key-secret=s")


def test_key_derivation_gets_more_time(tmp_path, monkeypatch):
    """A machine too fast to measure the first times."""
    given, make = [], qemu.img

    def img(*argv, **options):
        given.append(next(a for a in argv if "iter-time" in str(a)))
        if len(given) < 3:
            return Result(argv, 1, b"", b"qemu-img: Unable to get accurate CPU usage", 0)
        return make(*argv, **options)

    monkeypatch.setattr(qemu, "img", img)
    qemu.create_encrypted(tmp_path / "disk.qcow2", 1 << 20)
    # A very fast machine cannot measure the third, either.
    assert [text.rpartition("=")[2] for text in given][:3] == ["10", "100", "1000"]


@pytest.mark.parametrize("options", [{}, {"cluster_size": 512, "size": 16 << 30}, {"extended_l2": "on"},
                                     {"preallocation": "metadata", "size": 64 << 30}])
def test_large(options, tmp_path):
    options = {"size": TIB, **options}
    size = options.pop("size")
    path = qemu.create(tmp_path / "disk.qcow2", size, **options)
    qemu.io(path, "write -P 1 0 100k", f"write -P 2 {size - 65536} 64k", f"write -P 3 {size // 2} 1M")
    status, ours = qimg_check(path)
    assert status == CLEAN
    theirs = qemu_check(path)[1]
    assert_same(ours, theirs, COUNTS + STATISTICS)


# ---- damage --------------------------------------------------------------------------------------

def refcount_blocks(image):
    n = image.get("refcount_table_clusters") * image.cluster_size // 8
    return list(struct.unpack(f">{n}Q", image.read(image.get("refcount_table_offset"), 8 * n)))


def refcount_bits(image):
    return 1 << image.get("refcount_order") if image.version >= 3 else 16


def set_refcount(image, cluster, value):
    bits = refcount_bits(image)
    per_block = image.cluster_size * 8 // bits
    block, index = refcount_blocks(image)[cluster // per_block], cluster % per_block
    assert block
    if bits >= 8:
        image.write(block + index * bits // 8, value.to_bytes(bits // 8, "big"))
        return
    at, shift = block + index * bits // 8, index * bits % 8
    mask = ((1 << bits) - 1) << shift
    image.write(at, bytes([image.read(at, 1)[0] & ~mask | (value << shift) & mask]))


def data_place(image, skip=0):
    """A guest offset with a data cluster of the active disk."""
    for guest in range(0, image.get("size"), image.cluster_size):
        if image.l1_entry(guest) and not image.l2_entry(guest) & (COMPRESSED | ZERO) and \
                image.l2_entry(guest) & OFFSET_MASK:
            if not skip:
                return guest
            skip -= 1
    raise AssertionError("no data cluster")


def unused_place(image):
    for guest in range(0, image.get("size"), image.cluster_size):
        if image.l1_entry(guest) and image.l2_entry(guest) == 0:
            return guest
    raise AssertionError("no unused entry")


def data_cluster(image, skip=0):
    return (image.l2_entry(data_place(image, skip)) & OFFSET_MASK) // image.cluster_size


def l2_cluster(image):
    return (image.l1_entry(data_place(image)) & OFFSET_MASK) // image.cluster_size


def leak(image):
    for _ in range(5):
        image.append_cluster(b"nobody's")
    for cluster in range(image.file_size() // image.cluster_size - 5, image.file_size() // image.cluster_size):
        set_refcount(image, cluster, 1)


def too_high(image):
    set_refcount(image, data_cluster(image, 2), 3)


def too_high_table(image):
    set_refcount(image, l2_cluster(image), 2)


def zero(image):
    set_refcount(image, data_cluster(image, 2), 0)


def zero_metadata(image):
    for cluster in (0, image.get("l1_table_offset") // image.cluster_size, l2_cluster(image)):
        set_refcount(image, cluster, 0)


def all_zero(image):
    for block in filter(None, refcount_blocks(image)):
        image.write(block, bytes(image.cluster_size))


def all_ones(image):
    for block in filter(None, refcount_blocks(image)):
        image.write(block, b"\xff" * image.cluster_size)


def no_blocks(image):
    image.write(image.get("refcount_table_offset"),
                bytes(image.get("refcount_table_clusters") * image.cluster_size))


def flag_clear(image):
    place = data_place(image, 1)
    image.set_l2_entry(place, image.l2_entry(place) & ~COPIED)


def flag_l1(image):
    place = data_place(image)
    image.set_l1_entry(place, image.l1_entry(place) ^ COPIED)


def leak_and_flag(image):
    leak(image)
    flag_l1(image)


def two_entries(image):
    place = unused_place(image)
    image.set_l2_entry(place, image.l2_entry(data_place(image, 1)))


def l2_on_table(image):
    image.set_l2_entry(unused_place(image), image.get("l1_table_offset") | COPIED)


def l2_on_block(image):
    image.set_l2_entry(unused_place(image), refcount_blocks(image)[0] | COPIED)


def l1_shares_table(image):
    at, n = image.get("l1_table_offset"), image.get("l1_size")
    entries = struct.unpack(f">{n}Q", image.read(at, 8 * n))
    used = next(entry for entry in entries if entry)
    image.write(at + 8 * entries.index(0), struct.pack(">Q", used))


def block_unaligned(image):
    image.write(image.get("refcount_table_offset"), struct.pack(">Q", refcount_blocks(image)[0] + 512))


def block_far(image):
    image.write(image.get("refcount_table_offset"), struct.pack(">Q", 1 << 40))


def block_reserved(image):
    image.write(image.get("refcount_table_offset"), struct.pack(">Q", refcount_blocks(image)[0] | 1))


def block_on_l1(image):
    image.write(image.get("refcount_table_offset"), struct.pack(">Q", image.get("l1_table_offset")))


def block_on_data(image):
    image.write(image.get("refcount_table_offset"), struct.pack(">Q", data_cluster(image) * image.cluster_size))


def table_garbage(image):
    image.write(image.get("refcount_table_offset"), b"\xa5" * image.cluster_size)


def table_far(image):
    image.set("refcount_table_offset", 1 << 40)


def table_unaligned(image):
    image.set("refcount_table_offset", image.get("refcount_table_offset") + 8)


def no_table(image):
    image.set("refcount_table_clusters", 0)


def table_on_l1(image):
    image.set("refcount_table_offset", image.get("l1_table_offset"))


def l1_reserved(image):
    place = data_place(image)
    image.set_l1_entry(place, image.l1_entry(place) | 1 << 60)


def l2_reserved(image):
    place = data_place(image, 1)
    image.set_l2_entry(place, image.l2_entry(place) | 1 << 59)


def l2_unaligned(image):
    place = data_place(image, 1)
    image.set_l2_entry(place, image.l2_entry(place) | 512)


def zero_unaligned(image):
    image.set_l2_entry(unused_place(image), 5 * image.cluster_size + 512 | ZERO)


def data_far(image):
    image.set_l2_entry(unused_place(image), 1 << 40)


def l1_far(image):
    place = data_place(image)
    image.set_l1_entry(place, 1 << 40 | COPIED)


def cut(image):
    """The part behind is lost: nothing is put there, since it would read as zeros from then on."""
    image.truncate(data_cluster(image, 3) * image.cluster_size)


def cut_without_blocks(image):
    cut(image)
    no_blocks(image)


def compressed_flag(image):
    place = image.compressed_guest_offsets()[0]
    image.set_l2_entry(place, image.l2_entry(place) | COPIED)


def bitmaps_stale(image):
    image.set("autoclear", 0)


def snapshots_incomplete(image):
    entries = image.snapshots()
    entries[0]["extra"], entries[1]["extra"] = 0, 8
    image.write_snapshots(entries)
    set_refcount(image, image.get("snapshots_offset") // image.cluster_size, 1)


def snapshots_long(image):
    entries = image.snapshots()
    entries[1]["extra"] = 2000
    image.write_snapshots(entries)
    set_refcount(image, image.get("snapshots_offset") // image.cluster_size, 1)


def marked(bit):
    return lambda image: image.set("incompatible", image.get("incompatible") | bit)


# damage, layouts, exit status of the check (None: QEMU's), after our -r all, of QEMU's check of
# that; whether the counts are QEMU's; whether the disk reads as before, or as it then does
BEFORE, THEN = "before", "then"
ROWS = {
    "leak": (leak, ("plain", "bits-1", "bits-64", "v2", "extended", "data-file"), LEAKED, CLEAN,
             CLEAN, True, BEFORE),
    "too-high": (too_high, ("plain", "snapshots", "bits-4", "bits-32"), None, CLEAN, CLEAN, True,
                 BEFORE),
    "too-high-table": (too_high_table, ("plain", "bits-64"), None, CLEAN, CLEAN, True, BEFORE),
    "zero": (zero, ("plain", "bits-1", "bits-2", "bits-64", "v2", "snapshots"), CORRUPTED, CLEAN,
             CLEAN, True, BEFORE),
    "zero-metadata": (zero_metadata, ("plain", "extended", "backing", "data-file", "bitmaps"),
                      CORRUPTED, CLEAN, CLEAN, True, BEFORE),
    "all-zero": (all_zero, ("v2", "bits-1", "bits-8", "clusters-512", "clusters-4k", "zstd", "extended",
                            "bitmaps", "reserved", "data-file"), CORRUPTED, CLEAN, CLEAN, True, BEFORE),
    "all-ones": (all_ones, ("plain", "v2", "bits-2", "bits-32", "clusters-512"), None, CLEAN, CLEAN,
                 False, BEFORE),
    "no-blocks": (no_blocks, ("plain", "bits-2", "bits-64", "clusters-512-64-bits", "clusters-2M",
                              "extended-16k", "snapshots", "bitmaps-512", "backing"), CORRUPTED, CLEAN,
                  CLEAN, True, BEFORE),
    "flag-clear": (flag_clear, ("plain", "v2", "extended", "bits-1"), CORRUPTED, CLEAN, CLEAN,
                   True, BEFORE),
    "flag-l1": (flag_l1, ("plain", "snapshots", "extended", "data-file"), CORRUPTED, CLEAN, CLEAN,
                True, BEFORE),
    "leak-and-flag": (leak_and_flag, ("plain", "clusters-4k"), CORRUPTED, CLEAN, CLEAN, True, BEFORE),
    "two-entries": (two_entries, ("plain", "snapshots", "bits-2"), CORRUPTED, CLEAN, CLEAN, True, THEN),
    "two-entries-1-bit": (two_entries, ("bits-1",), CORRUPTED, CORRUPTED, CORRUPTED, False, THEN),
    "l2-on-table": (l2_on_table, ("plain", "clusters-512"), CORRUPTED, CORRUPTED, CLEAN, False, None),
    "l2-on-block": (l2_on_block, ("plain", "clusters-4k"), CORRUPTED, CLEAN, CLEAN, False, None),
    "l1-shares-table": (l1_shares_table, ("clusters-512",), CORRUPTED, CLEAN, CLEAN, True, THEN),
    "block-unaligned": (block_unaligned, ("plain", "clusters-2M", "snapshots"), CORRUPTED, CLEAN,
                        CLEAN, False, BEFORE),
    "block-far": (block_far, ("plain", "bits-64", "clusters-512", "v2"), CORRUPTED, CLEAN, CLEAN,
                  False, BEFORE),
    "block-reserved": (block_reserved, ("plain",), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "block-on-l1": (block_on_l1, ("plain", "extended"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "block-on-data": (block_on_data, ("plain", "bitmaps"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "table-garbage": (table_garbage, ("plain", "clusters-512", "bits-1", "zstd"), CORRUPTED, CLEAN,
                      CLEAN, False, BEFORE),
    "table-far": (table_far, ("plain", "snapshots"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "table-unaligned": (table_unaligned, ("plain", "v2"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "no-table": (no_table, ("plain", "bitmaps"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "table-on-l1": (table_on_l1, ("plain", "clusters-4k"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "l1-reserved": (l1_reserved, ("plain",), CORRUPTED, CORRUPTED, CORRUPTED, True, None),
    "l2-reserved": (l2_reserved, ("plain", "v2"), CORRUPTED, CORRUPTED, CORRUPTED, True, None),
    "l2-unaligned": (l2_unaligned, ("plain",), CORRUPTED, CORRUPTED, CORRUPTED, False, None),
    "zero-unaligned": (zero_unaligned, ("plain", "snapshots"), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "data-far": (data_far, ("plain", "clusters-512"), CORRUPTED, CORRUPTED, CORRUPTED, False, None),
    "cut": (cut, ("plain", "clusters-4k"), CORRUPTED, CORRUPTED, CORRUPTED, False, None),
    "cut-without-blocks": (cut_without_blocks, ("plain",), CORRUPTED, CORRUPTED, CORRUPTED, False, None),
    "l1-far": (l1_far, ("plain",), CORRUPTED, CORRUPTED, None, False, None),
    "compressed-flag": (compressed_flag, ("zstd", "v2"), CORRUPTED, CLEAN, CLEAN, True, BEFORE),
    "bitmaps-stale": (bitmaps_stale, ("bitmaps", "bitmaps-512"), LEAKED, CLEAN, CLEAN, True, BEFORE),
    "snapshots-incomplete": (snapshots_incomplete, ("snapshots", "clusters-4k"), CORRUPTED, CLEAN,
                             CLEAN, True, BEFORE),
    "snapshots-long": (snapshots_long, ("snapshots",), CORRUPTED, CLEAN, CLEAN, False, BEFORE),
    "marked-corrupt": (marked(CORRUPT), ("plain", "snapshots"), CLEAN, CLEAN, CLEAN, True, BEFORE),
    "marked-dirty": (marked(DIRTY), ("lazy", "plain"), CLEAN, CLEAN, CLEAN, True, BEFORE),
}
CASES = [pytest.param(name, layout, id=f"{name}-{layout}") for name, row in ROWS.items() for layout in row[1]]


def contents(path, folder):
    return qemu.to_raw(path, folder / "out.raw").read_bytes(), qemu.snapshot_contents(path, folder)


def twin_of(path, folder):
    shutil.copytree(path.parent, folder)
    return folder / path.name


@pytest.mark.parametrize("name, layout", CASES)
def test_damaged(name, layout, layouts, tmp_path):
    damage, _, status, repaired, qemu_repaired, same_counts, reads_as = ROWS[name]
    path = layouts(layout, tmp_path / "images")
    with Qcow2File(path) as image:
        damage(image)
    if reads_as:
        wanted = layouts.contents(layout, tmp_path) if reads_as == BEFORE else contents(path, tmp_path)

    with Unchanged(path.parent):
        our_status, ours = qimg_check(path)
    their_status, theirs = qemu_check(path)
    assert our_status == (their_status if status is None else status), ours
    assert our_status in (their_status, CORRUPTED), (ours, theirs)
    assert len(ours["findings"]) > 0 or our_status == CLEAN
    if same_counts:
        assert our_status == their_status
        assert_same(ours, theirs, COUNTS)

    our_status, ours = qimg_check(path, "-r", "leaks")
    assert reads_as is None or our_status in (CLEAN, CORRUPTED)
    our_status, ours = qimg_check(path, "-r", "all")
    assert our_status == repaired, ours
    their_status, theirs = qemu_check(path)
    assert qemu_repaired is None or their_status == qemu_repaired, theirs
    if reads_as:
        found = contents(path, tmp_path)
        pattern.assert_same(found[0], wanted[0], "the repaired disk")
        assert found[1] == wanted[1]
    if our_status == CLEAN:
        assert qimg_check(path)[0] == CLEAN
        assert not ours["dirty-flag"] and not ours["corrupt"]
        with Qcow2File(path) as image:
            assert image.version < 3 or not image.get("incompatible") & (DIRTY | CORRUPT)
    if our_status == CLEAN and reads_as == BEFORE and layout in ("plain", "snapshots"):
        qemu.io(path, "write -P 77 150k 200k", "write -P 78 3300k 100k")
        assert qemu_check(path)[0] == CLEAN


@pytest.mark.parametrize("name", ["leak", "flag-clear", "too-high", "leak-and-flag", "bitmaps-stale"])
def test_leaks_only(name, layouts, tmp_path):
    """-r leaks has the same effect as qemu-img's."""
    damage, of_layouts = ROWS[name][:2]
    path = layouts(of_layouts[0], tmp_path / "images")
    with Qcow2File(path) as image:
        damage(image)
    twin = twin_of(path, tmp_path / "twin")
    status, ours = qimg_check(path, "-r", "leaks")
    their_status, theirs = qemu_check(twin, "-r", "leaks")
    assert status == their_status, (ours, theirs)
    assert_same(ours, theirs, COUNTS)
    with Qcow2File(path) as image, Qcow2File(twin) as other:
        for block in filter(None, refcount_blocks(image)):
            assert image.read(block, image.cluster_size) == other.read(block, image.cluster_size)
        for guest in range(0, image.get("size"), image.cluster_size):
            assert image.l2_entry(guest) == other.l2_entry(guest)


def test_what_may_be_used_is_not_freed(layouts, tmp_path):
    """With an unreadable table, apparent leaks are kept: QEMU frees them."""
    path = layouts("clusters-4k", tmp_path / "images")
    with Qcow2File(path) as image:
        place = data_place(image)
        good = image.l1_entry(place)
        image.set_l1_entry(place, good | 512)
    before = path.read_bytes()
    for mode in ("leaks", "all"):
        assert qimg_check(path, "-r", mode)[0] == CORRUPTED
    with Qcow2File(path) as image:
        image.set_l1_entry(place, good)
    assert_blocks_kept(before, path)


def assert_blocks_kept(before, path):
    """No refcount is lower than in the bytes @before."""
    with Qcow2File(path) as image:
        assert refcount_bits(image) == 16
        for block in filter(None, refcount_blocks(image)):
            old = struct.unpack(f">{image.cluster_size // 2}H", before[block:block + image.cluster_size])
            new = struct.unpack(f">{image.cluster_size // 2}H", image.read(block, image.cluster_size))
            assert all(a <= b for a, b in zip(old, new))


@pytest.mark.parametrize("damage", [cut, cut_without_blocks])
def test_a_cut_file_does_not_grow(damage, layouts, tmp_path):
    path = layouts("plain", tmp_path / "images")
    with Qcow2File(path) as image:
        damage(image)
        size = image.file_size()
    before = run(env.qimg(), "map", "--output=json", path).text
    for mode in ("leaks", "all"):
        assert qimg_check(path, "-r", mode)[0] == CORRUPTED
    assert path.stat().st_size == size
    assert run(env.qimg(), "map", "--output=json", path).text == before


def test_rebuild_is_behind_the_file(layouts, tmp_path):
    path = layouts("plain", tmp_path / "images")
    with Qcow2File(path) as image:
        block_far(image)
        size = image.file_size()
    status, ours = qimg_check(path, "-r", "all")
    assert status == CLEAN and ours["corruptions-fixed"] > 0
    with Qcow2File(path) as image:
        assert image.get("refcount_table_offset") >= size


def test_space_is_given_back(layouts, tmp_path):
    path = layouts("plain", tmp_path / "images")
    with Qcow2File(path) as image:
        at = [image.append_cluster(b"x" * 65536) for _ in range(4)]
        for place in at:
            set_refcount(image, place // image.cluster_size, 1)
    before = allocated_bytes(path)
    assert qimg_check(path, "-r", "leaks")[0] == CLEAN
    assert allocated_bytes(path) <= before - 4 * 65536


def test_human(layouts, tmp_path):
    path = layouts("plain", tmp_path / "images")
    result = run(env.qimg(), "check", path)
    assert "The image is sound." in result.text and not result.errors
    with Qcow2File(path) as image:
        leak(image)
        place = data_place(image, 1)
        flag_clear(image)
    result = run(env.qimg(), "check", path, check=False)
    assert result.status == CORRUPTED
    assert f"disk offset {place:#x}: L2 entry: the COPIED flag is clear" in result.text
    assert "refcount: is 1 and must be 0" in result.text
    result = run(env.qimg(), "check", "-q", "-r", "all", path)
    assert result.text == "" and result.errors == ""


def test_not_an_image(tmp_path):
    raw = qemu.make_raw(tmp_path / "raw.img", MIB)
    result = run(env.qimg(), "check", raw, check=False)
    assert result.status == NO_CHECK == qemu.img("check", "-f", "raw", raw, check=False).status
    result = run(env.qimg(), "check", tmp_path / "none", check=False)
    assert result.status == FAILED and len(result.errors.splitlines()) == 1
    result = run(env.qimg(), "check", "-r", "some", raw, check=False)
    assert result.status == FAILED and "-r some" in result.errors


def test_unknown_feature(layouts, tmp_path):
    path = layouts("plain", tmp_path / "images")
    with Qcow2File(path) as image:
        image.set("incompatible", 1 << 40)
        leak(image)
    with Unchanged(path):
        for options in ((), ("-r", "all")):
            result = run(env.qimg(), "check", *options, path, check=False)
            assert result.status == FAILED and "bit 40" in result.errors
    assert qemu_check(path)[0] == FAILED


def test_locked(layouts, tmp_path):
    """A repair needs exclusive access to the image; a check excludes only writers."""
    path = layouts("plain", tmp_path / "images")

    def holder(*options):
        process = subprocess.Popen([env.find_tool("qemu-io"), *options, str(path)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        process.stdin.write("length\n")
        process.stdin.flush()
        process.stdout.readline()
        return process

    for options, statuses in ((("-r",), (CLEAN, FAILED)), ((), (FAILED, FAILED))):
        process = holder(*options)
        try:
            assert tuple(run(env.qimg(), "check", *more, path, check=False).status
                         for more in ((), ("-r", "all"))) == statuses
        finally:
            process.communicate("quit\n")
