# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes QED images with qemu-img, and reads and damages their structures. Written from the
format's description, apart from the product's decoders, so that it can contradict them. Spec:
qed."""

import struct
from collections import Counter
from pathlib import Path

from .procs import run
from .qcow2 import ImageFile

# name → (offset in the header, struct format)
HEADER = {
    "magic": (0, "<I"), "cluster_size": (4, "<I"), "table_size": (8, "<I"),
    "header_size": (12, "<I"), "features": (16, "<Q"), "compat": (24, "<Q"),
    "autoclear": (32, "<Q"), "l1_table_offset": (40, "<Q"), "image_size": (48, "<Q"),
    "backing_filename_offset": (56, "<I"), "backing_filename_size": (60, "<I"),
}

BACKING, NEED_CHECK, BACKING_RAW = 1, 2, 4
UNALLOCATED, ZERO = 0, 1


def create(path, size, backing=None, backing_format=None, **options):
    """qemu-img create -f qed, in the image's directory."""
    path = Path(path)
    argv = ["qemu-img", "create", "-q", "-f", "qed"]
    if options:
        argv += ["-o", ",".join(f"{k}={v}" for k, v in options.items())]
    if backing is not None:
        argv += ["-b", backing, "-F", backing_format]
    argv.append(path.name)
    if size is not None:
        argv.append(str(size))
    run(*argv, cwd=path.parent)
    return path


class Walk:
    """The result of a walk over all tables: the number of references to each cluster, and the
    positions of entries outside the file."""

    def __init__(self):
        self.used, self.invalid, self.n_data = Counter(), [], 0


class QedFile(ImageFile):
    """An image file opened for reading and writing its bytes."""

    HEADER = HEADER

    @property
    def cluster_size(self):
        return self.get("cluster_size")

    @property
    def n_entries(self):
        return self.get("table_size") * self.cluster_size // 8

    def n_clusters(self):
        """Whole ones; a last whole sector counts."""
        return -(-self.file_size() // 512) * 512 // self.cluster_size

    def backing_name(self):
        if not self.get("features") & BACKING:
            return None
        return self.read(self.get("backing_filename_offset"), self.get("backing_filename_size"))

    def set_backing(self, name, features=BACKING):
        """Stores any bytes as backing name, which qemu-img would refuse or resolve."""
        self.write(64, name)
        self.set("backing_filename_offset", 64)
        self.set("backing_filename_size", len(name))
        self.set("features", self.get("features") & ~(BACKING | BACKING_RAW) | features)

    def enlarge_header(self, header_size):
        """Moves the L1 table of an empty image behind @header_size clusters."""
        assert not any(self.read(self.get("l1_table_offset"), self.n_entries * 8))
        self.set("header_size", header_size)
        self.set("l1_table_offset", header_size * self.cluster_size)
        self.truncate(self.cluster_size)
        self.truncate((header_size + self.get("table_size")) * self.cluster_size)

    # ---- tables -----------------------------------------------------------------------

    def l1_place(self, guest):
        """File offset of the L1 entry of a guest offset."""
        return self.get("l1_table_offset") + 8 * (guest // (self.n_entries * self.cluster_size))

    def l1_entry(self, guest):
        return self.word(self.l1_place(guest))

    def set_l1_entry(self, guest, value):
        self.set_word(self.l1_place(guest), value)

    def l2_place(self, guest):
        """File offset of the L2 entry of a guest offset; None without L2 table."""
        table = self.l1_entry(guest)
        return table + 8 * (guest // self.cluster_size % self.n_entries) if table else None

    def l2_entry(self, guest):
        place = self.l2_place(guest)
        return UNALLOCATED if place is None else self.word(place)

    def set_l2_entry(self, guest, value):
        place = self.l2_place(guest)
        assert place is not None, f"no L2 table for guest offset {guest:#x}"
        self.set_word(place, value)

    def word(self, place):
        return struct.unpack("<Q", self.read(place, 8))[0]

    def set_word(self, place, value):
        self.write(place, struct.pack("<Q", value))

    def _table(self, offset):
        """(index, entry) of those that are not 0; most of a table is 0."""
        data = self.read(offset, self.n_entries * 8)
        for start in range(0, len(data), 4096):
            part = data[start:start + 4096]
            if any(part):
                for i, entry in enumerate(struct.unpack(f"<{len(part) // 8}Q", part)):
                    if entry:
                        yield start // 8 + i, entry

    def _is_place(self, offset, n_clusters):
        cs = self.cluster_size
        return (offset % cs == 0 and offset >= self.get("header_size") * cs
                and offset // cs + n_clusters <= self.n_clusters())

    def walk(self):
        out, cs, table_size = Walk(), self.cluster_size, self.get("table_size")
        out.used.update(range(self.get("header_size")))
        l1 = self.get("l1_table_offset")
        out.used.update(range(l1 // cs, l1 // cs + table_size))
        for i, table in self._table(l1):
            if not self._is_place(table, table_size):
                out.invalid.append(l1 + 8 * i)
                continue
            out.used.update(range(table // cs, table // cs + table_size))
            for j, entry in self._table(table):
                if entry == ZERO:
                    continue
                if not self._is_place(entry, 1):
                    out.invalid.append(table + 8 * j)
                    continue
                out.used[entry // cs] += 1
                out.n_data += 1
        return out

    def assert_sound(self, may_leak=False):
        """Every entry is valid, no cluster has two references, and none is unreferenced."""
        walk = self.walk()
        shared = [c for c, n in walk.used.items() if n > 1]
        leaks = sorted(set(range(self.n_clusters())) - walk.used.keys())
        assert not walk.invalid and not shared, f"invalid {walk.invalid[:9]}, shared {shared[:9]}"
        assert may_leak or not leaks, f"leaks {leaks[:9]}"
        assert may_leak or not self.get("features") & NEED_CHECK, "NEED_CHECK is set"
