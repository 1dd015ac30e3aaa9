# SPDX-License-Identifier: GPL-2.0-or-later
"""Versions, cluster sizes, widths of refcounts, extended L2 entries, preallocation and virtual
sizes, each with every kind of cluster written by QEMU."""

from qtest import qemu
from qtest.checks import LastChecks, MatrixChecks
from qtest.matrix import Case
from qtest.recipes import default_size, sprinkle

CLUSTER_SIZES = [1 << bits for bits in range(9, 22)]


def sprinkled(name, cluster, size=None, **options):
    """A case: create with @options, then sprinkle."""
    size = default_size(cluster) if size is None else size

    def build(directory, rng):
        image = qemu.create(directory / f"{name}.qcow2", size, cluster_size=cluster, **options)
        sprinkle(image, size, cluster, rng)
        return image

    return Case(name, build)


class TestClusterSizes(MatrixChecks, LastChecks):
    """Both versions with each permitted cluster size."""
    cases = [sprinkled(f"v{'2' if compat == '0.10' else '3'}-cs{cluster}", cluster, compat=compat)
             for compat in ("0.10", "1.1") for cluster in CLUSTER_SIZES]


class TestRefcountWidths(MatrixChecks, LastChecks):
    """Reading does not need refcounts: their width must not matter."""
    cases = [sprinkled(f"rb{bits}-cs{cluster}", cluster, refcount_bits=bits)
             for bits in (1, 2, 4, 8, 16, 32, 64) for cluster in (512, 4096, 65536)]


def _subclusters(name, cluster, preallocation):
    size = default_size(cluster)

    def build(directory, rng):
        image = qemu.create(directory / f"{name}.qcow2", size, cluster_size=cluster,
                            extended_l2="on", preallocation=preallocation)
        sprinkle(image, size, cluster, rng)
        # Every second subcluster of a cluster, then zeros over some of them.
        sub, base = cluster // 32, size // 2 // cluster * cluster
        qemu.write(image, *[(base + sub * n, sub, "words", 7) for n in range(0, 32, 2)])
        qemu.io(image, *[f"write -z {base + sub * n} {sub}" for n in range(0, 32, 3)],
                f"discard {base + sub * 8} {sub * 4}")
        return image

    return Case(name, build)


class TestExtendedL2(MatrixChecks, LastChecks):
    cases = [_subclusters(f"el2-cs{1 << bits}-{preallocation}", 1 << bits, preallocation)
             for bits in range(14, 22) for preallocation in ("off", "metadata")]


class TestPreallocation(MatrixChecks, LastChecks):
    cases = [sprinkled(f"{mode}-v{'2' if compat == '0.10' else '3'}-cs{cluster}", cluster,
                       compat=compat, preallocation=mode)
             for mode in ("metadata", "falloc", "full")
             for compat in ("0.10", "1.1") for cluster in (512, 4096, 65536)]
    cases += [sprinkled(f"lazy-cs{cluster}", cluster, lazy_refcounts="on")
              for cluster in (512, 65536, 2 << 20)]


def _sized(size, cluster, compat):
    name = f"v{'2' if compat == '0.10' else '3'}-cs{cluster}-size{size}"

    def build(directory, rng):
        image = qemu.create(directory / f"{name}.qcow2", size, cluster_size=cluster, compat=compat)
        whole = size // 512 * 512
        if whole:
            qemu.write(image, (0, min(whole, cluster), "words", 1),
                       (whole - 512, 512, "noise", 2))
        return image

    return Case(name, build)


class TestVirtualSizes(MatrixChecks, LastChecks):
    """Nothing, one sector, and ends inside a cluster, at a table's border and beside it."""
    cases = [_sized(size, cluster, compat)
             for cluster, sizes in {
                 512: (0, 512, 1024, 32768 - 512, 32768, 32768 + 512, 100_352),
                 4096: (0, 512, 4096, 4608, 1_000_448),
                 65536: (0, 512, 65024, 65536, 66048, 1_000_000, 10_000_384),
                 2 << 20: (0, 512, (2 << 20) - 512, (2 << 20) + 512, 5_000_192),
             }.items() for size in sizes for compat in ("0.10", "1.1")]


def _raw(name, size, *pieces):
    def build(directory, rng):
        return qemu.make_raw(directory / f"{name}.img", size, *pieces)

    return Case(name, build, image_format="raw")


class TestRaw(MatrixChecks, LastChecks):
    """A raw IMAGE is shown with its exact size, to the byte."""
    cases = [_raw(f"raw-size{size}", size, (0, min(size, 3000), "words", 1))
             for size in (1, 511, 512, 513, 1000, 4096, 65537, 1_000_001)]
    cases += [_raw("raw-holes", 5_000_003, (0, 4096, "words", 1), (2_000_000, 70_000, "noise", 2),
                   (4_999_000, 1003, "words", 3)),
              _raw("raw-one-hole", 16 << 20)]
