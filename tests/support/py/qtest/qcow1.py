# SPDX-License-Identifier: GPL-2.0-or-later
"""Making and damaging images of qcow version 1 by hand: with every cluster size and table
size, where qemu-img knows two pairs of them. Apart from the product's decoders, so that it
can contradict them.

Header, big-endian: magic, version (32 bits each), offset (64) and length (32) of the
backing name, its mtime (32), size (64), cluster_bits, l2_bits (8 each), 16 bits of
padding, crypt_method (32), L1 offset (64). L1 entries are offsets of L2 tables. L2
entries: 0, or an offset, or bit 63 with a stream's length in the cluster_bits bits below
and its offset in the rest."""

import struct
import zlib
from pathlib import Path

from .qcow2 import ImageFile

# name → (offset in the header, struct format)
HEADER = {
    "magic": (0, ">I"), "version": (4, ">I"), "backing_file_offset": (8, ">Q"),
    "backing_file_size": (16, ">I"), "mtime": (20, ">I"), "size": (24, ">Q"),
    "cluster_bits": (32, ">B"), "l2_bits": (33, ">B"), "crypt_method": (36, ">I"),
    "l1_table_offset": (40, ">Q"),
}
HEADER_BYTES = 48
COMPRESSED = 1 << 63


def deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def stream_entry(cluster_bits, offset, length):
    assert length < 1 << cluster_bits and offset < 1 << (63 - cluster_bits)
    return COMPRESSED | length << (63 - cluster_bits) | offset


def align(value, unit):
    return -(-value // unit) * unit


class Qcow1Writer:
    """Builds an image in memory, cluster by cluster."""

    def __init__(self, size, cluster_bits=12, l2_bits=9, backing=b"", l1_gap=0, mtime=0):
        """@l1_gap: bytes between the backing name and the L1 table."""
        self.cluster_bits, self.l2_bits = cluster_bits, l2_bits
        self.cluster_size = 1 << cluster_bits
        l1 = align(HEADER_BYTES + len(backing), 8) + l1_gap
        self.n_l1 = align(size, self.cluster_size << l2_bits) // (self.cluster_size << l2_bits)
        self.l1_offset = l1
        self.bytes = bytearray(struct.pack(
            ">IIQIIQBBHIQ", 0x514649fb, 1, HEADER_BYTES if backing else 0, len(backing), mtime,
            size, cluster_bits, l2_bits, 0, 0, l1) + backing)
        self._reach(l1 + 8 * self.n_l1)

    def _reach(self, end):
        self.bytes.extend(bytes(max(0, end - len(self.bytes))))

    def append(self, data, unit=None):
        """Puts @data at the end, at a multiple of @unit (a cluster); returns its offset."""
        at = align(len(self.bytes), unit or self.cluster_size)
        self._reach(at)
        self.bytes += data
        return at

    def set_word(self, place, value):
        self._reach(place + 8)
        struct.pack_into(">Q", self.bytes, place, value)

    def l2_table(self, l1_index, unit=None):
        """The offset of an L2 table, added if missing."""
        place = self.l1_offset + 8 * l1_index
        (table,) = struct.unpack_from(">Q", self.bytes, place)
        if not table:
            table = self.append(bytes(8 << self.l2_bits), unit)
            self.set_word(place, table)
        return table

    def set_entry(self, cluster, word, table_unit=None):
        table = self.l2_table(cluster >> self.l2_bits, table_unit)
        self.set_word(table + 8 * (cluster & ((1 << self.l2_bits) - 1)), word)

    def add_data(self, cluster, data, unit=None, table_unit=None):
        self.l2_table(cluster >> self.l2_bits, table_unit)
        self.set_entry(cluster, self.append(data, unit), table_unit)

    def add_compressed(self, cluster, data, unit=1, table_unit=None):
        """False if @data do not become shorter."""
        stream = deflate(data.ljust(self.cluster_size, b"\0"))
        if len(stream) >= self.cluster_size:
            return False
        self.l2_table(cluster >> self.l2_bits, table_unit)
        at = self.append(stream, unit)
        self.set_entry(cluster, stream_entry(self.cluster_bits, at, len(stream)), table_unit)
        return True

    def save(self, path):
        Path(path).write_bytes(self.bytes)
        return Path(path)


class Qcow1File(ImageFile):
    """An image file opened for reading and changing its bytes."""

    HEADER = HEADER

    @property
    def cluster_size(self):
        return 1 << self.get("cluster_bits")

    def word(self, place):
        return struct.unpack(">Q", self.read(place, 8))[0]

    def l1_place(self, guest):
        return self.get("l1_table_offset") + 8 * (guest // (self.cluster_size << self.get("l2_bits")))

    def l2_place(self, guest):
        """The place of the L2 entry of a guest offset; None without a table."""
        table = self.word(self.l1_place(guest))
        index = guest // self.cluster_size % (1 << self.get("l2_bits"))
        return table + 8 * index if table else None

    def l2_entry(self, guest):
        place = self.l2_place(guest)
        return self.word(place) if place else 0

    def set_l1_entry(self, guest, word):
        self.write(self.l1_place(guest), struct.pack(">Q", word))

    def set_l2_entry(self, guest, word):
        self.write(self.l2_place(guest), struct.pack(">Q", word))

    def is_compressed(self, guest):
        return bool(self.l2_entry(guest) & COMPRESSED)
