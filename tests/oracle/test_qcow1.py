# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow version 1: images by qemu-img, which makes clusters of 4 KiB and (with a backing file) of
512 bytes, and by our own writer with all other sizes; the content must equal QEMU's read."""

import json

import pytest

from qtest import env, pattern, procs, qemu
from qtest.checks import LastChecks, MatrixChecks, read_all
from qtest.matrix import Case
from qtest.qcow1 import Qcow1File, Qcow1Writer
from qtest.recipes import compressible

MIB = 1 << 20


def create(path, size, backing=None, backing_format=None):
    argv = ["create", "-q", "-f", "qcow"]
    if backing:
        argv += ["-b", backing, "-F", backing_format]
    qemu.img(*argv, path.name, str(size), cwd=path.parent)
    return path


def scatter(path, size, rng, salt=1):
    """Writes of all lengths through QEMU's driver."""
    pieces = [(0, 4096, "words", salt), (size - 512, 512, "noise", salt)]
    for _ in range(12):
        start = rng.randrange(0, size // 512) * 512
        length = min(rng.choice([512, 1024, 4096, 40960]), size - start)
        pieces.append((start, length, rng.choice(["words", "mixed", "constant"]), salt))
    qemu.write(path, *pieces)


def _by_qemu(name, size, base=None):
    """@base: the format of a backing file."""
    def build(directory, rng):
        if base == "raw":
            qemu.make_raw(directory / "base.img", size // 2 + 100, (0, size // 3, "words", 7))
        elif base == "qcow2":
            scatter(qemu.create(directory / "base.img", size), size, rng, 7)
        elif base == "qcow":
            scatter(create(directory / "base.img", size), size, rng, 7)
        image = create(directory / f"{name}.qcow", size, base and "base.img", base)
        scatter(image, size, rng)
        return image

    return Case(name, build)


class TestByQemu(MatrixChecks, LastChecks):
    cases = [_by_qemu(f"{base or 'alone'}-size{size}", size, base)
             for base in (None, "raw", "qcow2", "qcow") for size in (MIB, 3 * MIB + 512, 17 * MIB)]


def _converted(name, kind, size):
    def build(directory, rng):
        source = compressible(directory / "source.tmp", size, 4096, rng, kind)
        # qemu-img 7.2 exits with 1 although everything is written: the written file counts.
        qemu.img("convert", "-c", "-f", "raw", "-O", "qcow", source.name, f"{name}.qcow",
                 cwd=directory, check=False)
        qemu.img("compare", "-f", "raw", "-F", "qcow", source.name, f"{name}.qcow", cwd=directory)
        source.unlink()
        return directory / f"{name}.qcow"

    return Case(name, build)


class TestCompressed(MatrixChecks, LastChecks):
    cases = [_converted(f"{kind}-size{size}", kind, size)
             for kind in ("words", "mixed", "noise") for size in (MIB, 5 * MIB + 512)]

    def test_some_are_compressed(self, matrix):
        for name in matrix.built:           # the selected ones
            if not name.startswith("noise"):
                entries = matrix.qimg_json("map", matrix.built[name].image)
                assert any(e["compressed"] for e in entries)


def _made(name, cluster_bits, l2_bits, size=None, backing=False, places=None, tables=None,
          l1_gap=0):
    """All kinds of clusters at random. @places, @tables: multiples at which clusters and L2 tables
    lie; the cluster size if None."""
    cluster = 1 << cluster_bits
    size = size or max(MIB, 5 * cluster) + 512 * 3

    def build(directory, rng):
        if backing:
            qemu.make_raw(directory / "base.img", size - 5000, (0, size - 5000, "words", 9))
        image = Qcow1Writer(size, cluster_bits, l2_bits, b"base.img" if backing else b"", l1_gap,
                            mtime=1_000_000_000 if backing else 0)
        for number in range(-(-size // cluster)):
            choice, kind = rng.random(), rng.choice(["words", "mixed", "constant"])
            data = pattern.KINDS[kind](number * cluster, cluster, 3)
            if choice < 0.5 or number == 0:
                image.add_data(number, data, places, tables)
            elif choice < 0.75:
                image.add_compressed(number, data, table_unit=tables)
        return image.save(directory / f"{name}.qcow")

    return Case(name, build)


class TestAllSizes(MatrixChecks, LastChecks):
    cases = [_made(f"cb{cb}-l2b{l2b}{'-backing' if backing else ''}", cb, l2b, backing=backing)
             for cb in range(9, 17) for l2b, backing in ((6, False), (9, True), (13, False))]
    cases += [_made("clusters-at-sectors", 12, 9, places=512),
              _made("clusters-at-sectors-cb16", 16, 6, places=512),
              _made("tables-at-words", 10, 7, tables=8),
              _made("table-over-windows", 9, 13, tables=8),
              _made("l1-behind-a-gap", 9, 6, l1_gap=4088, size=4 * MIB)]


def _over_qcow(name, top_format):
    """@top_format over qcow over raw; the middle one may name the raw file by default if its own
    format is recorded."""
    def build(directory, rng):
        qemu.make_raw(directory / "base.img", 2 * MIB - 700, (0, MIB, "words", 5))
        middle = create(directory / "middle.qcow", 2 * MIB, "base.img", "raw")
        scatter(middle, 2 * MIB, rng, 4)
        image = qemu.create(directory / f"{name}.qcow2", 2 * MIB, "middle.qcow", "qcow", **top_format)
        scatter(image, 2 * MIB, rng, 2)
        return image

    return Case(name, build, want_layers=True)


class TestBelowQcow2(MatrixChecks, LastChecks):
    cases = [_over_qcow("plain", {}), _over_qcow("small", {"cluster_size": 512}),
             _over_qcow("extended", {"extended_l2": "on"})]


@pytest.fixture
def image(tmp_path, rng):
    """A qcow image over a raw one, and its content."""
    case = _made("disk", 12, 9, backing=True)
    path = case.build(tmp_path, rng)
    return path, qemu.to_raw(path, tmp_path / "expected").read_bytes()


@pytest.mark.parametrize("cut", [1, 511, 1536, 4095])
def test_last_cluster_may_be_cut(cut, tmp_path):
    """Its missing end reads as zeros, as with QEMU."""
    image = Qcow1Writer(16384)
    for number in (0, 3, 1):
        image.add_data(number, pattern.words(number * 4096, 4096))
    path = image.save(tmp_path / "cut.qcow")
    with Qcow1File(path) as file:
        file.truncate(file.l2_entry(4096) + cut)
    expected = qemu.to_raw(path, tmp_path / "expected").read_bytes()
    assert expected[4096:8192] == pattern.words(4096, cut) + bytes(4096 - cut)
    procs.run(env.qimg(), "copy-out", path, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected


def test_probing_and_names(image, tmp_path):
    path, expected = image
    for options in ((), ("-o", "format=qcow")):
        out = tmp_path / f"out{len(options)}"
        result = procs.run(env.qimg(), "copy-out", *options, path, out)
        assert out.read_bytes() == expected
        assert "probed as raw (qcow images cannot record it)" in result.errors
    info = json.loads(procs.run(env.qimg(), "info", "--output=json", path).stdout)
    assert info["format"] == "qcow"
    assert info["format-specific"] == {"type": "qcow", "data": {"l2-entries": 512,
                                                                "backing-mtime": 1_000_000_000}}
    refused = procs.run(env.qimg(), "info", "-o", "format=qcow2", path, check=False)
    assert refused.status == 1 and "must be 2 or 3" in refused.errors
    raw = procs.run(env.qimg(), "info", "-o", "format=raw", "--output=json", path)
    assert json.loads(raw.stdout)["virtual-size"] == path.stat().st_size


def test_what_is_not_done(image, tmp_path):
    path, _ = image
    before = path.read_bytes()
    for argv, status, text in (
            (["check", path], 63, "is a qcow image, for which there is no check"),
            (["check", "-r", "all", path], 63, "is a qcow image, for which there is no check"),
            (["resize", path, "4M"], 1, "is a qcow version 1 image, which can be read only"),
            (["snapshot", "create", path, "name"], 1, "can be read only"),
            (["create", "-f", "qcow", tmp_path / "new", "1M"], 1, "is no format that can be made"),
            ):
        result = procs.run(env.qimg(), *argv, check=False)
        assert result.status == status and text in result.errors, result
    assert path.read_bytes() == before and not (tmp_path / "new").exists()


def test_new_image_over_qcow(image, tmp_path):
    """qimg create records the probed format, and QEMU reads the same."""
    path, expected = image
    procs.run(env.qimg(), "create", "-q", "-b", path.name, "-F", "qcow", tmp_path / "top.qcow2")
    info = qemu.info_json(tmp_path / "top.qcow2")
    assert info["backing-filename-format"] == "qcow" and info["virtual-size"] == len(expected)
    procs.run(env.qimg(), "copy-out", tmp_path / "top.qcow2", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected
    assert read_all(qemu.to_raw(tmp_path / "top.qcow2", tmp_path / "theirs")) == expected
