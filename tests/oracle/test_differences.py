# SPDX-License-Identifier: GPL-2.0-or-later
"""Incremental copies by a bitmap, and the differences between two snapshots."""

import json
import os
import subprocess

import pytest

from qtest import bitmaps, env, pattern, qemu
from qtest.evidence import Unchanged
from qtest.procs import run
from qtest.qcow2 import Qcow2File

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB + 512
CHANGES = ["write -P 9 1M 5k", "write -P 9 4M 512", "write -z 2M 64k", "write -P 0 3M 64k",
           "discard 2560k 128k", "write -P 3 8k 512"]


def qimg(*argv, check=True):
    return run(env.qimg(), *argv, check=check)


def make(folder, cluster=65536, granularity="4k"):
    """A disk with an enabled bitmap "b", all clean, and a full copy of it."""
    qemu.make_raw(folder / "base.img", SIZE, (0, SIZE, "words", 3))
    image = qemu.create(folder / "disk.qcow2", SIZE, "base.img", "raw", cluster_size=cluster)
    qemu.img("bitmap", "--add", "-g", granularity, image, "b")
    out = folder / "out.raw"
    qimg("copy-out", image, out)
    return image, out


@pytest.mark.parametrize("cluster, granularity, options", [
    (512, "512", []), (65536, "4k", ["--sparse=no"]), (2 * MIB, "64k", [])])
def test_incremental(cluster, granularity, options, tmp_path):
    image, out = make(tmp_path, cluster, granularity)
    qemu.io(image, *CHANGES)
    with Unchanged(image):
        qimg("copy-out", "--bitmap=b", *options, image, out)
    pattern.assert_same(out.read_bytes(), qemu.to_raw(image, tmp_path / "all.raw").read_bytes(),
                        "the updated copy")
    assert sorted(os.listdir(tmp_path)) == ["all.raw", "base.img", "disk.qcow2", "out.raw"]


def test_only_dirty(tmp_path):
    """Nothing but the dirty parts is written, and those are listed."""
    image, out = make(tmp_path)
    qemu.io(image, *CHANGES)
    wanted = bitmaps.dirty(bitmaps.theirs(image, "b"))
    listed = json.loads(qimg("copy-out", "--bitmap=b", "--output=json", image).text)
    assert [(e["start"], e["start"] + e["length"]) for e in listed] == wanted
    out.write_bytes(b"\xaa" * SIZE)
    text = qimg("copy-out", "--bitmap=b", "--output=json", image, out).text
    assert json.loads(text) == listed
    disk = qemu.to_raw(image, tmp_path / "all.raw").read_bytes()
    model = bytearray(b"\xaa" * SIZE)
    for start, end in wanted:
        model[start:end] = disk[start:end]
    pattern.assert_same(out.read_bytes(), bytes(model), "the copy")


def in_use(image, out):
    with Qcow2File(image) as file:
        file.write(bitmaps.entries(image)["b"][0] + 12, (3).to_bytes(4, "big"))


def damaged(image, out):
    with Qcow2File(image) as file:
        file.write(bitmaps.entries(image)["b"][1], (1 << 40).to_bytes(8, "big"))


def of_chain(image, out):
    out.unlink()
    out.symlink_to("base.img")


def interrupted(image, out):
    (out.parent / "out.raw.qimg-resume").write_text("{}")


REFUSALS = {
    "missing": (lambda image, out: out.unlink(), "full copy"),
    "longer": (lambda image, out: os.truncate(out, SIZE + 1), "no earlier copy"),
    "shorter": (lambda image, out: os.truncate(out, SIZE - 1), "no earlier copy"),
    "fifo": (lambda image, out: (out.unlink(), os.mkfifo(out)), "neither a file"),
    "of-chain": (of_chain, "one of its chain"),
    "interrupted": (interrupted, "--resume"),
    "in-use": (in_use, "in use"),
    "damaged": (damaged, "beyond the end"),
    "no-bitmap": (lambda image, out: qemu.img("bitmap", "--remove", image, "b"), "no bitmap"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refused(kind, tmp_path):
    """One line, and nothing is changed."""
    change, text = REFUSALS[kind]
    image, out = make(tmp_path)
    qemu.io(image, *CHANGES)
    change(image, out)
    before = out.read_bytes() if out.is_file() else None
    failed = qimg("copy-out", "--bitmap=b", image, out, check=False)
    assert failed.status == 1 and text in failed.errors and failed.errors.count("\n") == 1, failed
    assert (out.read_bytes() if out.is_file() else None) == before


@pytest.mark.parametrize("argv", [["--snapshot=s"], ["--force"], ["--resume"], ["--hash=md5"],
                                  ["--rescue"], ["--verify"]])
def test_misuse(argv, tmp_path):
    failed = qimg("copy-out", "--bitmap=b", *argv, tmp_path / "x", tmp_path / "y", check=False)
    assert failed.status == 1 and "--bitmap" in failed.errors


def test_no_room(tmp_path):
    """The copy says so, and the same command completes it later."""
    image, out = make(tmp_path)
    qemu.io(image, "write -P 5 0 4M")
    with open(out, "r+b") as file:
        os.truncate(file.fileno(), 0)
        os.truncate(file.fileno(), SIZE)
    full = subprocess.run(["sh", "-c", f"ulimit -f 2048; exec '{env.qimg()}' copy-out --bitmap=b "
                           f"'{image}' '{out}'"], stderr=subprocess.PIPE, text=True, check=False)
    assert full.returncode == 1 and "cannot write at offset" in full.stderr
    qimg("copy-out", "--bitmap=b", image, out)
    assert out.read_bytes()[:4 * MIB] == b"\5" * 4 * MIB


# ---- snapshots ---------------------------------------------------------------------------------

def differing(image, *names):
    shown = json.loads(qimg("snapshot", "diff", "--output=json", image, *names).text)
    ranges = [(e["start"], e["start"] + e["length"]) for e in shown]
    text = qimg("snapshot", "diff", image, *names).text.splitlines()[1:]
    assert [(int(a, 0), int(a, 0) + int(b, 0)) for a, b in map(str.split, text)] == ranges
    assert all(a < b for a, b in ranges) and all(x[1] < y[0] for x, y in zip(ranges, ranges[1:]))
    return ranges


@pytest.mark.parametrize("options", [{"cluster_size": 512}, {}, {"extended_l2": "on"}])
def test_snapshots(options, tmp_path):
    """Each changed cluster is in the list, and no other one."""
    image = qemu.create(tmp_path / "disk.qcow2", SIZE, **options)
    qemu.io(image, "write -P 1 0 3M")
    qemu.img("snapshot", "-c", "one", image)
    qemu.io(image, "write -P 2 256k 64k", "discard 1M 128k", "write -P 2 3584k 64k")
    qemu.img("snapshot", "-c", "two", image)
    first = [(256 * KIB, 320 * KIB), (MIB, MIB + 128 * KIB), (3584 * KIB, 3648 * KIB)]
    qemu.io(image, "write -P 3 320k 64k")
    with Unchanged(image):
        assert differing(image, "one", "two") == differing(image, "two", "one") == first
        assert differing(image, "one", "one") == []
        assert differing(image, "two") == [(320 * KIB, 384 * KIB)]
        assert differing(image, "one") == [(256 * KIB, 384 * KIB), *first[1:]]
    qimg("resize", image, str(8 * MIB))
    assert differing(image, "two") == [(320 * KIB, 384 * KIB), (SIZE, 8 * MIB)]


def test_no_snapshot(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", SIZE)
    for argv in ([image, "x"], [image], [image, "x", "y", "z"]):
        failed = qimg("snapshot", "diff", *argv, check=False)
        assert failed.status == 1 and failed.errors.startswith("qimg")
