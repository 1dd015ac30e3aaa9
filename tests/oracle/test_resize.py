# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg resize: afterwards the disk equals a truncated raw file of the same content, has the same
size as by qemu-img resize, and qemu-img check finds nothing."""

import json
import os

import pytest

from qtest import env, evidence, qemu
from qtest.procs import run
from qtest.writing import small_tmpfs

MIB = 1 << 20
KIB = 1 << 10


def resize(path, size, *options, check=True):
    return run(env.qimg(), "resize", *options, path.name, str(size), cwd=path.parent, check=check)


def refused(path, message, size, *options):
    with evidence.Unchanged(path.parent):
        result = resize(path, size, *options, check=False)
    assert result.status == 1 and result.stdout == b"", str(result)
    assert result.errors == f"qimg: {message}\n"


def check(path):
    qemu.img("check", "-q", path.name, cwd=path.parent)


def truncated(content, size):
    return content[:size].ljust(size, b"\0")


SIZE = 3 * MIB + 512


def _raw(directory, backing=None, **_):
    return qemu.make_raw(directory / "disk.img", SIZE, (0, SIZE, "words", 1))


def _qcow2(directory, backing=None, write=((0, 700 * KIB), (2 * MIB, SIZE - 2 * MIB)), snapshot=False,
           **options):
    path = directory / "disk.qcow2"
    if backing:
        qemu.make_raw(directory / "base.img", backing, (0, backing, "words", 9))
    qemu.create(path, SIZE, *(("base.img", "raw") if backing else ()), **options)
    qemu.write(path, *((offset, length, "noise", 1) for offset, length in write))
    if snapshot:
        qemu.img("snapshot", "-c", "before", path.name, cwd=directory)
        qemu.write(path, (MIB, 100 * KIB, "noise", 2))
    return path


IMAGES = {
    "raw": (_raw, {}),
    "plain": (_qcow2, {}),
    "clusters-512": (_qcow2, {"cluster_size": 512}),
    "clusters-2M": (_qcow2, {"cluster_size": 2 * MIB}),
    "version-2": (_qcow2, {"compat": "0.10", "cluster_size": 4096}),
    "extended": (_qcow2, {"extended_l2": "on"}),
    "lazy": (_qcow2, {"lazy_refcounts": "on"}),
    "preallocated": (_qcow2, {"preallocation": "metadata", "write": ((0, MIB),)}),
    "longer-backing": (_qcow2, {"backing": 12 * MIB}),
    "shorter-backing": (_qcow2, {"backing": MIB}),
    "extended-backing": (_qcow2, {"backing": 12 * MIB, "extended_l2": "on"}),
    "snapshot": (_qcow2, {"snapshot": True}),
    "data-file": (_qcow2, {"data_file": "disk.data"}),
    "data-file-raw": (_qcow2, {"data_file": "disk.data", "data_file_raw": "on"}),
}
# These sizes in turn: across table borders, into clusters, and back.
STEPS = (SIZE, 3 * MIB + 4608, 40 * MIB, MIB + 512, 2 * MIB, 0, 5 * MIB)


@pytest.fixture(params=IMAGES)
def image(request, tmp_path):
    build, options = IMAGES[request.param]
    return build(tmp_path, **options)


def image_format(path):
    return "raw" if path.suffix == ".img" else "qcow2"


def content_of(path, **kwargs):
    out = qemu.to_raw(path, path.parent / "flat", image_format=image_format(path), **kwargs)
    content = out.read_bytes()
    out.unlink()
    return content


def test_steps(image):
    expected = content_of(image)
    snapshot = content_of(image, snapshot="before") if "snapshots" in qemu.info_json(image) else None
    for size in STEPS:
        resize(image, size, "--shrink", "-o", f"format={image_format(image)}")
        expected = truncated(expected, size)
        assert content_of(image) == expected, f"after the step to {size}"
    if image.suffix == ".qcow2":
        check(image)
    if snapshot is not None:
        # qemu-img shows snapshots in the disk's present size.
        assert truncated(content_of(image, snapshot="before"), SIZE) == snapshot
    if (image.parent / "disk.data").exists():
        assert os.stat(image.parent / "disk.data").st_size == STEPS[-1]


@pytest.mark.parametrize("first", ("qimg", "qemu-img"))
def test_in_turn_with_qemu(tmp_path, first):
    """Each of the two resizes an image resized by the other."""
    path = _qcow2(tmp_path)
    expected = content_of(path)
    for number, size in enumerate((20 * MIB, 2 * MIB, 600 * MIB)):
        if (number % 2 == 0) == (first == "qimg"):
            resize(path, size, "--shrink")
        else:
            qemu.img("resize", "-q", "--shrink", path.name, str(size), cwd=tmp_path)
        check(path)
        expected = truncated(expected, size)
    assert content_of(path) == expected


@pytest.mark.parametrize("size,expected", (("+1M", 5 * MIB), ("-1M", 3 * MIB), ("+0", 4 * MIB),
                                           ("-4M", 0), ("1.5M", 3 * MIB // 2), ("100", 512),
                                           ("4G", 4 << 30), ("5000KiB", 5000 * KIB)))
def test_sizes(tmp_path, size, expected):
    """Absolute and relative sizes, in whole sectors, as for qemu-img resize."""
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 4 * MIB)
    result = resize(path, size, "--shrink")
    facts = qemu.info_json(path)
    assert facts["virtual-size"] == expected
    assert result.text.startswith("disk.qcow2: ") and f"({expected} bytes), was 4.0" in result.text
    assert result.text.count("\n") == 1


# ---- refusals ----

def test_refusals(tmp_path):
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 4 * MIB)
    no_size = 'is no size (give a number of bytes, or one with K, M, G, T, P or E, like 1.5G, less than 16E)'
    smaller = ("disk.qcow2: that is smaller, and data behind the new end would be lost (give --shrink if that "
               "is meant)")
    out = "is outside the range of sizes (the disk has 4194304 bytes)"
    too_large = "disk.qcow2: the format cannot map a disk of that size with these clusters"
    for size, message in (("3M", smaller), ("-1", smaller), ("0", smaller),
                          ("-5M", f"disk.qcow2: -5M: {out}"), ("+15.9999999E", too_large),
                          ("+16383P", too_large), ("7E", too_large),
                          ("5X", f'disk.qcow2: "5X" {no_size}'), ("+", f'disk.qcow2: "" {no_size}'),
                          ("+-5", f'disk.qcow2: "-5" {no_size}'), ("", f'disk.qcow2: "" {no_size}')):
        refused(path, message, size)
    refused(path, "disk.qcow2: --preallocation: the disk does not grow (leave it out)", "1M", "--shrink",
            "--preallocation=full")
    for option in ("cow", "cow=new.qcow2", "inspect", "nogrowable"):
        refused(path, f"{option.partition('=')[0]}: no such option", "8M", "-o", option)
    refused(path, "preallocation=some: unknown (give one of off, metadata, falloc, full)", "8M",
            "--preallocation=some")


def test_version_2_with_snapshot(tmp_path):
    path = _qcow2(tmp_path, compat="0.10", snapshot=True)
    for size in ("8M", "1M"):
        refused(path, "disk.qcow2: not possible with this image: it is a device, of version 2 with "
                "snapshots, raw without metadata, or QED, which cannot shrink", size, "--shrink")


def test_in_use(tmp_path):
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 4 * MIB)
    with qemu.held(path), evidence.Unchanged(tmp_path):
        result = resize(path, "8M", check=False)
    assert result.status == 1
    assert result.errors.startswith("qimg: disk.qcow2: is in use: another process ")


# ---- preallocation ----------------------------------------------------------------------

@pytest.mark.parametrize("mode", ("metadata", "falloc", "full"))
@pytest.mark.parametrize("name", ("plain", "clusters-512", "extended", "longer-backing", "snapshot",
                                  "data-file"))
def test_preallocation(tmp_path, name, mode):
    """The added part is mapped, reads as zeros, and later writes allocate nothing."""
    build, options = IMAGES[name]
    path = build(tmp_path, **options)
    expected = content_of(path)
    resize(path, "9M", f"--preallocation={mode}")
    check(path)
    assert content_of(path) == truncated(expected, 9 * MIB)
    start = 4 * MIB
    added = [e for e in qemu.map_json(path) if e["start"] + e["length"] > start]
    assert all(e["depth"] == 0 and "offset" in e for e in added), added
    data = tmp_path / "disk.data" if name == "data-file" else path
    allocated = os.stat(data).st_blocks * 512
    if mode != "metadata":
        assert allocated >= 9 * MIB - SIZE
    before = json.loads(qemu.img("check", "--output=json", path.name, cwd=tmp_path).stdout)
    qemu.io(path, f"write -P 5 {start} 4M")
    after = json.loads(qemu.img("check", "--output=json", path.name, cwd=tmp_path).stdout)
    assert after["image-end-offset"] == before["image-end-offset"]


@pytest.mark.parametrize("mode", ("falloc", "full"))
def test_preallocation_of_raw(tmp_path, mode):
    path = qemu.make_raw(tmp_path / "disk.img", MIB)
    resize(path, "4M", f"--preallocation={mode}")
    assert path.read_bytes() == bytes(4 * MIB)
    assert os.stat(path).st_blocks * 512 >= 3 * MIB
    refused(path, "disk.img: not possible with this image: it is a device, of version 2 with "
            "snapshots, raw without metadata, or QED, which cannot shrink", "8M", "--preallocation=metadata")


@pytest.mark.parametrize("mode", ("falloc", "full"))
def test_no_space(tmp_path, mode):
    """The disk keeps its size, and the image is sound."""
    env.need_root("mounts a tmpfs")
    with small_tmpfs(tmp_path / "small", "6M") as folder:
        path = _qcow2(folder)
        result = resize(path, "40M", f"--preallocation={mode}", check=False)
        assert result.status == 1
        assert result.errors == "qimg: disk.qcow2: No space left on device\n"
        assert qemu.info_json(path)["virtual-size"] == SIZE
        check(path)
