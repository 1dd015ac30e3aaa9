# SPDX-License-Identifier: GPL-2.0-or-later
"""Content of the benchmark's disks, computed from its place on the disk.

A disk is a sequence of 4 KiB blocks; each generator makes the bytes of one block from its index
alone, so that any sample of any disk can be verified without a copy of it."""

import functools
import hashlib
import random
from array import array

BLOCK_BYTES = 4096
ZERO_BLOCK = bytes(BLOCK_BYTES)

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # the frequent ones first
_N_DISTINCT_WORDS = 6000
_N_WORDS_IN_BLOCK = 1200


def noise(block_index):
    """A block that no program can compress."""
    return hashlib.shake_128(b"noise %d" % block_index).digest(BLOCK_BYTES)


@functools.cache
def _words():
    """65536 words, so that any 16 bits choose one; frequent words occur often."""
    rng = random.Random(1)
    weights = range(len(_LETTERS), 0, -1)
    distinct = ["".join(rng.choices(_LETTERS, weights, k=rng.randint(2, 11))).encode()
                for _ in range(_N_DISTINCT_WORDS)]
    frequency = [1 / (rank + 3) for rank in range(_N_DISTINCT_WORDS)]
    return rng.choices(distinct, frequency, k=1 << 16)


def text(block_index):
    """A block of words that compresses like text, to somewhat less than half."""
    digest = hashlib.shake_128(b"text %d" % block_index).digest(2 * _N_WORDS_IN_BLOCK)
    block = b" ".join(map(_words().__getitem__, array("H", digest)))[:BLOCK_BYTES]
    assert len(block) == BLOCK_BYTES
    return block


def stale(block_index):
    """The content of a lower layer where a higher layer has the valid block."""
    return (b"stale block %020d\n" % block_index * BLOCK_BYTES)[:BLOCK_BYTES]
