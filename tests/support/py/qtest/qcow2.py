# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads and damages the structures of a qcow2 file. Written from the format's description, apart
from the product's decoders, so that it can contradict them. Spec: qcow2, "Header", "L1 and L2
entries", "Compressed clusters", "Snapshot table"."""

import os
import struct

# name → (offset in the header, struct format)
HEADER = {
    "magic": (0, ">I"), "version": (4, ">I"),
    "backing_file_offset": (8, ">Q"), "backing_file_size": (16, ">I"),
    "cluster_bits": (20, ">I"), "size": (24, ">Q"), "crypt_method": (32, ">I"),
    "l1_size": (36, ">I"), "l1_table_offset": (40, ">Q"),
    "refcount_table_offset": (48, ">Q"), "refcount_table_clusters": (56, ">I"),
    "nb_snapshots": (60, ">I"), "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"), "compatible": (80, ">Q"), "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"), "header_length": (100, ">I"), "compression_type": (104, ">B"),
}

OFFSET_MASK = 0x00fffffffffffe00
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2, ZONED = (1 << n for n in range(6))

EXT_BACKING_FORMAT = 0xe2792aca
EXT_FEATURE_NAMES = 0x6803f857
EXT_DATA_FILE = 0x44415441
EXT_ENCRYPTION = 0x0537be77


def _open_without_atime(path, flags):
    """Reading the tables must not be mistaken for a read by the product."""
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


class ImageFile:
    """An image file opened for reading and writing its bytes, with a table of the header's
    fields: name → (offset in the header, struct format)."""

    HEADER = {}

    def __init__(self, path):
        self.path = os.fspath(path)
        self._file = open(self.path, "r+b", buffering=0, opener=_open_without_atime)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self, offset, length):
        return os.pread(self._file.fileno(), length, offset).ljust(length, b"\0")

    def write(self, offset, data):
        assert os.pwrite(self._file.fileno(), data, offset) == len(data)

    def truncate(self, length):
        os.ftruncate(self._file.fileno(), length)

    def file_size(self):
        return os.fstat(self._file.fileno()).st_size

    def get(self, name):
        offset, form = self.HEADER[name]
        return struct.unpack(form, self.read(offset, struct.calcsize(form)))[0]

    def set(self, name, value):
        offset, form = self.HEADER[name]
        self.write(offset, struct.pack(form, value))


class Qcow2File(ImageFile):
    """A qcow2 file opened for reading and writing its bytes."""

    HEADER = HEADER

    def append_cluster(self, data=b""):
        """Puts @data into new clusters at the end of the file; returns their offset. Reference
        counts are not updated: readers ignore them."""
        cs = self.cluster_size
        at = -(-self.file_size() // cs) * cs
        self.write(at, data.ljust(max(cs, -(-len(data) // cs) * cs), b"\0"))
        return at

    # ---- header -----------------------------------------------------------------------

    @property
    def version(self):
        return self.get("version")

    @property
    def cluster_bits(self):
        return self.get("cluster_bits")

    @property
    def cluster_size(self):
        return 1 << self.cluster_bits

    @property
    def extended(self):
        return self.version >= 3 and bool(self.get("incompatible") & EXTENDED_L2)

    @property
    def l2_entry_size(self):
        return 16 if self.extended else 8

    @property
    def l2_entries(self):
        return self.cluster_size // self.l2_entry_size

    def header_length(self):
        return self.get("header_length") if self.version >= 3 else 72

    def extensions(self):
        """(file offset of the head, type, data) of each header extension."""
        at = self.header_length()
        end = self.get("backing_file_offset") or self.cluster_size
        while at + 8 <= end:
            kind, length = struct.unpack(">II", self.read(at, 8))
            if kind == 0:
                return
            yield at, kind, self.read(at + 8, length)
            at += 8 + -(-length // 8) * 8

    def set_extensions(self, extensions, backing=None):
        """Rewrites the header's extensions, and the backing name behind them."""
        at = self.header_length()
        if backing is None and self.get("backing_file_offset"):
            backing = self.read(self.get("backing_file_offset"), self.get("backing_file_size"))
        body = b"".join(struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
                        for kind, data in extensions) + bytes(8)
        if backing:
            self.set("backing_file_offset", at + len(body))
            self.set("backing_file_size", len(backing))
            body += backing
        assert at + len(body) <= self.cluster_size
        self.write(at, body.ljust(self.cluster_size - at, b"\0"))

    def set_backing(self, name, backing_format=b"keep"):
        """Stores any bytes as backing name, which qemu-img would refuse or resolve."""
        kept = [(kind, data) for _, kind, data in self.extensions()
                if kind != EXT_BACKING_FORMAT or backing_format == b"keep"]
        if backing_format and backing_format != b"keep":
            kept.append((EXT_BACKING_FORMAT, backing_format))
        self.set_extensions(kept, name)

    # ---- tables -----------------------------------------------------------------------

    def l1_place(self, guest):
        """File offset of the L1 entry of a guest offset."""
        return self.get("l1_table_offset") + 8 * (guest // (self.l2_entries * self.cluster_size))

    def l1_entry(self, guest):
        return struct.unpack(">Q", self.read(self.l1_place(guest), 8))[0]

    def set_l1_entry(self, guest, value):
        self.write(self.l1_place(guest), struct.pack(">Q", value))

    def l2_place(self, guest):
        """File offset of the L2 entry of a guest offset; None without L2 table."""
        table = self.l1_entry(guest) & OFFSET_MASK
        if not table:
            return None
        index = guest // self.cluster_size % self.l2_entries
        return table + index * self.l2_entry_size

    def l2_entry(self, guest):
        place = self.l2_place(guest)
        return struct.unpack(">Q", self.read(place, 8))[0] if place is not None else 0

    def set_l2_entry(self, guest, value, bitmap=None):
        place = self.l2_place(guest)
        assert place is not None, f"no L2 table for guest offset {guest:#x}"
        self.write(place, struct.pack(">Q", value))
        if bitmap is not None:
            assert self.extended
            self.write(place + 8, struct.pack(">Q", bitmap))

    def subcluster_bitmap(self, guest):
        assert self.extended
        return struct.unpack(">Q", self.read(self.l2_place(guest) + 8, 8))[0]

    def compressed_at(self, guest):
        """(host offset, readable bytes) of a compressed cluster."""
        entry = self.l2_entry(guest)
        assert entry & COMPRESSED
        shift = 62 - (self.cluster_bits - 8)
        host = entry & ((1 << shift) - 1)
        extra = (entry >> shift) & ((1 << (self.cluster_bits - 8)) - 1)
        return host, (extra + 1) * 512 - (host & 511)

    def is_compressed(self, guest):
        return bool(self.l2_entry(guest) & COMPRESSED)

    def compressed_guest_offsets(self):
        """Guest offsets of all compressed clusters, found by walking the tables."""
        found, cs = [], self.cluster_size
        for guest in range(0, self.get("size"), cs):
            if self.l2_entry(guest) & COMPRESSED:
                found.append(guest)
        return found

    # ---- snapshots --------------------------------------------------------------------

    def snapshots(self):
        """Dictionaries of the snapshot table's entries; "place" is the file offset."""
        at, out = self.get("snapshots_offset"), []
        for _ in range(self.get("nb_snapshots")):
            at = -(-at // 8) * 8
            (l1_offset, l1_size, id_len, name_len, date_s, date_ns, clock, state, extra) = \
                struct.unpack(">QIHHIIQII", self.read(at, 40))
            body = self.read(at + 40, extra + id_len + name_len)
            wide = struct.unpack(">Q", body[:8])[0] if extra >= 8 else state
            disk = struct.unpack(">Q", body[8:16])[0] if extra >= 16 else self.get("size")
            out.append({"place": at, "l1_offset": l1_offset, "l1_size": l1_size,
                        "date_s": date_s, "date_ns": date_ns, "clock_ns": clock,
                        "vm_state": wide, "disk_size": disk, "extra": extra,
                        "id": body[extra:extra + id_len], "name": body[extra + id_len:]})
            at += 40 + extra + id_len + name_len
        return out

    def write_snapshots(self, entries):
        """Writes a new snapshot table to fresh clusters: entries as of snapshots()."""
        table = bytearray()
        for entry in entries:
            table += bytes(-len(table) % 8)
            extra = entry.get("extra", 24)
            vm_state = entry.get("vm_state", 0)
            narrow = vm_state if vm_state < 1 << 32 else 0
            table += struct.pack(">QIHHIIQII", entry["l1_offset"], entry["l1_size"],
                                 len(entry["id"]), len(entry["name"]), entry.get("date_s", 0),
                                 entry.get("date_ns", 0), entry.get("clock_ns", 0), narrow, extra)
            table += struct.pack(">QQQ", vm_state, entry["disk_size"], 0)[:extra].ljust(extra, b"\0")
            table += entry["id"] + entry["name"]
        place = self.append_cluster(table) if table else 0
        self.set("snapshots_offset", place)
        self.set("nb_snapshots", len(entries))

    def set_vm_state(self, snapshot_index, length):
        """Declares that a snapshot has a VM state of @length bytes (its data are there)."""
        entry = self.snapshots()[snapshot_index]
        assert entry["extra"] >= 8
        self.write(entry["place"] + 32, struct.pack(">I", length if length < 1 << 32 else 0))
        self.write(entry["place"] + 40, struct.pack(">Q", length))
