# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg compare: the lines and exit codes of qemu-img compare over pairs of images."""

import itertools
import re
import shutil

import pytest

from qtest import env, qemu
from qtest.procs import run

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(autouse=True)
def needs():
    env.need_tools("qemu-img", "qemu-io")


def compare(*argv):
    return run(env.qimg(), "compare", *argv, check=False)


def both(*argv):
    """The answers of qimg, which must be those of qemu-img. In strict mode QEMU reports the start
    of an extent that reaches the disk's end if the other image's does not, so its offset counts
    not."""
    ours, theirs = compare(*argv), qemu.img("compare", *argv, check=False)
    texts = [re.sub(r"Offset \d+", "Offset N", one.text) for one in (ours, theirs)]
    assert ours.status == theirs.status and texts[0] == texts[1], f"{argv} {ours} {theirs}"
    return ours


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    one = qemu.create(folder / "one.qcow2", SIZE, cluster_size=4096)
    qemu.write(one, (65536, 300_000, "words", 1), (2 * MIB, 70_000, "words", 2))
    images = {"one": one}
    for name, options in {"raw": ("-O", "raw"), "qed": ("-O", "qed"), "qcow": ("-O", "qcow"),
                          "zlib": ("-c", "-O", "qcow2")}.items():
        images[name] = folder / f"{name}.img"
        qemu.img("convert", *options, one, images[name])
    for name, offset in {"late": SIZE - 100, "hole": 8192, "inside": 2 * MIB + 5001}.items():
        images[name] = folder / f"{name}.qcow2"
        shutil.copy(one, images[name])
        qemu.io(images[name], f"write -P 0x77 {offset} 1")
    for name, size in {"longer": SIZE + 512, "shorter": 3 * MIB}.items():
        images[name] = folder / f"{name}.qcow2"
        shutil.copy(one, images[name])
        qemu.img("resize", "-q", "--shrink", images[name], str(size))
    images["zeros"] = folder / "zeros.qcow2"
    shutil.copy(one, images["zeros"])
    qemu.io(images["zeros"], "write -z 3M 64k", "write -P 0 3200k 64k")
    images["over"] = qemu.create(folder / "over.qcow2", SIZE, one, "qcow2")
    images["longer-data"] = folder / "longer-data.qcow2"
    shutil.copy(images["longer"], images["longer-data"])
    qemu.io(images["longer-data"], f"write -P 1 {SIZE} 512")
    images["empty"] = qemu.create(folder / "empty.qcow2", 0)
    return images


def test_pairs(zoo):
    seen = set()
    # Each with the first image, in both places, and some with each other.
    pairs = [("one", name) for name in zoo] + [(name, "one") for name in zoo]
    pairs += [("longer", name) for name in ("late", "shorter", "zlib", "longer-data", "empty")]
    for a, b in pairs:
        answer = both(zoo[a], zoo[b])
        seen.add((answer.status, answer.text.partition("\n")[0].partition(" at ")[0]))
    assert seen == {(0, "Images are identical."), (0, "Warning: Image size mismatch!"),
                    (1, "Content mismatch"), (1, "Warning: Image size mismatch!")}


def test_strict(zoo):
    for a, b in itertools.combinations(("one", "zlib", "late", "hole", "longer", "zeros"), 2):
        both("-s", zoo[a], zoo[b])
    for name in ("one", "raw", "zlib", "zeros"):
        both("-s", zoo[name], zoo[name])


def test_options(zoo):
    one, raw = zoo["one"], zoo["raw"]
    both("-f", "qcow2", "-F", "raw", one, raw)
    both("-q", one, zoo["late"])
    both("-q", one, raw)
    # As raw files they differ in the first byte.
    both("-f", "raw", "-F", "raw", one, raw)
    assert compare("-U", "-p", one, raw).text == "Images are identical.\n"


def test_no_hole_is_read(zoo, tmp_path):
    """Two disks of 32 PiB, with a megabyte each."""
    pair = []
    for name in "ab":
        pair.append(qemu.create(tmp_path / f"{name}.qcow2", 1 << 55, cluster_size=2 * MIB))
        qemu.write(pair[-1], (1 << 54, 65536, "words", 3))
    assert compare(*pair).text == "Images are identical.\n"
    qemu.io(pair[1], f"write -P 1 {(1 << 55) - 512} 512")
    assert compare(*pair).text == f"Content mismatch at offset {(1 << 55) - 512}!\n"


def test_failures(zoo, tmp_path):
    """2: an image cannot be opened, or a wrong command line; 4: a cluster cannot be read. A
    difference before it counts first."""
    one = zoo["one"]
    both_missing = compare(one, tmp_path / "missing")
    assert both_missing.status == 2 and "missing" in both_missing.errors
    assert compare(one).status == 2
    assert compare("-f", "nonsense", one, one).status == 2
    broken = tmp_path / "broken.qcow2"
    shutil.copy(zoo["zlib"], broken)
    data = bytearray(broken.read_bytes())
    data[-40_000:-36_000] = b"\xff" * 4000
    broken.write_bytes(data)
    answer = compare(one, broken)
    assert answer.status == 4 and str(broken) in answer.errors and "offset" in answer.errors
