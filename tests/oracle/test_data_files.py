# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest data in an external data file, raw or not."""

from qtest import qemu
from qtest.checks import LastChecks, MatrixChecks
from qtest.matrix import Case
from qtest.recipes import default_size, sprinkle


def _external(name, cluster, raw, preallocation="off", extended=False, size=None, data_name=None):
    size = default_size(cluster) if size is None else size

    def build(directory, rng):
        options = {"cluster_size": cluster, "preallocation": preallocation,
                   "data_file": data_name or f"{name}.data"}
        if raw:
            options["data_file_raw"] = "on"
        if extended:
            options["extended_l2"] = "on"
        image = qemu.create(directory / f"{name}.qcow2", size, **options)
        sprinkle(image, size, cluster, rng)
        return image

    return Case(name, build)


class TestDataFile(MatrixChecks, LastChecks):
    cases = [_external(f"{'raw' if raw else 'ext'}-cs{cluster}-{preallocation}"
                       f"{'-el2' if extended else ''}", cluster, raw, preallocation, extended)
             for raw in (False, True)
             for cluster, extended in ((512, False), (4096, False), (65536, False), (65536, True),
                                       (16384, True), (2 << 20, False))
             for preallocation in ("off", "metadata", "falloc", "full")]
    cases += [_external("odd-size", 65536, False, size=1_000_448),
              _external("odd-size-raw", 65536, True, size=1_000_448),
              _external("spaces", 65536, False, data_name="daten datei äöü.bin")]


def _short_data_file(directory, rng):
    """The data file ends before the disk: the rest reads as zeros."""
    image = qemu.create(directory / "short.qcow2", 1 << 20, data_file="short.data",
                        preallocation="metadata")
    qemu.write(image, (0, 65536, "words", 1), (512 << 10, 65536, "words", 1))
    with open(directory / "short.data", "r+b") as file:
        file.truncate((512 << 10) + 30_000)
    return image


def _overlay_on_data_file(directory, rng):
    base = qemu.create(directory / "base.qcow2", 1 << 20, data_file="base.data")
    sprinkle(base, 1 << 20, 65536, rng)
    image = qemu.create(directory / "overlay.qcow2", None, "base.qcow2", "qcow2")
    qemu.write(image, (65536 * 3 + 512, 1024, "noise", 2))
    return image


def _backed_data_file(directory, rng):
    qemu.make_raw(directory / "base.img", 1 << 20, (0, 1 << 20, "words", 3))
    image = qemu.create(directory / "backed.qcow2", 1 << 20, "base.img", "raw",
                        data_file="backed.data")
    sprinkle(image, 1 << 20, 65536, rng)
    return image


class TestDataFileRelations(MatrixChecks, LastChecks):
    cases = [Case("short", _short_data_file), Case("overlay", _overlay_on_data_file),
             Case("backed", _backed_data_file)]
