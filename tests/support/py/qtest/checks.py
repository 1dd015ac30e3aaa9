# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests for every case of a matrix. A test class derives from MatrixChecks and lists its
cases; tests/oracle/conftest.py multiplies them."""

import mmap
import os
import stat
import threading
from hashlib import sha256

import pytest

from . import extents, pattern
from .qcow1 import Qcow1File
from .qcow2 import Qcow2File

DIRECT_ALIGNMENT = 512

# The editor for the tables of each format.
EDITORS = {"qcow2": Qcow2File, "qcow": Qcow1File}


def read_all(path, flags=0, chunk=1 << 20):
    """Reads a file from start to end by pread, through an aligned buffer (O_DIRECT)."""
    fd = os.open(path, os.O_RDONLY | flags)
    out, buffer = bytearray(), mmap.mmap(-1, chunk)
    try:
        while n := os.preadv(fd, [buffer], len(out)):
            out += buffer[:n]
    finally:
        os.close(fd)
        buffer.close()
    return bytes(out)


def drop_cached(path):
    """Makes the next reads of the file reach the server."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def random_range(rng, size, align=1, longest=300_000):
    """A range with short and long lengths, often at a border, sometimes past the end."""
    start = rng.randrange(0, size + 1) // align * align
    if rng.random() < 0.3:
        border = 1 << rng.randrange(9, 17)
        start = max(0, start // border * border + (rng.choice([-1, 0, 1]) if align == 1 else 0))
    length = rng.choice([1, 7, 511, 512, 4096, 65536, rng.randrange(1, longest)])
    return start, max(align, length // align * align)


def check_random_reads(path, expected, rng, count=40, flags=0, align=1):
    """Reads at random offsets and lengths; the end of the file cuts a read short."""
    fd = os.open(path, os.O_RDONLY | flags)
    buffer = mmap.mmap(-1, 1 << 20)
    try:
        for _ in range(count):
            start, length = random_range(rng, len(expected), align)
            with memoryview(buffer) as view, view[:length] as part:
                got = os.preadv(fd, [part], start)
                assert got == max(0, min(length, len(expected) - start)), \
                    f"pread({length}, {start}) of {len(expected)} bytes gave {got}"
                pattern.assert_same(bytes(part[:got]), expected[start:start + got],
                                    f"pread({length}, {start})", start)
    finally:
        os.close(fd)
        buffer.close()


def check_threads(path, expected, rng, n_threads=4):
    """Several threads at once, buffered and direct, each with its own numbers."""
    failures, seeds = [], [rng.getrandbits(32) for _ in range(n_threads)]
    start = threading.Barrier(n_threads)

    def work(number):
        try:
            mine = type(rng)(seeds[number])
            start.wait(10)
            direct = number % 2 == 1
            check_random_reads(path, expected, mine, 15, os.O_DIRECT if direct else 0,
                               DIRECT_ALIGNMENT if direct else 1)
        except BaseException as error:      # an assertion in a thread is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def check_mmap(path, expected, rng):
    """Touches the pages of a mapping in random order, then compares all of it."""
    if not expected:
        pytest.skip("an empty file cannot be mapped")
    drop_cached(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert len(mapped) == len(expected)
        pages = list(range(0, len(expected), mmap.PAGESIZE))
        for at in rng.sample(pages, min(64, len(pages))):
            assert mapped[at] == expected[at], f"byte {at} of the mapping"
        pattern.assert_same(mapped[:], expected, "mmap")


def check_seek(path, expected, qemu_entries, layers, tail):
    """SEEK_DATA: no non-zero byte outside, and the extents are those of qemu-img map, except for
    holes of the host file itself."""
    data = extents.seek_data(path)
    extents.assert_zero_elsewhere(expected, data, "SEEK_DATA")
    theirs = extents.data_of_map(qemu_entries)
    for start, end in extents.differences(data, theirs):
        if tail is not None and start >= tail:
            continue
        chunk = expected[start:end]
        assert chunk.count(0) == len(chunk), f"{start}..{end} is not zero"
        for entry in qemu_entries:
            low = max(start, entry["start"])
            high = min(end, entry["start"] + entry["length"])
            if low < high:
                assert "offset" in entry and extents.is_host_hole(
                    layers[entry["depth"]], entry["offset"] + low - entry["start"],
                    high - low), (f"{low}..{high} is data to one of qcowfs and qemu-img: "
                                  f"{entry}, SEEK_DATA {data[:20]}")
    return data


def check_compressed_flags(entries, built):
    """`compressed` of each entry against the tables themselves (older qemu-img lack it)."""
    images = [built.directory / layer["filename"] for layer in built.qemu_chain]
    formats = [layer["format"] for layer in built.qemu_chain]
    opened = {}
    try:
        for entry in entries:
            depth = entry["depth"]
            if formats[depth] not in EDITORS or not entry["present"]:
                assert not entry.get("compressed"), entry
                continue
            if depth not in opened:
                opened[depth] = EDITORS[formats[depth]](images[depth])
            image = opened[depth]
            at, end = entry["start"], entry["start"] + entry["length"]
            while at < end:
                flag = image.is_compressed(at)
                assert bool(entry.get("compressed")) == flag, f"guest offset {at}: {entry}"
                at = (at // image.cluster_size + 1) * image.cluster_size
    finally:
        for image in opened.values():
            image.__exit__()


INFO_KEYS = ("virtual-size", "format", "cluster-size", "backing-filename",
             "backing-filename-format", "dirty-flag")


def assert_same_info(ours, qemus, where):
    """qimg info has every fact of qemu-img info, under the same names."""
    for key in INFO_KEYS:
        assert ours.get(key) == qemus.get(key), f"{where}: {key}: {ours.get(key)!r}, not {qemus.get(key)!r}"
    if qemus["format"] == "qcow2":
        theirs = qemus["format-specific"]["data"]
        mine = ours["format-specific"]["data"]
        for key, value in theirs.items():
            assert mine.get(key) == value, f"{where}: {key}: {mine.get(key)!r}, not {value!r}"
        assert ours["format-specific"]["type"] == "qcow2"
    names = ("id", "name", "vm-state-size", "date-sec", "date-nsec", "vm-clock-sec",
             "vm-clock-nsec", "icount")
    for mine, theirs in zip(ours.get("snapshots", []), qemus.get("snapshots", [])):
        for key in names:
            if key in theirs:
                assert mine.get(key) == theirs[key], f"{where}: snapshot {theirs}: {key}: {mine}"
    assert len(ours.get("snapshots", [])) == len(qemus.get("snapshots", [])), where


class MatrixChecks:
    cases = []

    def test_size_times_mode(self, matrix, case):
        built = matrix.get(case)
        facts, image = os.stat(matrix.raw(case)), os.stat(built.image)
        assert facts.st_size == built.expected_path.stat().st_size
        assert stat.S_ISREG(facts.st_mode) and stat.S_IMODE(facts.st_mode) & 0o222 == 0
        assert facts.st_mtime_ns == image.st_mtime_ns
        if built.qemu_info["format"] == "qcow2":
            assert facts.st_blksize == built.qemu_info["cluster-size"]
        if any(built.expected):
            assert facts.st_blocks > 0, "0 blocks mean one hole to GNU tar"
        assert facts.st_blocks * 512 <= -(-facts.st_size // 4096) * 4096

    def test_digest(self, matrix, case):
        expected = matrix.get(case).expected
        got = read_all(matrix.raw(case))
        if sha256(got).digest() != sha256(expected).digest():
            pattern.assert_same(got, expected, case.name)

    def test_random_reads(self, matrix, case, rng):
        drop_cached(matrix.raw(case))
        check_random_reads(matrix.raw(case), matrix.get(case).expected, rng)

    def test_mmap(self, matrix, case, rng):
        check_mmap(matrix.raw(case), matrix.get(case).expected, rng)

    def test_direct(self, matrix, case, rng):
        expected = matrix.get(case).expected
        pattern.assert_same(read_all(matrix.raw(case), os.O_DIRECT), expected, "O_DIRECT")
        check_random_reads(matrix.raw(case), expected, rng, 20, os.O_DIRECT, DIRECT_ALIGNMENT)

    def test_threads(self, matrix, case, rng):
        drop_cached(matrix.raw(case))
        check_threads(matrix.raw(case), matrix.get(case).expected, rng)

    def test_seek(self, matrix, case):
        built = matrix.get(case)
        data = check_seek(matrix.raw(case), built.expected, built.qemu_map, built.layers,
                          built.raw_tail)
        ours = matrix.qimg_json("map", built.image)
        assert data == extents.data_of_map(ours), "SEEK_DATA and qimg map differ"

    def test_map(self, matrix, case):
        built = matrix.get(case)
        ours = matrix.qimg_json("map", built.image)
        extents.assert_complete(ours, len(built.expected))
        extents.assert_normalised(ours, "qimg map")
        extents.assert_same_map(ours, built.qemu_map, built.expected, "map", built.layers,
                                built.raw_tail)
        check_compressed_flags(ours, built)

    def test_info(self, matrix, case):
        built = matrix.get(case)
        ours = matrix.qimg_json("info", built.image)
        if built.qemu_info["format"] == "raw":
            assert ours["format"] == "raw"
            assert ours["virtual-size"] == len(built.expected)
            return
        assert_same_info(ours, built.qemu_info, case.name)


class ModelChecks:
    """For cases that bring a byte-array model: QEMU is not the only witness."""

    def test_model(self, matrix, case):
        built = matrix.get(case)
        got, wanted = bytearray(read_all(matrix.raw(case))), bytearray(built.model.content)
        for start, end in built.model.open:
            got[start:end] = wanted[start:end] = bytes(end - start)
        pattern.assert_same(bytes(got), bytes(wanted), "model")


class LastChecks:
    """For the end of a class: its reads have changed nothing."""

    def test_zz_images_unchanged(self, matrix):
        matrix.check_unchanged()
