# SPDX-License-Identifier: GPL-2.0-or-later
"""QED images beside QEMU: reads and maps, the result of random work, and creation, resizing,
checks and repairs."""

import json
import os
import shutil
from pathlib import Path

import pytest

from qtest import env, evidence, pattern, procs, qed, qemu
from qtest.checks import LastChecks, MatrixChecks
from qtest.matrix import Case
from qtest.qed import BACKING, BACKING_RAW, NEED_CHECK, QedFile
from qtest.recipes import default_size, sprinkle

KIB, MIB = 1 << 10, 1 << 20
# The shapes that QEMU opens: it has no tables of one cluster, and computes the largest disk in 64
# bits.
SHAPES = [(cs, ts) for cs in (1 << bits for bits in range(12, 23)) for ts in (2, 4, 8, 16)
          if (ts * cs // 8) ** 2 * cs < 1 << 64]
CORNERS = [(4 * KIB, 2), (4 * KIB, 16), (64 * KIB, 4), (MIB, 16), (4 * MIB, 2)]


# ---- reading ----------------------------------------------------------------------------

def disk(name, cluster=64 * KIB, table=4, size=None, base=None, edit=None, fill=sprinkle):
    """@base makes the file below and gives its name and format; @edit changes the empty image by
    hand."""
    size = default_size(cluster) if size is None else size

    def build(directory, rng):
        below = base(directory, rng) if base else (None, None)
        path = qed.create(directory / f"{name}.qed", size, *below, cluster_size=cluster,
                          table_size=table)
        if edit:
            with QedFile(path) as image:
                edit(image)
        if fill:
            fill(path, size, cluster, rng)
        return path

    return Case(name, build)


def raw_base(size):
    def base(directory, rng):
        qemu.make_raw(directory / "base.img", size, *[(at, min(90_000, size - at), "words", 2)
                                                      for at in range(0, size, 200_000)])
        return "base.img", "raw"
    return base


def qcow2_base(size, **options):
    def base(directory, rng):
        qemu.create(directory / "base.qcow2", size, **options)
        sprinkle(directory / "base.qcow2", size, options.get("cluster_size", 65536), rng, salt=5)
        return "base.qcow2", "qcow2"
    return base


def qed_base(size, cluster=4096, below=None):
    def base(directory, rng):
        under = below(directory, rng) if below else (None, None)
        name = f"layer{len(list(directory.iterdir()))}"
        qed.create(directory / name, size, *under, cluster_size=cluster, table_size=2)
        sprinkle(directory / name, size, cluster, rng, salt=7)
        return name, "qed"
    return base


def qcow2_above(name, size):
    def build(directory, rng):
        qemu.create(directory / f"{name}.qcow2", size, *qed_base(MIB)(directory, rng))
        sprinkle(directory / f"{name}.qcow2", size, 65536, rng)
        return directory / f"{name}.qcow2"
    return Case(name, build)


def set_bits(**values):
    def edit(image):
        for name, value in values.items():
            image.set(name, value)
    return edit


def zero_clusters(path, size, cluster, rng):
    """Zero entries at the ends of tables and between data."""
    span = QedFile(path).n_entries * cluster
    qemu.io(path, "write -P 1 0 64k", "write -z 64k 128k", f"write -P 2 {span - 4096} 8k",
            f"write -z {span - 8192} 4k", f"write -z {span + 4096} 64k", f"write -z {2 * span - 4096} 4k")


def _middle():
    """Some of the shapes between the corners, others for each seed."""
    return env.rng("QED shapes").sample([s for s in SHAPES if s not in CORNERS], 4)


class TestReading(MatrixChecks, LastChecks):
    cases = [disk(f"cs{cs}-ts{ts}", cs, ts) for cs, ts in CORNERS + _middle()] + [
        disk("empty", size=0, fill=None),
        disk("one-sector", size=512, fill=None),
        disk("odd-size", size=MIB + 512),
        disk("untouched", size=3 * MIB, base=raw_base(2 * MIB), fill=None),
        disk("raw-short", base=raw_base(700_001)),
        disk("raw-long", 4096, 2, base=raw_base(3 * MIB)),
        disk("qcow2-short", base=qcow2_base(MIB // 2)),
        disk("qcow2-long", 4096, 8, base=qcow2_base(3 * MIB, cluster_size=512)),
        disk("qed-base", base=qed_base(MIB)),
        disk("qed-chain", base=qed_base(2 * MIB, 65536, below=qed_base(MIB, below=raw_base(900_001)))),
        qcow2_above("below-qcow2", 2 * MIB),
        disk("zeros", 4096, 2, 8 * MIB, base=raw_base(8 * MIB), fill=zero_clusters),
        disk("header-3", 4096, 2, edit=lambda image: image.enlarge_header(3)),
        disk("compat-bits", edit=set_bits(compat=0x8000_0000_0000_0005)),
        # QEMU clears these when it writes to the image.
        disk("autoclear-bits", fill=None, edit=set_bits(autoclear=0xf0)),
    ]


def test_raw_is_not_probed(tmp_path):
    """The bit says that the backing file is raw, for any content."""
    base = qemu.create(tmp_path / "base", MIB)
    image = qed.create(tmp_path / "disk.qed", MIB, "base", "raw")
    facts = json.loads(procs.run(env.qimg(), "info", "--output=json", image).stdout)
    assert facts["backing-filename-format"] == "raw"
    with QedFile(image) as file:
        assert file.get("features") == BACKING | BACKING_RAW
    copy_out(image, tmp_path / "copy")
    found = (tmp_path / "copy").read_bytes()
    assert found == base.read_bytes()[:MIB].ljust(MIB, b"\0")


def copy_out(image, target, *options):
    return procs.run(env.qimg(), "copy-out", *options, image, target)


@pytest.mark.parametrize("shape", CORNERS, ids=lambda shape: f"cs{shape[0]}-ts{shape[1]}")
def test_copy_out(shape, tmp_path, rng):
    cluster, table = shape
    size = default_size(cluster)
    image = qed.create(tmp_path / "disk.qed", size, cluster_size=cluster, table_size=table)
    sprinkle(image, size, cluster, rng)
    with evidence.Unchanged(image):
        copy_out(image, tmp_path / "copy")
    expected = qemu.to_raw(image, tmp_path / "expected").read_bytes()
    pattern.assert_same((tmp_path / "copy").read_bytes(), expected, "copy-out")


# ---- refusals at open ----

def qimg_fails(*argv, cwd=None):
    """The one line of error of a failing qimg, behind warnings."""
    result = procs.run(env.qimg(), *argv, cwd=cwd, check=False)
    assert result.status == 1 and result.stdout == b"", str(result)
    *warnings, line = result.errors.splitlines(keepends=True)
    assert all(warning.startswith("qimg: warning: ") for warning in warnings), str(result)
    return line


REFUSED = [
    ("features", 8, "features: unknown bit 3; "),
    ("features", 1 << 63 | 1 << 40, "features: unknown bit 40, bit 63; "),
    ("cluster_size", 2048, "cluster_size: is 2048 (0x800) and must be a power of two from 4096 to "),
    ("cluster_size", 65537, "cluster_size: is 65537 (0x10001) and must be "),
    ("cluster_size", 1 << 27, "cluster_size: is 134217728 (0x8000000) and must be "),
    ("table_size", 0, "table_size: is 0 (0x0) and must be a power of two from 1 to 16"),
    ("table_size", 3, "table_size: is 3 (0x3) and must be "),
    ("table_size", 32, "table_size: is 32 (0x20) and must be "),
    ("header_size", 0x8000_0000, "l1_table_offset: is 65536 (0x10000) and must be "),
    ("image_size", 1000, "image_size: is 1000 (0x3e8) and must be a multiple of 512 "),
    ("image_size", (1 << 46) + 512, "image_size: is 70368744178176 "),
    ("l1_table_offset", 0, "l1_table_offset: is 0 (0x0) and must be "),
    ("l1_table_offset", 65536 + 512, "l1_table_offset: is 66048 "),
]


@pytest.mark.parametrize("name,value,text", REFUSED)
def test_refused(name, value, text, tmp_path):
    image = qed.create(tmp_path / "disk.qed", MIB)
    with QedFile(image) as file:
        file.set(name, value)
    with evidence.Unchanged(image):
        line = qimg_fails("info", image)
    assert line.startswith(f"qimg: {image}: {text}"), line
    assert qemu.img("info", image, check=False).status != 0


def test_unknown_feature_is_told_first(tmp_path):
    """It may have changed the meaning of every other field."""
    image = qed.create(tmp_path / "disk.qed", MIB)
    with QedFile(image) as file:
        file.set("features", 16)
        file.set("cluster_size", 0)
        file.set("image_size", 1)
    assert "features: unknown bit 4" in qimg_fails("info", image)


@pytest.mark.parametrize("length,fits", [(1, True), (1023, True), (4032, True), (4033, False)])
def test_backing_name_length(length, fits, tmp_path):
    """Names in the header's one cluster of 4 KiB; readable, for any tables that fit."""
    image = qed.create(tmp_path / "disk.qed", MIB, cluster_size=4096)
    with QedFile(image) as file:
        file.set_backing(b"n" * length, BACKING | BACKING_RAW)
    result = procs.run(env.qimg(), "check", image, check=False)
    assert (result.status == 0) == fits, str(result)
    if not fits:
        assert "backing_filename_offset: is 64 (0x40) and must lie, with the name, " in result.errors


def test_longest_backing_name(tmp_path):
    image = qed.create(tmp_path / "disk.qed", MIB)
    for length, status in ((4095, 0), (4096, 1)):
        with QedFile(image) as file:
            file.set_backing(b"n" * length, BACKING | BACKING_RAW)
        result = procs.run(env.qimg(), "check", image, check=False)
        assert result.status == status, str(result)


# ---- random work ------------------------------------------------------------------------

def random_writes(image, rng, scratch, size, *options, threads=4, overlap=False, n_ops=200):
    """The library changes the disk, which keeps its size; returns its expected content."""
    program = Path(env.qimg()).resolve().parents[1] / "tests" / "model" / "model-writers"
    if not program.exists():
        pytest.skip(f"{program} was not built")
    argv = [program, f"--seed={rng.getrandbits(32)}", f"--ops={n_ops}", f"--threads={threads}",
            f"--max-size={size}", f"--dump={scratch}", *[f"--option={o}" for o in options]]
    if overlap:
        argv.append("--overlap")
    result = procs.run(*argv, image, check=False, limit_s=30)
    print(result)
    assert result.status == 0, result.errors
    return scratch.read_bytes()


def assert_sound(image):
    """Both QEMU and the tables themselves say so."""
    qemu.img("check", "-f", "qed", image.name, cwd=image.parent)
    with QedFile(image) as file:
        file.assert_sound()


WRITTEN = {
    "cs4k-ts2": {"cluster": 4 * KIB, "table": 2},
    "cs4k-ts16": {"cluster": 4 * KIB, "table": 16},
    "cs64k": {},
    "cs1m-ts16": {"cluster": MIB, "table": 16},
    "cs4m": {"cluster": 4 * MIB, "table": 2, "size": 10 * MIB},
    "raw-base": {"base": raw_base(1_500_001)},
    "raw-longer": {"cluster": 4 * KIB, "base": raw_base(3 * MIB)},
    "qcow2-base": {"base": qcow2_base(2 * MIB)},
    "qed-base": {"cluster": 8 * KIB, "base": qed_base(2 * MIB)},
    "header-3": {"cluster": 4 * KIB, "edit": lambda image: image.enlarge_header(3)},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_random_writes(name, tmp_path, rng):
    """Afterwards nothing is leaked, and the header is unchanged except for the autoclear bits,
    which the first write cleared."""
    spec = {"size": 2 * MIB, **WRITTEN[name]}
    folder = tmp_path / "images"
    folder.mkdir()
    image = disk("disk", **spec).build(folder, rng)
    with QedFile(image) as file:
        file.set("compat", 0x1234_5678_9abc_def0)
        file.set("autoclear", 0xff)
        before = file.read(0, file.get("header_size") * file.cluster_size)
    others = [path for path in folder.iterdir() if path != image]
    with evidence.Unchanged(folder):
        random_writes(image, rng, tmp_path / "model", spec["size"], n_ops=0)
    states = evidence.state(others)
    for threads, overlap in ((1, False), (4, False), (4, True)):
        wanted = random_writes(image, rng, tmp_path / "model", spec["size"], threads=threads,
                               overlap=overlap)
        assert_sound(image)
        pattern.assert_same(qemu.to_raw(image, tmp_path / "raw").read_bytes(), wanted, "qemu-img convert")
    with QedFile(image) as file:
        after = file.read(0, file.get("header_size") * file.cluster_size)
    assert after == before[:32] + bytes(8) + before[40:]
    for path, facts in evidence.state(others).items():
        assert facts["data"] == states[path]["data"], f"{path} has changed"


def test_in_turn_with_qemu(tmp_path, rng):
    """Each continues where the other one has stopped."""
    size = 4 * MIB
    image = qed.create(tmp_path / "disk.qed", size, cluster_size=4096, table_size=2)
    for salt in range(4):
        random_writes(image, rng, tmp_path / "model", size, n_ops=100)
        start = rng.randrange(size // 512 - 200) * 512
        qemu.write(image, (start, 100_352, "noise", salt))
        qemu.io(image, f"write -z {rng.randrange(900) * 4096} 40k")
        assert_sound(image)
    copy_out(image, tmp_path / "copy")
    expected = qemu.to_raw(image, tmp_path / "raw").read_bytes()
    pattern.assert_same((tmp_path / "copy").read_bytes(), expected, "at the end")


def test_cut_last_cluster_is_used_anew(tmp_path, rng):
    """Bytes behind the last whole cluster belong to no entry."""
    image = qed.create(tmp_path / "disk.qed", MIB)
    with open(image, "ab") as file:
        file.write(b"\xaa" * 5000)
    wanted = random_writes(image, rng, tmp_path / "model", MIB)
    assert_sound(image)
    pattern.assert_same(qemu.to_raw(image, tmp_path / "raw").read_bytes(), wanted, "the disk")


# ---- creation ----

def qimg_create(path, size, *options, **properties):
    argv = [env.qimg(), "create", "-q", "-f", "qed", *options]
    if properties:
        argv += ["-o", ",".join(f"{name}={value}" for name, value in properties.items())]
    return procs.run(*argv, path.name, *([] if size is None else [str(size)]), cwd=path.parent)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"cs{shape[0]}-ts{shape[1]}")
def test_create(shape, tmp_path):
    """Byte for byte the same as qemu-img's."""
    cluster, table = shape
    largest = min((table * cluster // 8) ** 2 * cluster, (1 << 63) - 512)
    sizes = (0, 512, 1000, 10 * MIB)
    for size in (sizes[SHAPES.index(shape) % 4], min(largest, 1 << 60)):
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        qimg_create(ours, size, "--force", cluster_size=cluster, table_size=table)
        qed.create(theirs, size, cluster_size=cluster, table_size=table)
        with open(ours, "rb") as one, open(theirs, "rb") as two:
            assert ours.stat().st_size == theirs.stat().st_size
            assert one.read(2 * cluster) == two.read(2 * cluster)


@pytest.mark.parametrize("size", (None, MIB, 5 * MIB), ids=("same", "smaller", "larger"))
@pytest.mark.parametrize("kind", ("raw", "qcow2", "qed"))
def test_create_with_backing(kind, size, tmp_path):
    base = tmp_path / "base.raw"
    if kind == "raw":
        qemu.make_raw(base, 2 * MIB + 100, (0, MIB, "words", 1))
    else:
        (qemu.create if kind == "qcow2" else qed.create)(base, 2 * MIB)
    ours, theirs = tmp_path / "ours.qed", tmp_path / "theirs.qed"
    qimg_create(ours, size, "-b", "base.raw", "-F", kind)
    qed.create(theirs, size, "base.raw", kind)
    procs.run("cmp", ours, theirs)
    with QedFile(ours) as file:
        assert file.backing_name() == b"base.raw"
        assert file.get("features") == (BACKING | BACKING_RAW if kind == "raw" else BACKING)


@pytest.mark.parametrize("properties,size,text", [
    ({"cluster_size": 2048}, 0, "cluster_size: must be a power of two from 4096 to 67108864"),
    ({"cluster_size": "128M"}, 0, "cluster_size: must be a power of two from 4096 to 67108864"),
    ({"cluster_size": "4M"}, 0, "cluster_size: is too large for QEMU with tables of 4 clusters (use "
     "smaller clusters or tables)"),
    ({"cluster_size": 4096, "table_size": 2}, "5G", "size: is more than the tables can map (at most "
     "4294967296 bytes with these; give a larger cluster_size or table_size)"),
    ({"preallocation": "full"}, MIB, "preallocation: a QED image has none (leave it out)"),
    ({"compat": "1.1"}, MIB, "compat: a qed image has none (leave it out, or make a qcow2 image)"),
    ({"data_file": "d"}, MIB, "data_file: a qed image has none (leave it out, or make a qcow2 image)"),
])
def test_create_refusals(properties, size, text, tmp_path):
    options = ",".join(f"{name}={value}" for name, value in properties.items())
    line = qimg_fails("create", "-f", "qed", "-o", options, "new.qed", str(size), cwd=tmp_path)
    assert line == f"qimg: new.qed: {text}\n"
    assert os.listdir(tmp_path) == []


def test_largest_backing_name(tmp_path):
    """It fits in the header's cluster, or is refused."""
    qimg_create(tmp_path / "new.qed", MIB, "--no-check", "-b", "n" * 4032, "-F", "raw",
                cluster_size=4096)
    with QedFile(tmp_path / "new.qed") as file:
        assert file.backing_name() == b"n" * 4032
    line = qimg_fails("create", "-f", "qed", "--no-check", "-b", "n" * 4033, "-F", "raw", "-o",
                      "cluster_size=4096", "more.qed", "1M", cwd=tmp_path)
    assert line == "qimg: more.qed: backing_file: has 4033 bytes, and must have 1 to 4032\n"


# ---- resizing ---------------------------------------------------------------------------

def test_resize(tmp_path, rng):
    """Up, over the borders of clusters and tables; the content of a longer backing file does not
    become visible."""
    image = disk("disk", 4096, 2, MIB + 512, base=raw_base(12 * MIB)).build(tmp_path, rng)
    expected = qemu.to_raw(image, tmp_path / "raw").read_bytes()
    for size in (MIB + 1024, 2 * MIB, 4 * MIB + 512, 11 * MIB, 14 * MIB):
        procs.run(env.qimg(), "resize", image, str(size))
        assert_sound(image)
        expected = expected.ljust(size, b"\0")
        pattern.assert_same(qemu.to_raw(image, tmp_path / "raw").read_bytes(), expected, f"at {size}")
    with QedFile(image) as file:
        assert file.get("image_size") == 14 * MIB


def test_resize_to_the_largest(tmp_path):
    image = qed.create(tmp_path / "disk.qed", MIB, cluster_size=4096, table_size=2)
    procs.run(env.qimg(), "resize", image, "4G")
    assert_sound(image)
    qemu.io(image, "write -P 5 4294963200 4096")
    assert_sound(image)
    with evidence.Unchanged(image):
        line = qimg_fails("resize", image, str((4 << 30) + 512))
    assert line == (f"qimg: {image}: the format cannot map a disk of that size with these clusters\n")


def test_shrinking_is_refused(tmp_path):
    """Also if the first change would have repaired a fault."""
    image = qed.create(tmp_path / "disk.qed", 4 * MIB)
    with QedFile(image) as file:
        file.set("features", NEED_CHECK)
        file.set("autoclear", 1)
    with evidence.Unchanged(image):
        line = qimg_fails("resize", "--shrink", image, "1M")
    assert line == (f"qimg: {image}: not possible with this image: it is a device, of version 2 with "
                    "snapshots, raw without metadata, or QED, which cannot shrink\n")


@pytest.mark.parametrize("mode", ("metadata", "falloc", "full"))
def test_resize_with_preallocation(mode, tmp_path):
    image = qed.create(tmp_path / "disk.qed", MIB)
    qemu.io(image, "write -P 5 0 1M")
    procs.run(env.qimg(), "resize", f"--preallocation={mode}", image, "4M")
    assert_sound(image)
    length = image.stat().st_size
    qemu.io(image, "write -P 6 1M 3M", "read -P 5 0 1M", "read -P 6 1M 3M")
    assert image.stat().st_size == length, "a write has allocated"


# ---- snapshots, bitmaps -----------------------------------------------------------------

@pytest.mark.parametrize("action", (["create", "one"], ["delete", "one"], ["revert", "one"]),
                         ids=lambda a: a[0])
def test_snapshots_are_refused(action, tmp_path):
    image = qed.create(tmp_path / "disk.qed", MIB)
    with evidence.Unchanged(image):
        assert image.name in qimg_fails("snapshot", action[0], image, *action[1:])


# ---- checking ---------------------------------------------------------------------------

CLEAN, CORRUPTED, LEAKED = 0, 2, 3


def qimg_check(path, *options):
    """(exit status, JSON) of our check."""
    result = procs.run(env.qimg(), "check", "--output=json", *options, path, check=False)
    return result.status, json.loads(result.text)


def qemu_check(path, *options):
    """(exit status, JSON) of QEMU's; it prints other lines before the JSON when it repairs."""
    result = qemu.img("check", "--output=json", *options, path.name, cwd=path.parent, check=False)
    return result.status, json.loads(result.text[result.text.find("{"):])


def sample(folder, **spec):
    """Two L2 tables; data at 0, 64K, 1M and behind the first table; zeros at 128K."""
    spec = {"cluster_size": 65536, "table_size": 2, **spec}
    image = qed.create(folder / "disk.qed", 2 << 30, **spec)
    qemu.io(image, "write -P 1 0 128k", "write -z 128k 64k", "write -P 2 1M 300k",
            "write -P 3 1100M 64k")
    return image


def end_of(image):
    return image.n_clusters() * image.cluster_size


def _unaligned_l2(image):
    image.set_l2_entry(0, image.l2_entry(0) + 512)


def _far_l2(image):
    image.set_l2_entry(65536, 1 << 60)


def _at_end_l2(image):
    image.set_l2_entry(MIB, end_of(image))


def _header_l2(image):
    image.set_l2_entry(MIB + 65536, 2)


def _far_l1(image):
    image.set_l1_entry(1100 * MIB, 1 << 62)


def _last_of_l1(image):
    """Only the first cluster of the table is in the file."""
    image.set_l1_entry(1100 * MIB, end_of(image) - image.cluster_size)


def _unaligned_l1(image):
    image.set_l1_entry(0, image.l1_entry(0) + 8)


def _shared(image):
    image.set_l2_entry(0, image.l2_entry(MIB))


def _shared_table(image):
    image.set_l1_entry(1100 * MIB, image.l1_entry(0))


def _data_in_table(image):
    image.set_l2_entry(0, image.l1_entry(0))


def _data_in_l1(image):
    image.set_l2_entry(0, image.get("l1_table_offset"))


def _leak_inside(image):
    image.set_l2_entry(0, 0)


def _leak_at_end(image):
    image.truncate(end_of(image) + 3 * image.cluster_size)


def _leak_of_part(image):
    image.truncate(end_of(image) + 70_000)


def _lost_table(image):
    image.set_l1_entry(1100 * MIB, 0)


DAMAGES = {f.__name__.strip("_"): f for f in (
    _unaligned_l2, _far_l2, _at_end_l2, _header_l2, _far_l1, _last_of_l1, _unaligned_l1, _shared,
    _shared_table, _data_in_table, _data_in_l1, _leak_inside, _leak_at_end, _leak_of_part, _lost_table)}
DAMAGES["none"] = lambda image: None
DAMAGES["several"] = lambda image: [DAMAGES[n](image) for n in ("unaligned_l2", "far_l2", "leak_at_end")]


def damaged(tmp_path, damage, features=0):
    folder = tmp_path / "images"
    folder.mkdir()
    image = sample(folder)
    with QedFile(image) as file:
        DAMAGES[damage](file)
        file.set("features", features)
    return image


@pytest.mark.parametrize("features", (0, NEED_CHECK), ids=("closed", "need-check"))
@pytest.mark.parametrize("damage", DAMAGES)
def test_check(damage, features, tmp_path):
    image = damaged(tmp_path, damage, features)
    with evidence.Unchanged(image):
        status, ours = qimg_check(image)
    expected, theirs = qemu_check(image)
    assert status == expected, (ours, theirs)
    # A table with two references is one corruption here, and one per cluster there; allocated
    # clusters are counted only without damage.
    keys = {"check-errors", "corruptions", "leaks", "total-clusters", "allocated-clusters"}
    keys -= {"corruptions"} if damage == "shared_table" else set()
    keys -= {"allocated-clusters"} if status == CORRUPTED else set()
    wrong = {key: (ours[key], theirs.get(key, 0)) for key in keys
             if ours[key] != theirs.get(key, 0)}
    assert not wrong, (wrong, ours["findings"])
    assert ours["dirty-flag"] == bool(features)


@pytest.mark.parametrize("features", (0, NEED_CHECK), ids=("closed", "need-check"))
@pytest.mark.parametrize("mode", ("leaks", "all"))
@pytest.mark.parametrize("damage", DAMAGES)
def test_repair(damage, mode, features, tmp_path):
    """Repairs equal QEMU's; besides, leaks at the end are cut off."""
    image = damaged(tmp_path, damage, features)
    theirs = image.parent / "theirs.qed"
    shutil.copy(image, theirs)
    status, result = qimg_check(image, "-r", mode)
    with QedFile(image) as file:
        walk = file.walk()
        leaks = set(range(file.n_clusters())) - walk.used.keys()
        is_corrupt = bool(walk.invalid) or any(n > 1 for n in walk.used.values())
        assert status == (CORRUPTED if is_corrupt else LEAKED if leaks else CLEAN), result
        assert file.get("features") == (features if is_corrupt else 0)
        if not is_corrupt:
            assert max(walk.used) >= max(leaks, default=0), "leaks at the end stay"
    assert qimg_check(image) == (status, {**result, "corruptions-fixed": 0, "leaks-fixed": 0})
    if mode == "leaks":
        # No entry is dropped that could have data.
        with QedFile(theirs) as file:
            assert bool(file.walk().invalid) == bool(walk.invalid)
        return
    assert not walk.invalid
    qemu_check(theirs, "-r", "all")
    assert qemu_check(image)[0] == status
    with QedFile(image) as ours, QedFile(theirs) as their:
        end = min(ours.file_size(), their.file_size())
        their.set("features", ours.get("features"))     # cleared by QEMU after any findings
        assert ours.read(0, end) == their.read(0, end)


def test_dirty_image_of_qemu(tmp_path):
    """A killed writer has left NEED_CHECK, and no fault except leaks."""
    image = qed.create(tmp_path / "disk.qed", 4 * MIB)
    result = qemu.io(image, "write -P 5 0 300k", "abort", check=False)
    assert result.status != 0
    with QedFile(image) as file:
        assert file.get("features") == NEED_CHECK
    with evidence.Unchanged(image):
        facts = json.loads(procs.run(env.qimg(), "info", "--output=json", image).stdout)
        assert facts["dirty-flag"] is True
        assert any("was not closed properly" in w for w in facts["warnings"])
    status, ours = qimg_check(image, "-r", "all")
    assert status == CLEAN and not ours["dirty-flag"]
    assert_sound(image)
    qemu.io(image, "read -P 5 0 300k")


def test_many_references_to_one_table(tmp_path):
    """The maximal number of entries, all to one table: it is walked once."""
    image = sample(tmp_path)
    with QedFile(image) as file:
        table = file.l1_entry(0)
        file.write(file.get("l1_table_offset"), table.to_bytes(8, "little") * file.n_entries)
        n_entries = file.n_entries
    status, ours = qimg_check(image)
    assert status == CORRUPTED and ours["corruptions"] == n_entries - 1


def test_huge_sparse_file(tmp_path):
    """2^31 clusters, all leaked or all the header's: skipped by words."""
    image = qed.create(tmp_path / "disk.qed", MIB, cluster_size=4096, table_size=2)
    with QedFile(image) as file:
        file.truncate(8 << 40)
    status, ours = qimg_check(image)
    assert status == LEAKED and ours["leaks"] == (8 << 40) // 4096 - 3
    with QedFile(image) as file:
        header_size = (8 << 40) // 4096 - 2
        file.set("header_size", header_size)
        file.set("l1_table_offset", header_size * 4096)
    status, ours = qimg_check(image)
    assert status == CLEAN and ours["image-end-offset"] == 8 << 40
