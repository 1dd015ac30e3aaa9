# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage inside the tables: an error at that very place, correct bytes everywhere else, an entry
with a reason in map.json. Spec: qcow2, "Checks at run time"."""

import errno
import json
import mmap
import os
import random
import signal
import struct
import zlib

import pytest

from qtest import env, extents, pattern, procs, qemu
from qtest.checks import drop_cached
from qtest.evidence import Unchanged
from qtest.mount import Mount
from qtest.qcow2 import COMPRESSED, COPIED, OFFSET_MASK, Qcow2File

MIB = 1 << 20
CLUSTER = 65536
N = 16


def make(directory, **options):
    """16 clusters of known content, all allocated."""
    image = qemu.create(directory / "disk.qcow2", N * CLUSTER, **options)
    qemu.write(image, (0, N * CLUSTER, "words", 1))
    return image


def content():
    return pattern.words(0, N * CLUSTER, 1)


def read_each(path, step=CLUSTER, flags=os.O_DIRECT):
    """Cluster by cluster: bytes, or the errno."""
    fd, buffer, out = os.open(path, os.O_RDONLY | flags), mmap.mmap(-1, step), []
    try:
        for at in range(0, os.fstat(fd).st_size, step):
            try:
                out.append(bytes(buffer[:os.preadv(fd, [buffer], at)]))
            except OSError as error:
                out.append(error.errno)
        return out
    finally:
        os.close(fd)
        buffer.close()


def assert_damage(image, mnt, damaged, expected, reason=True, cluster=CLUSTER):
    """EIO for exactly the clusters in @damaged, by every way to read; the map gives the reason."""
    with Unchanged(image.parent), Mount(image, mnt) as mount:
        path = mount.raw(image)
        wanted = [errno.EIO if n in damaged else expected[n * cluster:(n + 1) * cluster]
                  for n in range(len(expected) // cluster)]
        for flags in (os.O_DIRECT, 0):
            drop_cached(path)
            got = read_each(path, cluster, flags)
            for number, (one, two) in enumerate(zip(got, wanted)):
                if two == errno.EIO:
                    assert one == two, f"cluster {number}: no EIO"
                else:
                    assert one != errno.EIO, f"cluster {number}: EIO, though it is sound"
                    pattern.assert_same(one, two, f"cluster {number}")
        # One large read over the place is an error or stops before it; never other bytes.
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, len(expected))
        try:
            n = os.preadv(fd, [buffer], 0)
            assert n <= min(damaged, default=len(expected) // cluster) * cluster
            assert buffer[:n] == expected[:n]
        except OSError as error:
            assert error.errno == errno.EIO
        finally:
            os.close(fd)
            buffer.close()
        shown = json.loads(mount.facts("disk", "map.json").read_text())
        extents.assert_complete(shown, os.stat(path).st_size)
        if reason:
            bad = extents.merge((e["start"], e["start"] + e["length"]) for e in shown if "error" in e)
            assert bad == extents.merge((n * cluster, (n + 1) * cluster) for n in damaged), bad
            assert all(e["error"] for e in shown if "error" in e)
        # Damage may have data: a copying program must try to read it.
        data = extents.seek_data(path)
        for number in damaged:
            assert any(start <= number * cluster < end for start, end in data)
        if env.sanitizer() is None:
            assert procs.peak_rss_bytes(mount.pid) < 200 * MIB
        assert json.loads(procs.run(env.qimg(), "map", "--output=json", image).stdout) == shown


ENTRIES = {
    "unaligned": lambda size: COPIED | 0x50000 | 0x200,
    "half a cluster": lambda size: COPIED | 0x50000 | 0x8000,
    "beyond the end": lambda size: COPIED | (size + CLUSTER * 16) & ~(CLUSTER - 1),
    "far beyond the end": lambda size: COPIED | 1 << 50,
    "the last offset": lambda size: COPIED | OFFSET_MASK & ~(CLUSTER - 1),
    "compressed beyond the end": lambda size: COMPRESSED | (1 << 40),
    "compressed at the last offset": lambda size: COMPRESSED | (1 << 54) - 1,
    "compressed over the end": lambda size: COMPRESSED | 255 << 54 | size - 10,
    "everything set": lambda size: (1 << 64) - 1,
}


@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.parametrize("at", [0, 7, N - 1])
def test_l2_entry(kind, at, tmp_path, mnt):
    image = make(tmp_path)
    with Qcow2File(image) as file:
        file.set_l2_entry(at * CLUSTER, ENTRIES[kind](file.file_size()))
    assert_damage(image, mnt, {at}, content(), reason="over the end" not in kind
                  and "everything" not in kind)


def test_many_damaged_entries(tmp_path, mnt):
    image = make(tmp_path)
    damaged = {1, 2, 3, 8, 15}
    with Qcow2File(image) as file:
        for number in damaged:
            file.set_l2_entry(number * CLUSTER, COPIED | 0x50000 | 0x200)
    assert_damage(image, mnt, damaged, content())


def test_zero_bit_in_version_2(tmp_path, mnt):
    image = make(tmp_path, compat="0.10")
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, file.l2_entry(3 * CLUSTER) | 1)
        file.set_l2_entry(5 * CLUSTER, 1)
    assert_damage(image, mnt, {3, 5}, content())


@pytest.mark.parametrize("bits", [0x1fe, 0x3f << 56, 0x2, 1 << 56])
def test_reserved_bits_are_ignored(bits, tmp_path, mnt):
    image = make(tmp_path)
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, file.l2_entry(3 * CLUSTER) | bits)
        file.set_l1_entry(0, file.l1_entry(0) | 0x1ff | 0x7f << 56)
    assert_damage(image, mnt, set(), content())


def test_missing_copied_bit(tmp_path, mnt):
    image = make(tmp_path)
    with Qcow2File(image) as file:
        for number in range(N):
            file.set_l2_entry(number * CLUSTER, file.l2_entry(number * CLUSTER) & ~COPIED)
        file.set_l1_entry(0, file.l1_entry(0) & ~COPIED)
    assert_damage(image, mnt, set(), content())


@pytest.mark.parametrize("kind", ["unaligned", "beyond", "far beyond", "last"])
def test_l1_entry(kind, tmp_path, mnt):
    """One L2 table of 4 KiB clusters maps 2 MiB: all of it is lost."""
    cluster = 4096
    image = qemu.create(tmp_path / "disk.qcow2", 6 * MIB, cluster_size=cluster)
    qemu.write(image, (0, 6 * MIB, "words", 1))
    with Qcow2File(image) as file:
        value = {"unaligned": file.l1_entry(2 * MIB) | 0x200,
                 "beyond": COPIED | (file.file_size() + cluster * 100) & ~(cluster - 1),
                 "far beyond": COPIED | 1 << 50,
                 "last": COPIED | OFFSET_MASK & ~(cluster - 1)}[kind]
        file.set_l1_entry(2 * MIB, value)
    assert_damage(image, mnt, set(range(512, 1024)), pattern.words(0, 6 * MIB, 1), cluster=cluster)


def test_tables_that_point_at_each_other(tmp_path, mnt):
    """An L2 table that is the L1 table, the header, itself: read as it is, no loop."""
    for target in ("l1", "header", "self"):
        image = make(tmp_path)
        with Qcow2File(image) as file:
            l1 = file.get("l1_table_offset")
            if target == "self":
                place = file.l1_entry(0) & OFFSET_MASK
                file.set_l2_entry(0, COPIED | place)
            else:
                file.set_l1_entry(0, COPIED | (l1 if target == "l1" else 0))
        with Mount(image, mnt) as mount:
            got = read_each(mount.raw(image))
            assert len(got) == N
            json.loads(mount.facts("disk", "map.json").read_text())
        image.unlink()


# ---- extended L2 ----------------------------------------------------------------------


@pytest.mark.parametrize("bitmap", [
    (1 << 32) | 1, (1 << 63) | (1 << 31) | 1, (1 << 64) - 1])
def test_subcluster_both_allocated_and_zero(bitmap, tmp_path, mnt):
    image = make(tmp_path, extended_l2="on")
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, file.l2_entry(3 * CLUSTER), bitmap)
    assert_damage(image, mnt, {3}, content())


def test_subcluster_without_a_place(tmp_path, mnt):
    image = make(tmp_path, extended_l2="on")
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, 0, 1 << 5)
    assert_damage(image, mnt, {3}, content())


def test_extended_bit_0_is_reserved(tmp_path, mnt):
    image = make(tmp_path, extended_l2="on")
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, file.l2_entry(3 * CLUSTER) | 1)
    assert_damage(image, mnt, set(), content())


# ---- data files -----------------------------------------------------------------------


def test_data_file_offset_that_is_not_the_guest_offset(tmp_path, mnt):
    image = make(tmp_path, data_file="disk.data")
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, COPIED | 4 * CLUSTER)
        file.set_l2_entry(5 * CLUSTER, COPIED | 5 * CLUSTER | 0x200)
    assert_damage(image, mnt, {3, 5}, content())


def test_compressed_with_a_data_file(tmp_path, mnt):
    image = make(tmp_path, data_file="disk.data")
    with Qcow2File(image) as file:
        file.set_l2_entry(3 * CLUSTER, COMPRESSED | 0x50000)
    assert_damage(image, mnt, {3}, content())


# ---- compressed data ------------------------------------------------------------------


def compressed(directory, method="zlib"):
    source = qemu.make_raw(directory / "source", N * CLUSTER, (0, N * CLUSTER, "words", 1))
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={method}",
             source, directory / "disk.qcow2")
    source.unlink()
    return directory / "disk.qcow2"


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


STREAMS = {
    "ones": b"\xff" * 4096,
    "zeros": bytes(4096),
    "too short": deflated(pattern.words(0, 1000)),
    "one byte short": deflated(pattern.words(0, CLUSTER - 1)),
    "cut": deflated(pattern.mixed(0, CLUSTER))[:2000],
    "reserved block": b"\x07",
    "bad distance": b"\x63\x00\x42\xff\xff\xff",
}


@pytest.mark.parametrize("kind", STREAMS)
def test_bad_deflate_stream(kind, tmp_path, mnt):
    image = compressed(tmp_path)
    with Qcow2File(image) as file:
        stream = STREAMS[kind]
        sectors = -(-len(stream) // 512)
        # No byte behind the stream may complete it.
        place = file.append_cluster(stream.ljust(sectors * 512, b"\xff" if kind == "cut" else b"\0"))
        file.set_l2_entry(3 * CLUSTER, COMPRESSED | (sectors - 1) << 54 | place)
    assert_damage(image, mnt, {3}, content(), reason=False)


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
FRAMES = {
    "ones": b"\xff" * 4096,
    "zeros": bytes(4096),
    "magic alone": ZSTD_MAGIC,
    "no magic": b"\x29" + ZSTD_MAGIC[1:] + b"\x60\0\xff" + b"\0" * 100,
    # Single segment, one byte of content size: a raw block of 5 bytes.
    "too short": ZSTD_MAGIC + b"\x20\x05\x29\0\0hello",
    "huge window": ZSTD_MAGIC + b"\0\xff" + b"\x01\0\0",
    "huge content size": ZSTD_MAGIC + b"\xe0" + b"\xff" * 7 + b"\x7f" + b"\x03\0\0x",
    "dictionary": ZSTD_MAGIC + b"\x21\x2a\x05\x29\0\0hello",
    "skippable": b"\x50\x2a\x4d\x18" + (1 << 31).to_bytes(4, "little"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_bad_zstd_frame(kind, tmp_path, mnt):
    image = compressed(tmp_path, "zstd")
    with Qcow2File(image) as file:
        place = file.append_cluster(FRAMES[kind].ljust(4096, b"\0"))
        file.set_l2_entry(3 * CLUSTER, COMPRESSED | 7 << 54 | place)
    assert_damage(image, mnt, {3}, content(), reason=False)


def test_bomb(tmp_path, mnt):
    """Streams that would grow to a hundred MiB yield a cluster or an error, and no memory."""
    image = compressed(tmp_path)
    with Qcow2File(image) as file:
        bomb = deflated(bytes(100 * MIB))
        sectors = min(256, -(-len(bomb) // 512))
        place = file.append_cluster(bomb)
        for number in range(N):
            file.set_l2_entry(number * CLUSTER, COMPRESSED | (sectors - 1) << 54 | place)
    with Mount(image, mnt) as mount:
        for got in read_each(mount.raw(image)):
            assert got in (errno.EIO, bytes(CLUSTER))
        if env.sanitizer() is None:
            assert procs.peak_rss_bytes(mount.pid) < 100 * MIB


# ---- cut files ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["between clusters", "inside a cluster", "inside a sector"])
def test_truncated_data(cut, tmp_path, mnt):
    """The missing part of a cluster that begins before the end reads as zeros, as in QEMU; a
    cluster wholly behind the end is an error."""
    image = make(tmp_path)
    with Qcow2File(image) as file:
        places = {n: file.l2_entry(n * CLUSTER) & OFFSET_MASK for n in range(N)}
        end = places[10] + {"between clusters": 0, "inside a cluster": 20 * 1024,
                            "inside a sector": 20 * 1024 + 100}[cut]
        file.truncate(end)
    expected = bytearray(content())
    kept = end - places[10]
    if kept:
        expected[10 * CLUSTER + kept:11 * CLUSTER] = bytes(CLUSTER - kept)
    damaged = {n for n in range(N) if places[n] >= end}
    assert damaged == set(range(11 if kept else 10, N))
    assert_damage(image, mnt, damaged, bytes(expected))


def test_truncated_within_the_tables(tmp_path, mnt):
    """Cut at each 4 KiB: refused or mounted, never a crash, never bytes that were not there."""
    image = make(tmp_path)
    original, whole = image.read_bytes(), content()
    for end in [0, 1, 3, 4, 71, 72, 103, 104, 111, 112, 511, 512, *range(4096, len(original), 20480)]:
        image.write_bytes(original[:end])
        result = procs.run(env.qimg(), "map", "--output=json", image, check=False, limit_s=20)
        assert result.status in (0, 1), result
        if end < 104 or result.status:
            continue
        with Mount(image, mnt) as mount:
            for number, got in enumerate(read_each(mount.raw(image))):
                if isinstance(got, bytes):
                    mine = whole[number * CLUSTER:(number + 1) * CLUSTER]
                    assert all(a == b or not a for a, b in zip(got[::512], mine[::512]))


# ---- at random ------------------------------------------------------------------------


@pytest.mark.limit(150)
@pytest.mark.parametrize("kind", ["plain", "extended", "compressed", "version 2", "snapshots"])
def test_random_edits(kind, tmp_path, mnt, rng):
    """Bytes and words of the metadata changed at random: refused in one line, or mounted and read
    to the end with errors at most; the server always ends properly."""
    image = {"plain": make, "compressed": compressed,
             "extended": lambda d: make(d, extended_l2="on"),
             "version 2": lambda d: make(d, compat="0.10"),
             "snapshots": make}[kind](tmp_path)
    if kind == "snapshots":
        for name in "abc":
            qemu.img("snapshot", "-c", name, image)
    original = image.read_bytes()
    with Qcow2File(image) as file:
        areas = [(0, 120), (112, 200), (file.get("l1_table_offset"), 64),
                 (file.l1_entry(0) & OFFSET_MASK, N * file.l2_entry_size)]
        if kind == "snapshots":
            areas += [(file.get("snapshots_offset"), 300)] * 3
    mounted = 0
    for _ in range(30):
        edited = bytearray(original)
        _edit(edited, areas, rng)
        image.write_bytes(edited)
        result = procs.run(env.qimg(), "info", image, check=False, limit_s=20)
        assert result.status in (0, 1), result
        if result.status:
            assert result.errors.count("\n") == 1, result
            continue
        try:
            with Mount(image, mnt) as mount:
                mounted += 1
                _read_some(mount, image, rng)
        except AssertionError as error:
            # A mount may still refuse an image shown by qimg (an encrypted image).
            if "instead of mounting" not in str(error) or "ended with 1" not in str(error):
                image.rename(image.with_suffix(".failed"))
                raise
    assert mounted > 3, "the edits are too wild to test anything"


def _edit(data, areas, rng):
    for _ in range(rng.choice([1, 1, 2, 5])):
        start, length = rng.choice(areas)
        at = min(start + rng.randrange(length), len(data) - 8)
        choice = rng.randrange(4)
        if choice == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            data[at] = rng.choice([0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)])
        else:
            at = at // 8 * 8
            value = rng.choice([0, 1, 1 << 62, 1 << 63, (1 << 64) - 1, 0x50000, 0x50001,
                                rng.getrandbits(64), COMPRESSED | rng.getrandbits(62)])
            data[at:at + 8] = value.to_bytes(8, "big")


def _read_some(mount, image, rng):
    path = mount.raw(image)
    size = os.stat(path).st_size
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, MIB)
    try:
        for at in [0, CLUSTER * 5, max(0, size - MIB), *(rng.randrange(size + 1) for _ in range(4))]:
            try:
                os.preadv(fd, [buffer], at // 512 * 512)
            except OSError as error:
                assert error.errno == errno.EIO
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                os.lseek(fd, 0, whence)
            except OSError as error:
                assert error.errno in (errno.ENXIO, errno.EIO)
    finally:
        os.close(fd)
        buffer.close()
    for folder in mount.snapshots(image).iterdir():
        for name in ("disk.raw", "vmstate"):
            try:
                with open(folder / name, "rb", buffering=0) as file:
                    file.read(65536)
            except OSError as error:
                assert error.errno in (errno.EIO, errno.ENOENT, errno.EINVAL)
    json.loads(mount.facts("disk", "info.json").read_bytes())
    with open(mount.facts("disk", "map.json"), "rb") as file:
        file.read(100_000)


def test_seed_is_used(rng):
    """The generator is the standard one, so that a printed seed means the same elsewhere."""
    assert isinstance(rng, random.Random)


def test_map_of_endless_streams(tmp_path, mnt):
    """128 GiB of compressed clusters that are all one: each query of the map is bounded, and so is
    the time to the end."""
    image = qemu.create(tmp_path / "disk.qcow2", 128 << 30, cluster_size=512)
    with Qcow2File(image) as file:
        stream = file.append_cluster()
        table = file.append_cluster(struct.pack(">Q", COMPRESSED | stream) * 64)
        n_tables = file.get("l1_size")
        file.write(file.get("l1_table_offset"), struct.pack(">Q", COPIED | table) * n_tables)
    with Mount(image, mnt) as mount:
        with open(mount.facts("disk", "map.json"), "rb", buffering=0) as shown:
            first = shown.read(128 * 1024)
            assert first.startswith(b"[{ ")
        mount.terminate(signal.SIGTERM)
