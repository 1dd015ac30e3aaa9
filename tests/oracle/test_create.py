# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg create: QEMU finds no fault in each created image, describes it like its own with the same
options, reads the right content and can write to it. Refused, interrupted and failed creations
leave nothing that passes for an image."""

import itertools
import json
import os
import signal
import stat
import subprocess

import pytest

from qtest import env, evidence, qemu
from qtest.procs import run
from qtest.writing import small_tmpfs

MIB = 1 << 20
CLUSTER_BITS = range(9, 22)
MAX_L1_ENTRIES = 4 << 20


def create(path, size=None, *options, check=True, **properties):
    """qimg create in the image's directory; properties as elements of -o."""
    argv = [env.qimg(), "create", "-q", *options]
    if properties:
        argv += ["-o", ",".join(f"{name}={value}" for name, value in properties.items())]
    return run(*argv, path.name, *([] if size is None else [str(size)]), cwd=path.parent, check=check)


def refused(path, message, *arguments, **properties):
    """The one line of the error, and no additional file."""
    before = sorted(os.listdir(path.parent))
    result = create(path, *arguments, check=False, **properties)
    assert result.status == 1 and result.stdout == b"", str(result)
    assert result.errors == f"qimg: {message}\n"
    assert sorted(os.listdir(path.parent)) == before


def checked(path):
    qemu.img("check", "-q", path.name, cwd=path.parent)


def facts_of(path):
    """The facts of qemu-img info, except those of the host."""
    facts = qemu.info_json(path)
    for name in ("filename", "actual-size", "full-backing-filename", "children"):
        facts.pop(name, None)
    return facts


def map_of(path):
    """qemu-img's map of the image, without the file below, whose holes are the host's."""
    out = []
    for entry in qemu.map_json(path):
        answer = {name: entry.get(name) for name in ("depth", "present", "data")}
        if out and out[-1][1] == answer:
            out[-1][0] += entry["length"]
        else:
            out.append([entry["length"], answer])
    return out


def same_as_qemu(path, size, backing=None, backing_format=None, **properties):
    """Creates the image here and by qemu-img, each in a separate directory, and compares."""
    theirs = path.parent / "theirs"
    theirs.mkdir(exist_ok=True)
    options = ["-b", backing, "-F", backing_format] if backing else []
    if backing:
        target = theirs / backing
        if not target.exists():
            os.link(path.parent / backing, target)
    create(path, size, *options, **properties)
    qemu.create(theirs / path.name, size, backing, backing_format, **properties)
    assert facts_of(path) == facts_of(theirs / path.name)
    assert map_of(path) == map_of(theirs / path.name)
    checked(path)


# ---- created images ----

def max_size(cluster_bits, extended_l2):
    entries = 1 << (cluster_bits - (4 if extended_l2 else 3))
    return MAX_L1_ENTRIES * entries << cluster_bits


def combinations(cluster_bits):
    """Each width of refcounts, the other properties in turn."""
    sizes = (0, 512, MIB, 3 * MIB + 512, 1 << 34)
    for order in range(7):
        number = cluster_bits * 7 + order
        properties = {"refcount_bits": 1 << order}
        if cluster_bits >= 14 and number % 2:
            properties["extended_l2"] = "on"
        if number % 3 == 0:
            properties["compression_type"] = "zstd"
        if number % 4 == 0:
            properties["lazy_refcounts"] = "on"
        yield sizes[number % len(sizes)], properties
    yield sizes[cluster_bits % len(sizes)], {"compat": "0.10"}


@pytest.mark.limit(120)
@pytest.mark.parametrize("cluster_bits", CLUSTER_BITS)
def test_combinations(tmp_path, cluster_bits):
    for number, (size, properties) in enumerate(combinations(cluster_bits)):
        path = tmp_path / f"{number}.qcow2"
        create(path, size, cluster_size=1 << cluster_bits, **properties)
        checked(path)
        facts = qemu.info_json(path)
        data = facts["format-specific"]["data"]
        assert facts["virtual-size"] == size
        assert facts["cluster-size"] == 1 << cluster_bits
        assert not facts["dirty-flag"]
        assert data["compat"] == properties.get("compat", "1.1")
        assert data["refcount-bits"] == properties.get("refcount_bits", 16)
        assert data["compression-type"] == properties.get("compression_type", "zlib")
        if data["compat"] == "1.1":
            assert data["extended-l2"] == ("extended_l2" in properties)
            assert data["lazy-refcounts"] == ("lazy_refcounts" in properties)
            assert not data["corrupt"]
        ours = json.loads(run(env.qimg(), "info", "--output=json", path).stdout)
        for key in ("virtual-size", "cluster-size", "dirty-flag", "format"):
            assert ours[key] == facts[key]
        assert ours["warnings"] == []


@pytest.mark.parametrize("order", (0, 4, 6))
def test_largest_l1_table(tmp_path, order):
    """At the limit, with the maximal number of refcount blocks."""
    path = tmp_path / "new.qcow2"
    limit = max_size(9, 0)
    create(path, limit, cluster_size=512, refcount_bits=1 << order)
    # The blocks describe all clusters: QEMU's next allocation is elsewhere.
    qemu.io(path, f"write -P 7 {limit - 4096} 4096", "write -P 9 0 1000")
    qemu.io(path, f"read -P 7 {limit - 4096} 4096", "read -P 9 0 1000")
    checked(path)


@pytest.mark.parametrize("cluster_bits,extended", ((9, 0), (14, 1), (16, 0), (21, 0)))
def test_size_limit(tmp_path, cluster_bits, extended):
    path = tmp_path / "new.qcow2"
    limit = max_size(cluster_bits, extended)
    refused(path, f"new.qcow2: size: is {limit + 512}, and with clusters of {1 << cluster_bits} "
            f"bytes an image maps at most {limit} bytes (use larger clusters)", limit + 512,
            cluster_size=1 << cluster_bits, extended_l2="on" if extended else "off")


@pytest.mark.parametrize("cluster_bits,order", ((9, 0), (12, 6), (16, 3), (21, 4)))
def test_qemu_goes_on(tmp_path, cluster_bits, order):
    path = tmp_path / "new.qcow2"
    create(path, 8 * MIB, cluster_size=1 << cluster_bits, refcount_bits=1 << order)
    qemu.write(path, (0, 100_000, "words", 1), (5_000_192, 3_000_000, "noise", 2))
    checked(path)
    qemu.img("resize", "-q", path.name, "20M", cwd=tmp_path)
    checked(path)


def test_same_bytes_as_qemu(tmp_path):
    """The layout is that of qemu-img create: except for the file's end, the bytes are, too."""
    ours, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    if not qemu.has_option("extended_l2"):
        pytest.skip("an older QEMU knows fewer features by name")
    create(ours, "1T")
    qemu.create(theirs, 1 << 40)
    expected = theirs.read_bytes()
    assert ours.read_bytes()[:len(expected)] == expected


SAME = [
    {},
    {"cluster_size": 4096, "refcount_bits": 1},
    {"cluster_size": 2 * MIB, "compression_type": "zstd", "lazy_refcounts": "on"},
    {"extended_l2": "on", "refcount_bits": 64},
    {"compat": "0.10"},
    {"data_file": "disk.data"},
    {"data_file": "disk.data", "data_file_raw": "on"},
]


@pytest.mark.parametrize("properties", SAME, ids=lambda p: "-".join(p) or "defaults")
def test_same_as_qemu(tmp_path, properties):
    same_as_qemu(tmp_path / "new.qcow2", 5 * MIB + 512, **properties)


# ---- preallocation ----------------------------------------------------------------------

SHAPES = {
    "plain": {},
    "small": {"cluster_size": 512, "refcount_bits": 64},
    "large": {"cluster_size": 2 * MIB, "refcount_bits": 1},
    "extended": {"extended_l2": "on"},
    "version-2": {"compat": "0.10", "cluster_size": 4096},
    "data-file": {"data_file": "disk.data"},
    "data-file-raw": {"data_file": "disk.data", "data_file_raw": "on"},
    "data-file-extended": {"data_file": "disk.data", "extended_l2": "on"},
}


MODES = [*((shape, "metadata") for shape in SHAPES),
         *itertools.product(("plain", "extended", "data-file"), ("falloc", "full"))]


@pytest.mark.parametrize("shape,mode", MODES)
def test_preallocation(tmp_path, shape, mode):
    size = 5 * MIB + 512
    path = tmp_path / "new.qcow2"
    same_as_qemu(path, size, preallocation=mode, **SHAPES[shape])
    assert qemu.to_raw(path, tmp_path / "flat").read_bytes() == bytes(size)
    data = path if "data_file" not in SHAPES[shape] else tmp_path / "disk.data"
    if mode != "metadata":
        assert os.stat(data).st_blocks * 512 >= size
    length = os.stat(path).st_size
    qemu.io(path, "write -P 5 1M 3M", f"write -P 6 {size - 512} 512")
    qemu.io(path, "read -P 0 0 1M", "read -P 5 1M 3M", f"read -P 6 {size - 512} 512")
    assert os.stat(path).st_size == length, "a write has allocated"
    checked(path)


def test_preallocation_over_backing(tmp_path):
    """A place for each cluster, and the backing file still shows through."""
    qemu.make_raw(tmp_path / "base.img", 3 * MIB, (0, MIB, "words", 1))
    path = tmp_path / "new.qcow2"
    same_as_qemu(path, None, "base.img", "raw", extended_l2="on", preallocation="metadata")
    assert qemu.to_raw(path, tmp_path / "flat").read_bytes() == (tmp_path / "base.img").read_bytes()


def test_preallocation_of_much(tmp_path):
    """2^20 clusters; qemu-img check counts each."""
    path = tmp_path / "new.qcow2"
    create(path, "64G", preallocation="metadata")
    assert os.stat(path).st_blocks * 512 < 64 * MIB
    report = json.loads(qemu.img("check", "--output=json", path.name, cwd=tmp_path).stdout)
    assert report["allocated-clusters"] == report["total-clusters"] == 1 << 20
    assert report["check-errors"] == 0 and "leaks" not in report


# ---- raw --------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ("off", "falloc", "full"))
def test_raw(tmp_path, mode):
    path = tmp_path / "new.img"
    create(path, "1000K", "-f", "raw", preallocation=mode)
    assert path.read_bytes() == bytes(1000 << 10)
    assert (os.stat(path).st_blocks * 512 >= 1000 << 10) == (mode != "off")
    create(tmp_path / "odd.img", 1000, "--format=raw")
    assert os.stat(tmp_path / "odd.img").st_size == 1024, "whole sectors, as QEMU's"


# ---- backing files ----------------------------------------------------------------------

def test_backing(tmp_path):
    """The size and, unless given, the format are the backing file's."""
    qemu.make_raw(tmp_path / "base.img", 3 * MIB + 100, (0, MIB, "words", 1))
    middle, top = tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    result = create(middle, None, "-b", "base.img")
    assert result.errors == ("qimg: middle.qcow2: the format of the backing file was not given: "
                             "stored as it was found, raw\n")
    result = create(top, "4M", "-b", str(middle), "-F", "qcow2")
    assert result.errors == ""
    facts = qemu.info_json(middle)
    assert facts["virtual-size"] == 3 * MIB + 512
    assert (facts["backing-filename"], facts["backing-filename-format"]) == ("base.img", "raw")
    facts = qemu.info_json(top)
    assert (facts["backing-filename"], facts["backing-filename-format"]) == (str(middle), "qcow2")
    checked(top)
    base = (tmp_path / "base.img").read_bytes()
    assert qemu.to_raw(top, tmp_path / "flat").read_bytes() == base.ljust(4 * MIB, b"\0")


def test_backing_from_elsewhere(tmp_path):
    """A relative name is relative to the new image, for any current directory."""
    (tmp_path / "images" / "bases").mkdir(parents=True)
    qemu.create(tmp_path / "images" / "bases" / "base.qcow2", MIB)
    run(env.qimg(), "create", "-b", "bases/base.qcow2", "--data-file=new.data", "images/new.qcow2",
        cwd=tmp_path)
    assert sorted(os.listdir(tmp_path / "images")) == ["bases", "new.data", "new.qcow2"]
    facts = json.loads(run(env.qimg(), "info", "--output=json", "images/new.qcow2", cwd=tmp_path).stdout)
    assert facts["backing-filename"] == "bases/base.qcow2"
    assert facts["virtual-size"] == MIB
    # The user may name a file outside the image's directory, but the backing file may not.
    qemu.make_raw(tmp_path / "images" / "up.img", MIB)
    qemu.create(tmp_path / "images" / "bases" / "low.qcow2", None, "../up.img", "raw")
    path = tmp_path / "images" / "high.qcow2"
    refused(path, 'high.qcow2: backing file "bases/low.qcow2": backing file: names "../up.img", and '
            '"./bases/../up.img" lies outside the allowed directories (allow it with -o backing=DIR '
            "or -o backing=any)", None, "-b", "bases/low.qcow2")
    create(path, None, "-b", "bases/low.qcow2", "-o", "backing=any")


@pytest.mark.parametrize("name", ["disk.img", "disk.raw", "disk", "disk.bak"])
def test_probed_format_is_not_stored(name, tmp_path):
    """A raw disk whose guest has written a header: a stored format would be trusted later."""
    base = qemu.create(tmp_path / "made.qcow2", MIB).rename(tmp_path / name)
    made = tmp_path / "new.qcow2"
    refused(made, f'new.qcow2: backing file "{name}": was probed as qcow2, which its name does not '
            "tell: the guest of a raw disk can write such a header, and a format that is stored is "
            "trusted from then on (give -F qcow2 if it is one, -F raw if not)", None, "-b", name)
    assert sorted(os.listdir(tmp_path)) == sorted([name])
    for image_format, size in (("raw", -(-base.stat().st_size // 512) * 512), ("qcow2", MIB)):
        create(made, None, "--force", "-b", name, "-F", image_format)
        facts = qemu.info_json(made)
        assert facts["backing-filename-format"] == image_format and facts["virtual-size"] == size


def test_raw_base_stays_raw(tmp_path):
    """A header written to it later is data."""
    base = qemu.make_raw(tmp_path / "disk.img", MIB, (0, MIB, "words", 1))
    top = tmp_path / "top.qcow2"
    create(top, None, "-b", "disk.img")
    secret = qemu.make_raw(tmp_path / "secret.img", MIB, (0, MIB, "words", 2))
    header = qemu.create(tmp_path / "header.qcow2", MIB, secret.name, "raw").read_bytes()
    with open(base, "r+b") as file:
        file.write(header[:4096])
    run(env.qimg(), "copy-out", top, tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes() == base.read_bytes()


def test_links_do_not_tell(tmp_path):
    """The file's own name counts."""
    qemu.create(tmp_path / "made.qcow2", MIB).rename(tmp_path / "disk.img")
    (tmp_path / "link.qcow2").symlink_to("disk.img")
    result = create(tmp_path / "new.qcow2", None, "-b", "link.qcow2", check=False)
    assert result.status == 1 and "was probed as qcow2" in result.errors, result
    assert not (tmp_path / "new.qcow2").exists()


def test_same_as_qemu_with_backing(tmp_path):
    qemu.create(tmp_path / "base.qcow2", 3 * MIB)
    same_as_qemu(tmp_path / "a.qcow2", None, "base.qcow2", "qcow2")
    same_as_qemu(tmp_path / "b.qcow2", "7M", "base.qcow2", "qcow2", cluster_size=4096, compat="0.10")
    same_as_qemu(tmp_path / "c.qcow2", None, "base.qcow2", "qcow2", data_file="c.data")


def test_no_check(tmp_path):
    path = tmp_path / "new.qcow2"
    create(path, "1G", "-u", "-b", "nbd://host/export", "-F", "vmdk")
    header = path.read_bytes()[:65536]
    at = int.from_bytes(header[8:16], "big")
    assert header[at:at + int.from_bytes(header[16:20], "big")] == b"nbd://host/export"
    assert b"vmdk" in header
    refused(tmp_path / "more", "more: backing_fmt: is missing (with --no-check the format of the "
            "backing file must be given)", "1G", "-u", "-b", "x")
    refused(tmp_path / "more", "more: size: is missing (with --no-check it must be given)", None,
            "-u", "-b", "x", "-F", "raw")


@pytest.mark.parametrize("cluster_bits,length", ((9, 392), (10, 904), (11, 1023), (21, 1023)))
def test_longest_names(tmp_path, cluster_bits, length):
    """A name that just fits: the table of feature names makes room for it."""
    name, path = "n" * length, tmp_path / "new.qcow2"
    properties = {"cluster_size": 1 << cluster_bits, "backing_fmt": "raw"}
    if cluster_bits < 11:
        name = name[:-16]  # the format's name
    create(path, 0, "-u", "-b", name, **properties)
    header = path.read_bytes()[:1 << cluster_bits]
    at = int.from_bytes(header[8:16], "big")
    assert header[at:at + len(name)] == name.encode()
    assert int.from_bytes(header[16:20], "big") == len(name)
    if cluster_bits < 11:
        refused(tmp_path / "more", "more: backing_file, data_file: the names do not fit in the "
                f"header's cluster of {1 << cluster_bits} bytes (use larger clusters or shorter "
                "names)", 0, "-u", "-b", name + "n", **properties)


# ---- refusals ----

REFUSALS = [
    ({}, None, "new: size: is missing (give it, or a backing file to take it from)"),
    ({"version": 2, "refcount_bits": 8}, 0, "new: version: must be 3 for refcount_bits other than 16"),
    ({"version": 2, "compression_type": "zstd"}, 0,
     "new: version: must be 3 for a compression_type other than zlib"),
    ({"compat": "0.10", "extended_l2": "on"}, 0, "new: version: must be 3 for extended_l2"),
    ({"version": 2, "lazy_refcounts": "on"}, 0, "new: version: must be 3 for lazy_refcounts"),
    ({"version": 2, "data_file": "d"}, 0, "new: version: must be 3 for a data_file"),
    ({"version": 4}, 0, "version=4: unknown (give one of 2, 3)"),
    ({"cluster_size": 256}, 0, "new: cluster_size: must be a power of two from 512 to 2M"),
    ({"cluster_size": "4M"}, 0, "new: cluster_size: must be a power of two from 512 to 2M"),
    ({"cluster_size": 3000}, 0, "cluster_size=3000: is no power of two"),
    ({"cluster_size": "8K", "extended_l2": "on"}, 0,
     "new: cluster_size: is 8192 and must be at least 16384 with extended_l2"),
    ({"refcount_bits": 128}, 0, "refcount_bits=128: unknown (give one of 1, 2, 4, 8, 16, 32, 64)"),
    ({"lazy_refcounts": "maybe"}, 0, "lazy_refcounts=maybe: unknown (give one of off, on)"),
    ({"preallocation": "some"}, 0,
     "preallocation=some: unknown (give one of off, metadata, falloc, full)"),
    ({"preallocation": "metadata", "cluster_size": 512, "refcount_bits": 64}, "40G",
     "new: size: is 42949672960, more than an image with these cluster_size and refcount_bits has "
     "room for when all is allocated (use larger clusters, or preallocation=off)"),
    ({"colour": "red"}, 0, "colour: is no property of a new image"),
    ({"backing_file": "none"}, 0, 'new: backing file "none": cannot open: No such file or directory '
     "(give the path of a disk image)"),
    ({"backing_file": ""}, 0, "backing_file=: is empty"),
    ({"backing_file": "base", "backing_fmt": "vmdk"}, 0,
     'new: backing file "base": backing_fmt=vmdk: cannot be read by this version (give qcow2, qed, qcow, luks or raw, '
     "or --no-check to store the name all the same)"),
    ({"backing_file": "nbd:x"}, 0, 'backing file name "nbd:x": begins with a protocol'),
    ({"backing_file": "base", "preallocation": "metadata"}, 0,
     "new: preallocation: needs extended_l2 with a backing_file"),
    ({"backing_fmt": "raw"}, 0, "new: backing_fmt: needs a backing_file"),
    ({"backing_file": "base", "backing_fmt": "f" * 16, "no_check": None}, 0,
     "new: backing_fmt: has 16 bytes, and must have 1 to 15"),
    ({"backing_file": "n" * 1024, "backing_fmt": "raw", "no_check": None}, 0,
     "new: backing_file: has 1024 bytes, and must have 1 to 1023"),
    ({"data_file_raw": "on"}, 0, "new: data_file_raw: needs a data_file"),
    ({"data_file_raw": "on", "data_file": "d", "backing_file": "base"}, 0,
     "new: data_file_raw: cannot be had with a backing_file, whose data would not be in it"),
    ({"data_file": "new"}, 0, 'new: data file "new": is the image itself (give another name)'),
    ({"data_file": "base"}, 0, 'new: data file "base": exists already, and is left as it is (give '
     "another name, or --force to replace it)"),
    ({"format": "vmdk"}, 0, "format=vmdk: is no format that can be made (give qcow2, qed or raw)"),
    ({"format": "raw", "cluster_size": "4K"}, 0,
     "new: cluster_size: a raw image has none (leave it out, or make a qcow2 image)"),
    ({"format": "raw", "preallocation": "metadata"}, 0,
     "new: preallocation=metadata: a raw image has none (give falloc or full)"),
    ({}, "1X", 'size: "1X" is no size (give a number of bytes, or one with K, M, G, T, P or E, like '
     "1.5G, less than 16E)"),
]


def test_refusals(tmp_path):
    qemu.make_raw(tmp_path / "base", MIB)
    with evidence.Unchanged(tmp_path):
        for properties, size, message in REFUSALS:
            options = ["--no-check"] if "no_check" in properties else []
            options += itertools.chain(*(("-o", f"{name}={value}") for name, value in properties.items()
                                         if name != "no_check"))
            result = create(tmp_path / "new", size, *options, check=False)
            assert result.status == 1, str(result)
            assert result.errors.count("\n") == 1 and message in result.errors, str(result)
            assert result.errors == f"qimg: {message}\n" or "begins with" in message
            assert os.listdir(tmp_path) == ["base"]


# ---- existing files ----

def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "new.qcow2"
    path.write_bytes(b"precious")
    with evidence.Unchanged(tmp_path):
        refused(path, "new.qcow2: exists already, and is left as it is (give another name, or "
                "--force to replace it)", "1M")
        os.symlink("nowhere", tmp_path / "link")
        refused(tmp_path / "link", "link: exists already, and is left as it is (give another name, "
                "or --force to replace it)", "1M")
        os.mkdir(tmp_path / "folder")
        refused(tmp_path / "folder", "folder: is no regular file, and is not replaced (give another "
                "name)", "1M", "--force")


def test_force(tmp_path):
    """The new image replaces the old file, in identity and mode."""
    path = tmp_path / "new.qcow2"
    path.write_bytes(b"\xff" * 3_000_000)
    path.chmod(0o640)
    os.symlink(path.name, tmp_path / "link")
    create(tmp_path / "link", "1G", "--force")
    create(tmp_path / "fresh.qcow2", "1G")
    assert path.read_bytes() == (tmp_path / "fresh.qcow2").read_bytes()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    assert os.readlink(tmp_path / "link") == path.name
    create(path, "2M", "--force", data_file="link.data")
    create(path, "2M", "--force", data_file="link.data", preallocation="full")
    assert sorted(os.listdir(tmp_path)) == ["fresh.qcow2", "link", "link.data", "new.qcow2"]
    checked(path)


def test_force_spares_what_is_needed(tmp_path):
    """Neither a file of the backing chain, nor one in use."""
    qemu.make_raw(tmp_path / "base.img", MIB)
    middle = tmp_path / "middle.qcow2"
    create(middle, None, "-b", "base.img", "-F", "raw")
    below = "is a file that the backing file is made of itself (give another name)"
    with evidence.Unchanged(tmp_path):
        refused(tmp_path / "base.img", f"base.img: {below}", None, "--force", "-b", "middle.qcow2",
                "-F", "qcow2")
        refused(tmp_path / "new", f'new: data file "base.img": {below}', None, "--force",
                "-b", "middle.qcow2", "-F", "qcow2", data_file="base.img")
        refused(middle, "middle.qcow2: is the backing file itself (give another name)", "1M",
                "--force", "-u", "-b", "middle.qcow2", "-F", "qcow2")
        refused(middle, 'middle.qcow2: data file "middle.qcow2": is the image itself (give another '
                "name)", "1M", "--force", data_file="middle.qcow2")
    with qemu.held(middle):
        result = create(middle, "1M", "--force", check=False)
        assert result.status == 1 and "middle.qcow2: is in use: another process" in result.errors
    qemu.io(middle, "read 0 1M")


# ---- interruptions ----

def is_image(path):
    with open(path, "rb") as file:
        return file.read(4) == b"QFI\xfb"


@pytest.mark.parametrize("options", ([], ["--force"]))
def test_kill(tmp_path, options):
    """Killed at any time it leaves the old file, or no image, or the whole one."""
    path = tmp_path / "new.qcow2"
    if options:
        path.write_bytes(b"precious")
    process = subprocess.Popen([env.qimg(), "create", "-q", "--preallocation=full", *options,
                                path.name, "400M"], cwd=tmp_path, stdin=subprocess.DEVNULL)
    while process.poll() is None:
        if len(os.listdir(tmp_path)) > len(options):
            process.send_signal(signal.SIGKILL)
            break
    if process.wait() == -signal.SIGKILL:
        if options:
            assert path.read_bytes() == b"precious"
        assert not any(is_image(tmp_path / name) for name in os.listdir(tmp_path))
    create(path, "1M", "--force")
    checked(path)


def test_no_space(tmp_path):
    """Nothing of an image that does not fit is left behind, and the old file stays."""
    env.need_root("mounts a tmpfs")
    with small_tmpfs(tmp_path / "small", "4M") as folder:
        (folder / "old.qcow2").write_bytes(b"precious")
        for mode, options in itertools.product(("falloc", "full"),
                                               ([], ["--data-file=d"], ["--format=raw"])):
            message = "cannot write the new image: No space left on device"
            prefix = 'data file "d": ' if "--data-file=d" in options else ""
            refused(folder / "new.qcow2", f"new.qcow2: {prefix}{message}", "8M", *options,
                    preallocation=mode)
            refused(folder / "old.qcow2", f"old.qcow2: {prefix}{message}", "8M", *options, "--force",
                    preallocation=mode)
        assert (folder / "old.qcow2").read_bytes() == b"precious"
        assert os.listdir(folder) == ["old.qcow2"]


def test_outcome(tmp_path):
    """One line reports the new image, unless suppressed."""
    result = run(env.qimg(), "create", "new.qcow2", "1.5G", cwd=tmp_path)
    assert result.text == "new.qcow2: made, 1.5 GiB (1610612736 bytes)\n" and result.errors == ""
    result = run(env.qimg(), "create", "-q", "quiet.qcow2", "1.5G", cwd=tmp_path)
    assert result.text == result.errors == ""
