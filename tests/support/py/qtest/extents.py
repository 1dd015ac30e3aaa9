# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents of a disk: those of `map --output=json`, those of SEEK_DATA and SEEK_HOLE, and the
required agreement."""

import errno
import os


def seek_data(path):
    """[(start, end)] of the data extents of a file, according to SEEK_DATA and SEEK_HOLE."""
    out, at = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO, error
                break
            assert at <= start < size, f"SEEK_DATA({at}) = {start}, size {size}"
            end = os.lseek(fd, start, os.SEEK_HOLE)
            assert start < end <= size, f"SEEK_HOLE({start}) = {end}, size {size}"
            out.append((start, end))
            at = end
        # Inside a found extent the answers must be the same as from its border.
        for start, end in out[:50]:
            middle = (start + end) // 2
            assert os.lseek(fd, middle, os.SEEK_DATA) == middle
            assert os.lseek(fd, middle, os.SEEK_HOLE) == end
        for offset in (size, size + 1):
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                try:
                    os.lseek(fd, offset, whence)
                except OSError as error:
                    assert error.errno == errno.ENXIO
                else:
                    raise AssertionError(f"lseek({offset}) beyond the end {size} succeeded")
    finally:
        os.close(fd)
    return merge(out)


def merge(ranges):
    out = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        elif start < end:
            out.append((start, end))
    return out


def data_of_map(entries):
    return merge((e["start"], e["start"] + e["length"]) for e in entries
                 if e["data"] or "error" in e)


def differences(left, right):
    """Ranges that are in exactly one of two merged lists."""
    edges = sorted({edge for r in (left, right) for pair in r for edge in pair})
    out = []
    for start, end in zip(edges, edges[1:]):
        if _contains(left, start) != _contains(right, start):
            out.append((start, end))
    return merge(out)


def _contains(ranges, offset):
    return any(start <= offset < end for start, end in ranges)


def assert_complete(entries, size):
    """A map covers the disk without gap or overlap, and nothing else."""
    at = 0
    for entry in entries:
        assert entry["start"] == at, f"gap or overlap at {at}: {entry}"
        assert entry["length"] > 0, entry
        at += entry["length"]
    assert at == size, f"map ends at {at}, disk at {size}"


def assert_zero_elsewhere(content, ranges, where):
    """All non-zero bytes of @content lie in @ranges."""
    at = 0
    for start, end in [*ranges, (len(content), len(content))]:
        gap = content[at:start]
        if gap.count(0) != len(gap):
            raise AssertionError(f"{where}: non-zero bytes in the hole {at}..{start}")
        at = end


def pieces(left, right):
    """Cuts two complete maps at each other's borders: (start, end, entry, entry)."""
    edges = sorted({e["start"] for e in left} | {e["start"] for e in right}
                   | {left[-1]["start"] + left[-1]["length"]}) if left and right else []
    i = j = 0
    for start, end in zip(edges, edges[1:]):
        while left[i]["start"] + left[i]["length"] <= start:
            i += 1
        while j < len(right) - 1 and right[j]["start"] + right[j]["length"] <= start:
            j += 1
        yield start, end, left[i], right[j]


def is_host_hole(path, offset, length):
    """Whether a range of a host file has no data (bytes beyond its end do not count)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        assert error.errno == errno.ENXIO
        return True
    finally:
        os.close(fd)


def assert_same_map(ours, qemus, content, where, layers, tail=None):
    """Compares qimg's map with qemu-img's, byte range for byte range. @layers are the files with
    the data of each depth.

    They may differ in two ways. A cluster whose bytes are a hole of the host file is data to the
    one and zero to the other: qemu-img checks only the holes of preallocated images, by its own
    heuristic. And from @tail on, the end of a raw file that is no multiple of 512, qemu-img shows
    the padding that it invents."""
    problems = []
    for start, end, our, qemu in pieces(ours, qemus):
        if tail is not None and start >= tail:
            continue
        text = f"{start}..{end}: qimg {our}, qemu-img {qemu}"
        places = [e["offset"] + start - e["start"] if "offset" in e else None
                  for e in (our, qemu)]
        if our["depth"] != qemu["depth"] or our["present"] != qemu["present"]:
            problems.append(f"depth or present, {text}")
        elif (our["data"], our["zero"]) != (qemu["data"], qemu["zero"]):
            place = places[0] if places[1] is None else places[1]
            chunk = content[start:end]
            if (chunk.count(0) != len(chunk) or place is None or not our["present"]
                    or not is_host_hole(layers[our["depth"]], place, end - start)):
                problems.append(f"data or zero, {text}")
        elif our["data"]:
            if places[0] != places[1]:
                problems.append(f"offset, {text}")
            if "compressed" in qemu and our["compressed"] != qemu["compressed"]:
                problems.append(f"compressed, {text}")
    assert not problems, f"{where}: {len(problems)} differences\n" + "\n".join(problems[:10])


def assert_normalised(entries, where):
    """Adjacent entries that continue each other with the same facts are one entry."""
    for one, two in zip(entries, entries[1:]):
        same = all(one.get(k) == two.get(k) for k in
                   ("depth", "present", "zero", "data", "compressed", "error", "filename"))
        goes_on = ("offset" in one) == ("offset" in two) and (
            "offset" not in one or one["offset"] + one["length"] == two["offset"])
        assert not (same and goes_on), f"{where}: {one} and {two} are one extent"
