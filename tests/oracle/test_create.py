# SPDX-License-Identifier: GPL-2.0-or-later
"""New qcow2 images of the library: each combination of cluster size, width of refcounts,
version, extended L2 entries, compression type and virtual size is one that QEMU finds
nothing wrong with, describes as was asked for, reads as zeros and can write to."""

import itertools
import json
import os

import pytest

from qtest import env, qemu
from qtest.procs import run

CLUSTER_BITS = range(9, 22)
SIZES = (0, 512, 1 << 20, 1 << 40, 1 << 46)
MAX_L1_ENTRIES = 4 << 20


@pytest.fixture(scope="module")
def create_image():
    tool = env.test_tool("create-image")

    def create(path, check=True, **fields):
        return run(tool, path.name, *(f"{name}={value}" for name, value in fields.items()),
                   cwd=path.parent, check=check)

    return create


def max_size(cluster_bits, extended_l2):
    entries = 1 << (cluster_bits - (4 if extended_l2 else 3))
    return MAX_L1_ENTRIES * entries << cluster_bits


def check_sound(path, size, version, cluster_bits, refcount_order, extended_l2, zstd):
    """What qemu-img and we see in a new image."""
    qemu.img("check", "-q", path.name, cwd=path.parent)
    facts = qemu.info_json(path)
    data = facts["format-specific"]["data"]
    assert facts["virtual-size"] == size
    assert facts["cluster-size"] == 1 << cluster_bits
    assert not facts["dirty-flag"]
    assert data["compat"] == ("0.10" if version == 2 else "1.1")
    assert data["refcount-bits"] == 1 << refcount_order
    assert data["compression-type"] == ("zstd" if zstd else "zlib")
    if version == 3:
        assert data["extended-l2"] == bool(extended_l2)
        assert not data["lazy-refcounts"] and not data["corrupt"]
    ours = json.loads(run(env.qimg(), "info", "--output=json", path).stdout)
    for key in ("virtual-size", "cluster-size", "dirty-flag", "format"):
        assert ours[key] == facts[key]
    assert ours["warnings"] == []
    extents = json.loads(run(env.qimg(), "map", "--output=json", path).stdout)
    assert [(e["start"], e["length"], e["zero"], e["data"]) for e in extents] == (
        [(0, size, True, False)] if size else [])


def shapes():
    """(version, refcount_order, extended_l2, zstd) that the format allows together."""
    yield 2, 4, 0, 0
    yield from itertools.product((3,), range(7), (0, 1), (0, 1))


@pytest.mark.limit(300)
@pytest.mark.parametrize("cluster_bits", CLUSTER_BITS)
def test_combinations(create_image, tmp_path, cluster_bits):
    for (version, order, extended, zstd), size in itertools.product(shapes(), SIZES):
        if size == SIZES[-1] and (order != 4 or zstd):
            continue  # a large L1 table takes qemu-img long, and hangs on neither
        path = tmp_path / "new.qcow2"
        fields = {"size": size, "version": version, "cluster_bits": cluster_bits,
                  "refcount_order": order, "extended_l2": extended, "zstd": zstd}
        if extended and cluster_bits < 14:
            result = create_image(path, check=False, **fields)
            assert result.status == 1
            assert result.errors == (f"create-image: cluster_bits: is {cluster_bits} and must be "
                                     "at least 14 with extended L2 entries\n")
        elif size > (limit := max_size(cluster_bits, extended)):
            result = create_image(path, check=False, **fields)
            assert result.status == 1
            assert result.errors == (
                f"create-image: size: is {size}, and with clusters of {1 << cluster_bits} bytes an "
                f"image maps at most {limit} bytes (use larger clusters)\n")
        else:
            create_image(path, **fields)
            check_sound(path, size, version, cluster_bits, order, extended, zstd)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("order", range(7))
def test_largest_l1_table(create_image, tmp_path, order):
    """One sector below, and at, the limit, with the most refcount blocks that it can take."""
    path = tmp_path / "new.qcow2"
    limit = max_size(9, 0)
    for size in (limit - 512, limit):
        create_image(path, size=size, cluster_bits=9, refcount_order=order)
        qemu.img("check", "-q", path.name, cwd=tmp_path)
        # The blocks describe all there is: what QEMU allocates next lies elsewhere.
        qemu.io(path, f"write -P 7 {size - 4096} 4096", "write -P 9 0 1000")
        qemu.io(path, f"read -P 7 {size - 4096} 4096", "read -P 9 0 1000")
        qemu.img("check", "-q", path.name, cwd=tmp_path)
    refused = create_image(path, check=False, size=limit + 512, cluster_bits=9)
    assert refused.status == 1 and refused.errors.startswith("create-image: size: is ")


@pytest.mark.parametrize("cluster_bits", (9, 12, 14, 16, 21))
@pytest.mark.parametrize("order", (0, 3, 4, 6))
def test_qemu_goes_on(create_image, tmp_path, cluster_bits, order):
    path = tmp_path / "new.qcow2"
    create_image(path, size=8 << 20, cluster_bits=cluster_bits, refcount_order=order)
    qemu.write(path, (0, 100_000, "words", 1), (5_000_192, 3_000_000, "noise", 2))
    qemu.img("check", "-q", path.name, cwd=tmp_path)
    qemu.img("resize", "-q", path.name, "20M", cwd=tmp_path)
    qemu.img("check", "-q", path.name, cwd=tmp_path)


def test_same_as_qemu(create_image, tmp_path):
    """The layout is that of qemu-img create: but for the file's end, the bytes are, too."""
    ours, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    if not qemu.has_option("extended_l2"):
        pytest.skip("an older QEMU knows fewer features by name")
    create_image(ours, size=1 << 40)
    qemu.create(theirs, 1 << 40)
    expected = theirs.read_bytes()
    assert ours.read_bytes()[:len(expected)] == expected


def test_fields(create_image, tmp_path):
    """Names, lazy refcounts, data files."""
    qemu.make_raw(tmp_path / "base.img", 3 << 20, (0, 1 << 20, "words", 1))
    overlay = tmp_path / "overlay.qcow2"
    create_image(overlay, size=4 << 20, backing_name="base.img", backing_format="raw",
                 lazy_refcounts=1)
    facts = qemu.info_json(overlay)
    assert facts["backing-filename"] == "base.img"
    assert facts["backing-filename-format"] == "raw"
    assert facts["format-specific"]["data"]["lazy-refcounts"]
    qemu.img("check", "-q", overlay.name, cwd=tmp_path)
    raw = qemu.to_raw(overlay, tmp_path / "flat.img").read_bytes()
    assert raw == (tmp_path / "base.img").read_bytes() + bytes(1 << 20)

    for raw_flag in (0, 1):
        image = tmp_path / f"front{raw_flag}.qcow2"
        qemu.make_raw(tmp_path / f"data{raw_flag}.img", 4 << 20)
        create_image(image, size=4 << 20, data_file_name=f"data{raw_flag}.img",
                     data_file_raw=raw_flag)
        data = qemu.info_json(image)["format-specific"]["data"]
        assert data["data-file"] == f"data{raw_flag}.img"
        assert data["data-file-raw"] == bool(raw_flag)
        qemu.io(image, "write -P 5 65536 70000", "read -P 5 65536 70000")
        assert (tmp_path / f"data{raw_flag}.img").read_bytes()[65536:65537] == b"\5"
        qemu.img("check", "-q", image.name, cwd=tmp_path)


LONGEST = "n" * 1023
REFUSALS = [
    ({"version": 4}, "version: must be 2 or 3"),
    ({"version": 2, "refcount_order": 3},
     "version: must be 3 for a refcount_order other than 4 (16 bits)"),
    ({"version": 2, "zstd": 1}, "version: must be 3 for a compression_type other than deflate"),
    ({"version": 2, "extended_l2": 1}, "version: must be 3 for extended L2 entries"),
    ({"version": 2, "lazy_refcounts": 1}, "version: must be 3 for lazy refcounts"),
    ({"version": 2, "data_file_name": "d"}, "version: must be 3 for an external data file"),
    ({"cluster_bits": 8}, "cluster_bits: is 8 and must be 9 to 21"),
    ({"cluster_bits": 22}, "cluster_bits: is 22 and must be 9 to 21"),
    ({"refcount_order": 7}, "refcount_order: is 7 and must be at most 6"),
    ({"size": 513}, "size: is 513 and must be a multiple of 512"),
    ({"size": (1 << 64) - 512, "cluster_bits": 21},
     f"size: is {(1 << 64) - 512}, and with clusters of 2097152 bytes an image maps at most "
     f"{1 << 61} bytes (use larger clusters)"),
    ({"backing_name": ""}, "backing file name: has 0 bytes, and must have 1 to 1023"),
    ({"backing_name": LONGEST + "n"},
     "backing file name: has 1024 bytes, and must have 1 to 1023"),
    ({"backing_format": "raw"}, "backing format: needs a backing file name"),
    ({"backing_name": "b", "backing_format": "f" * 16},
     "backing format: has 16 bytes, and must have 1 to 15"),
    ({"data_file_name": ""}, "data file name: is empty"),
    ({"data_file_raw": 1}, "raw data file: needs a data file name"),
    ({"data_file_raw": 1, "data_file_name": "d", "backing_name": "b"},
     "raw data file: cannot be had with a backing file, whose data would not be in it"),
    ({"cluster_bits": 9, "backing_name": "n" * 393},
     "names of the backing file and data file: do not fit in the header's cluster of 512 bytes "
     "(use larger clusters or shorter names)"),
]


@pytest.mark.parametrize("fields,message", REFUSALS, ids=[m[:60] for _, m in REFUSALS])
def test_refusals(create_image, tmp_path, fields, message):
    result = create_image(tmp_path / "new.qcow2", check=False, **fields)
    assert result.status == 1
    assert result.errors == f"create-image: {message}\n"
    assert os.stat(tmp_path / "new.qcow2").st_size == 0


@pytest.mark.parametrize("cluster_bits,length", ((9, 392), (10, 904), (11, 1023), (21, 1023)))
def test_longest_names(create_image, tmp_path, cluster_bits, length):
    """A name that just fits: the table of feature names makes room for it."""
    name, path = "n" * length, tmp_path / "new.qcow2"
    create_image(path, size=0, cluster_bits=cluster_bits, backing_name=name)
    with open(path, "rb") as file:
        header = file.read(1 << cluster_bits)
    at = int.from_bytes(header[8:16], "big")
    assert header[at:at + length] == name.encode() and int.from_bytes(header[16:20], "big") == length
    run(env.qimg(), "info", path, check=False)


def test_old_content_is_lost(create_image, tmp_path):
    path = tmp_path / "new.qcow2"
    path.write_bytes(b"\xff" * 3_000_000)
    create_image(path, size=1 << 30)
    fresh = tmp_path / "fresh.qcow2"
    create_image(fresh, size=1 << 30)
    assert path.read_bytes() == fresh.read_bytes()
