# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed clusters of both kinds, at every cluster size, alone and among others, with
streams that share sectors and cross host clusters."""

import pytest

from qtest import qemu
from qtest.checks import LastChecks, MatrixChecks
from qtest.matrix import Case
from qtest.qcow2 import Qcow2File
from qtest.recipes import compressible, default_size, sprinkle

CLUSTER_SIZES = [1 << bits for bits in range(9, 22)]


def converted(name, cluster, kind, method="zlib", size=None, **options):
    """A case made by `convert -c` from a raw source."""
    size = default_size(cluster) if size is None else size

    def build(directory, rng):
        source = compressible(directory / "source.tmp", size, cluster, rng, kind)
        options_text = ",".join([f"cluster_size={cluster}", f"compression_type={method}"]
                                + [f"{k}={v}" for k, v in options.items()])
        qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options_text,
                 source.name, f"{name}.qcow2", cwd=directory)
        source.unlink()
        return directory / f"{name}.qcow2"

    return Case(name, build)


class TestZlib(MatrixChecks, LastChecks):
    cases = [converted(f"zlib-{kind}-cs{cluster}", cluster, kind)
             for cluster in CLUSTER_SIZES for kind in ("words", "mixed")]
    cases += [converted(f"zlib-v2-cs{cluster}", cluster, "mixed", compat="0.10")
              for cluster in (512, 4096, 65536, 2 << 20)]


@pytest.mark.parametrize("kind", ["words", "mixed"])
def test_streams_cross_host_clusters(kind, tmp_path, rng):
    """The matrix covers its purpose: otherwise it would pass by luck."""
    crossing = 0
    with Qcow2File(converted("crossing", 4096, kind).build(tmp_path, rng)) as image:
        for guest in image.compressed_guest_offsets():
            host, length = image.compressed_at(guest)
            crossing += host // image.cluster_size != (host + length - 1) // image.cluster_size
    assert crossing > 5


class TestZstd(MatrixChecks, LastChecks):
    cases = [converted(f"zstd-{kind}-cs{cluster}", cluster, kind, "zstd")
             for cluster in CLUSTER_SIZES for kind in ("words", "mixed")]
    cases += [converted("zstd-noise-cs65536", 65536, "noise", "zstd")]


class TestOddSizes(MatrixChecks, LastChecks):
    """The last cluster is compressed whole and cut by the disk's end."""
    cases = [converted(f"{method}-cs{cluster}-size{size}", cluster, "mixed", method, size)
             for method in ("zlib", "zstd")
             for cluster, size in ((512, 33_280), (4096, 1_000_448), (65536, 512),
                                   (65536, 1_000_448), (2 << 20, 5_000_192))]


def _among_others(name, cluster, method, backing, extended):
    """Compressed writes between ordinary ones, zeros, and data of a backing file."""
    size = default_size(cluster)

    def build(directory, rng):
        options = {"cluster_size": cluster, "compression_type": method}
        if extended:
            options["extended_l2"] = "on"
        if backing:
            base = qemu.make_raw(directory / "base.tmp", size, (0, size, "words", 9))
            base.rename(directory / "base.img")
            image = qemu.create(directory / f"{name}.qcow2", size, "base.img", "raw", **options)
        else:
            image = qemu.create(directory / f"{name}.qcow2", size, **options)
        sprinkle(image, size, cluster, rng, compressed=True)
        n = size // cluster
        clusters = rng.sample(range(1, n), min(n - 1, 12))
        pieces = [(c * cluster, cluster, rng.choice(["words", "mixed", "constant"]), 3, "-c")
                  for c in clusters if not n // 5 <= c < n // 5 + 3]
        for piece in pieces:            # one at a time: QEMU never overwrites compressed ones
            try:
                qemu.write(image, piece)
            except AssertionError:
                continue
        return image

    return Case(name, build)


class TestAmongOthers(MatrixChecks, LastChecks):
    cases = [_among_others(f"{method}-cs{cluster}-{'backing' if backing else 'alone'}"
                           f"{'-el2' if extended else ''}", cluster, method, backing, extended)
             for method in ("zlib", "zstd") for backing in (False, True)
             for cluster, extended in ((512, False), (4096, False), (65536, False),
                                       (65536, True), (16384, True), (1 << 20, False))]


class TestAllCompressed(MatrixChecks, LastChecks):
    """A disk without any ordinary cluster, and one of zeros only."""
    @staticmethod
    def _full(directory, rng):
        source = qemu.make_raw(directory / "source.tmp", 1 << 20, (0, 1 << 20, "words", 5))
        qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", source.name, "full.qcow2", cwd=directory)
        source.unlink()
        return directory / "full.qcow2"

    @staticmethod
    def _zeros(directory, rng):
        image = qemu.create(directory / "zeros.qcow2", 1 << 20)
        qemu.io(image, f"write -z 0 {1 << 20}")
        return image

    cases = [Case("full", _full.__func__), Case("zeros", _zeros.__func__)]

    @pytest.mark.parametrize("name,flag", [("full", True), ("zeros", False)])
    def test_kind_of_all(self, matrix, name, flag):
        entries = matrix.qimg_json("map", matrix.built[name].image)
        assert all(entry.get("compressed", False) == flag for entry in entries)
        assert all(entry["zero"] != flag and entry["data"] == flag for entry in entries)
