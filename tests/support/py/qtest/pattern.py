# SPDX-License-Identifier: GPL-2.0-or-later
"""Content computed from its place on the disk, so that a wrong cluster, a shifted read or an old
generation is recognizable and needs no copy to compare with."""

import sys
from array import array
from random import Random

NOISE_BLOCK = 4096


def words(offset, length, salt=0):
    """Each 8-byte word has its own number and @salt: compresses well, repeats nowhere."""
    first, last = offset // 8, (offset + length + 7) // 8
    base = (salt & 0xffff) << 48
    data = array("Q", range(base + first, base + last))
    if sys.byteorder == "little":
        data.byteswap()
    skip = offset - first * 8
    return data.tobytes()[skip:skip + length]


def noise(offset, length, salt=0):
    """Incompressible."""
    first, last = offset // NOISE_BLOCK, (offset + length + NOISE_BLOCK - 1) // NOISE_BLOCK
    data = b"".join(Random((salt << 48) | n).randbytes(NOISE_BLOCK) for n in range(first, last))
    skip = offset - first * NOISE_BLOCK
    return data[skip:skip + length]


def mixed(offset, length, salt=0):
    """Half of each KiB is noise: compressed clusters become long enough to cross borders
    of host clusters."""
    hard, soft = noise(offset, length, salt), bytearray(words(offset, length, salt))
    start = -(offset % 1024)
    while start < length:
        low, high = max(start, 0), min(start + 512, length)
        if low < high:
            soft[low:high] = hard[low:high]
        start += 1024
    return bytes(soft)


def constant(offset, length, salt=0):
    return bytes([(salt % 255) + 1]) * length


KINDS = {"words": words, "noise": noise, "mixed": mixed, "constant": constant}


def first_difference(got, wanted):
    """For messages: the first differing offset, or None."""
    if got == wanted:
        return None
    limit = min(len(got), len(wanted))
    low, high = 0, limit
    while low < high:                       # the equal prefix ends at low
        middle = (low + high + 1) // 2
        if got[low:middle] == wanted[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def assert_same(got, wanted, where, base=0):
    if got == wanted:
        return
    at = first_difference(got, wanted)
    raise AssertionError(
        f"{where}: first difference at offset {base + at} ({base + at:#x}); lengths "
        f"{len(got)} and {len(wanted)}; got {got[at:at + 16].hex()}, "
        f"wanted {wanted[at:at + 16].hex()}")
