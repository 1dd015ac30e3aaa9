# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the clusters of a qcow2 image's disk.

Reads only qemu-img's images for the benchmark: version 3, normal L2 entries, no encryption. It
serves the makers of images, never a measured server."""

import struct

_HEADER = struct.Struct(">4sIQIIQIIQ")  # up to and including l1_table_offset
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_SECTOR_BYTES = 512


class Qcow2Tables:
    def __init__(self, path):
        self._file = open(path, "rb")
        (magic, _version, _backing, _backing_length, self.cluster_bits, self.size_bytes,
         _crypt, n_l1_entries, l1_offset) = _HEADER.unpack(self._file.read(_HEADER.size))
        if magic != b"QFI\xfb":
            raise ValueError(f"{path} is no qcow2 image")
        self.cluster_bytes = 1 << self.cluster_bits
        self.n_l2_entries = self.cluster_bytes // 8
        self._l1 = self._table(l1_offset, n_l1_entries)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def _table(self, host_offset, n_entries):
        self._file.seek(host_offset)
        return struct.unpack(f">{n_entries}Q", self._file.read(8 * n_entries))

    def _l2_table(self, l1_index):
        return self._table(self._l1[l1_index] & _OFFSET_MASK, self.n_l2_entries)

    def host_offset(self, guest_offset):
        """The place of the byte at guest_offset; its cluster must be a normal one."""
        l1_index, l2_index = divmod(guest_offset >> self.cluster_bits, self.n_l2_entries)
        self._file.seek((self._l1[l1_index] & _OFFSET_MASK) + 8 * l2_index)
        entry, = struct.unpack(">Q", self._file.read(8))
        if entry & _COMPRESSED or not entry & _OFFSET_MASK:
            raise ValueError(f"no normal cluster at {guest_offset}")
        return (entry & _OFFSET_MASK) + guest_offset % self.cluster_bytes

    def compressed_clusters(self):
        """Yields the bytes of each compressed cluster, to the end of its last sector."""
        offset_bits = 62 - (self.cluster_bits - 8)
        for l1_index in range(len(self._l1)):
            if not self._l1[l1_index] & _OFFSET_MASK:
                continue
            for entry in self._l2_table(l1_index):
                if not entry & _COMPRESSED:
                    continue
                host_offset = entry & ((1 << offset_bits) - 1)
                n_more_sectors = (entry & (_COMPRESSED - 1)) >> offset_bits
                self._file.seek(host_offset)
                yield self._file.read((n_more_sectors + 1) * _SECTOR_BYTES
                                      - host_offset % _SECTOR_BYTES)
