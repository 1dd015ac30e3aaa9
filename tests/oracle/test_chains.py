# SPDX-License-Identifier: GPL-2.0-or-later
"""Backing chains: mixed formats, sizes and cluster sizes, names of every kind, and the disk as of
each layer."""

import json
import os

import pytest

from qtest import extents, pattern, qemu
from qtest.checks import LastChecks, MatrixChecks, read_all
from qtest.matrix import Case
from qtest.recipes import sprinkle

MIB = 1 << 20


def _over_raw(name, base_size, size, cluster, compat="1.1", **options):
    """qcow2 over raw: the base may be odd, shorter, longer or empty."""
    def build(directory, rng):
        qemu.make_raw(directory / "base.img", base_size,
                      *[(at, min(40_000, base_size - at), "words", 2)
                        for at in range(0, base_size, 100_000)])
        image = qemu.create(directory / f"{name}.qcow2", size, "base.img", "raw",
                            cluster_size=cluster, compat=compat, **options)
        sprinkle(image, size, cluster, rng)
        return image

    return Case(name, build)


class TestOverRaw(MatrixChecks, LastChecks):
    cases = [_over_raw(f"v{compat[-1]}-cs{cluster}-base{base_size}", base_size, MIB, cluster, compat)
             for compat in ("0.10", "1.1") for cluster in (512, 4096, 65536)
             for base_size in (0, 1000, 65536, 500_001, MIB, 2 * MIB + 1)]
    cases += [_over_raw(f"el2-base{base_size}", base_size, MIB, 65536, extended_l2="on")
              for base_size in (1000, 500_001, 2 * MIB)]
    cases += [_over_raw("only-odd-base", 1000, 1024, 65536)]


def _chain(name, clusters, sizes, formats=None, relative=True, write_top=True, **options):
    """qcow2 over qcow2 …: lists from the base up."""
    def build(directory, rng):
        below, below_format = None, None
        last = len(clusters) - 1
        for depth, (cluster, size) in enumerate(zip(clusters, sizes)):
            kind = (formats or ["qcow2"] * len(clusters))[depth]
            file_name = f"{name}.qcow2" if depth == last else f"layer{depth}.{kind}"
            if kind == "raw":
                qemu.make_raw(directory / file_name, size, (0, size // 2, "words", 50),
                              (size - 3000, 3000, "words", 50))
            else:
                backing = below if relative or below is None else str(directory / below)
                qemu.create(directory / file_name, size, backing, below_format,
                            cluster_size=cluster, **options)
                if depth != last or write_top:
                    sprinkle(directory / file_name, size, cluster, rng, salt=depth + 1)
            below, below_format = file_name, kind
        return directory / below

    return Case(name, build, want_layers=True)


class TestChains(MatrixChecks, LastChecks):
    cases = [
        _chain("two", [65536] * 2, [MIB] * 2),
        _chain("two-absolute", [65536] * 2, [MIB] * 2, relative=False),
        _chain("two-untouched", [65536] * 2, [MIB] * 2, write_top=False),
        _chain("two-v2", [65536] * 2, [MIB] * 2, compat="0.10"),
        _chain("shorter", [65536] * 2, [MIB // 2 + 512, MIB]),
        _chain("longer", [65536] * 2, [2 * MIB, MIB + 512]),
        _chain("three", [65536] * 3, [MIB] * 3),
        _chain("three-growing", [65536] * 3, [MIB // 2, MIB, 2 * MIB]),
        _chain("three-shrinking", [65536] * 3, [2 * MIB, MIB, MIB // 2]),
        _chain("three-waist", [4096] * 3, [2 * MIB, MIB // 2 + 512, 2 * MIB]),
        _chain("coarse-on-fine", [512, 4096, 2 * MIB], [4 * MIB] * 3),
        _chain("fine-on-coarse", [2 * MIB, 65536, 512], [4 * MIB] * 3),
        _chain("three-el2", [65536, 16384, 131072], [2 * MIB] * 3, extended_l2="on"),
        _chain("three-zstd", [65536] * 3, [MIB] * 3, compression_type="zstd"),
        _chain("raw-below-three", [0, 65536, 4096], [MIB + 1, MIB, MIB], ["raw", "qcow2", "qcow2"]),
        _chain("raw-odd-below-three", [0, 65536, 4096], [700_001, 3 * MIB, 2 * MIB],
               ["raw", "qcow2", "qcow2"]),
        _chain("deep", [65536, 4096, 65536, 512, 65536, 2 * MIB, 4096, 65536],
               [MIB, MIB, 2 * MIB, MIB, 2 * MIB, 4 * MIB, 2 * MIB, 2 * MIB]),
        _chain("sixteen", [65536] * 16, [MIB] * 16),
    ]

    @pytest.mark.parametrize("name", [c.name for c in cases])
    def test_layers(self, matrix, name):
        """layers/N.raw is the disk as of layer N."""
        built = matrix.get(next(c for c in self.cases if c.name == name))
        folder = matrix.mount.facts(name, "layers")
        names = sorted(os.listdir(folder), key=lambda n: int(n.split(".")[0]))
        assert names == [f"{n}.raw" for n in range(len(built.qemu_chain))]
        for depth in range(len(built.qemu_chain)):
            got = read_all(folder / f"{depth}.raw")
            wanted = built.layer_contents[depth].read_bytes()
            assert os.stat(folder / f"{depth}.raw").st_size == len(wanted)
            pattern.assert_same(got, wanted, f"layer {depth}")

    @pytest.mark.parametrize("name", [c.name for c in cases])
    def test_map_json_of_the_mount(self, matrix, name):
        """The tree's map.json and info.json are those of qimg."""
        built = matrix.get(next(c for c in self.cases if c.name == name))
        shown = json.loads(matrix.mount.facts(name, "map.json").read_text())
        extents.assert_complete(shown, len(built.expected))
        assert shown == matrix.qimg_json("map", built.image)
        info = json.loads(matrix.mount.facts(name, "info.json").read_text())
        assert info["virtual-size"] == len(built.expected)
        assert info["backing-filename"] == built.qemu_info["backing-filename"]


def _named(name, base_name, image_name=None, absolute=False):
    """A base with an odd name, relative to a directory with an odd name as well."""
    def build(directory, rng):
        folder = directory / "köln, ordner & co"
        folder.mkdir()
        base = qemu.create(folder / "plain.qcow2", MIB)
        sprinkle(base, MIB, 65536, rng)
        base.rename(folder / base_name)
        backing = f"{folder.name}/{base_name}"
        if absolute:
            backing = str(directory / backing)
        elif ":" in backing.split("/")[0]:
            backing = "./" + backing
        target = directory / f"{image_name or name}.qcow2"
        image = qemu.create(directory / "temporary.qcow2", MIB, backing, "qcow2")
        qemu.write(image, (65536 * 7, 4096, "noise", 2))
        return image.rename(target)

    return Case(name, build)


class TestNames(MatrixChecks, LastChecks):
    cases = [
        _named("space", "base with spaces.qcow2"),
        _named("umlaut", "grundlage-äöüß-日本語.qcow2"),
        _named("absolute", "base with spaces.qcow2", absolute=True),
        _named("quotes", "it's \"quoted\" \\ back.qcow2"),
        _named("newline", "two\nlines.qcow2"),
        _named("percent", "100%25 $HOME ~ *.qcow2"),
        _named("comma", "a,b,,c=d.qcow2"),
        _named("leading-dash", "-o rw.qcow2"),
        _named("colon-later", "nbd:localhost:10809.qcow2"),
        _named("no-suffix", "base"),
        _named("bild mit leer äö", "base.qcow2"),
        _named("a.qcow2.b", "base.qcow2"),
    ]


def _json_name(name, text):
    """A `json:` name of the plain file kind."""
    def build(directory, rng):
        base = qemu.create(directory / "base.qcow2", MIB)
        sprinkle(base, MIB, 65536, rng)
        image = qemu.create(directory / f"{name}.qcow2", MIB, text, "qcow2")
        qemu.write(image, (65536 * 7, 4096, "noise", 2))
        return image

    return Case(name, build)


class TestJsonNames(MatrixChecks, LastChecks):
    cases = [
        _json_name("nested", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'),
        _json_name("flat", 'json:{"driver":"qcow2","file.driver":"file","file.filename":"base.qcow2"}'),
    ]

    # QEMU resolves the name in its own way and shows the result.
    def test_info(self, matrix, case):
        ours = matrix.qimg_json("info", matrix.get(case).image)
        assert ours["virtual-size"] == MIB and ours["backing-filename"].startswith("json:")
