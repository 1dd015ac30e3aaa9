# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg rebase: the disk stays the same, as qemu-img sees it; -u changes the name alone; what must
not be done is refused without any change."""

import pytest

from qtest import env, procs, qemu

KIB = 1 << 10


def build(path, base_size="2500k", top_size="7001k", **options):
    """base <- mid <- top, and the content of base as flat.raw."""
    base = qemu.create(path / "base.qcow2", base_size)
    qemu.io(base, "write -P 1 0 2M")
    mid = qemu.create(path / "mid.qcow2", "4M", "base.qcow2")
    qemu.io(mid, "write -P 2 1M 300k", "write -z 0 128k", "write -P 4 3M 100k")
    top = qemu.create(path / "top.qcow2", top_size, "mid.qcow2", **options)
    qemu.io(top, "write -P 3 1536k 64k")
    qemu.img("convert", "-O", "raw", base, path / "flat.raw")
    qemu.img("convert", "-O", "raw", top, path / "want.raw")
    return top


def rebase(image, *argv, check=True):
    return procs.run(env.qimg(), "rebase", *argv, image.name, cwd=image.parent, check=check)


def assert_same(image):
    qemu.img("compare", "-F", "raw", image, image.parent / "want.raw")
    qemu.img("check", image)


@pytest.mark.parametrize("options", [
    {}, {"compat": "0.10"}, {"extended_l2": "on"}, {"cluster_size": "2M"},
], ids=str)
@pytest.mark.parametrize("backing", ["base.qcow2", "flat.raw", ""])
def test_disk_stays(backing, options, tmp_path):
    base_size, top_size = [("2500k", "7001k"), ("6M", "4M")][env.rng("sizes").randrange(2)]
    image = build(tmp_path, base_size, top_size, **options)
    kind = backing.rpartition(".")[2]
    assert rebase(image, "-p", "-b", backing, *(["-F", kind] if kind else [])).text == ""
    info = qemu.info_json(image)
    assert info.get("backing-filename", "") == backing
    assert info.get("backing-filename-format", "") == kind
    assert_same(image)


def test_reads_and_stores_little(tmp_path):
    """The range that both files share is stored in neither."""
    image = build(tmp_path)
    rebase(image, "-b", "base.qcow2", "-F", "qcow2")
    held = sum(e["length"] for e in qemu.map_json(image) if e["depth"] == 0 and e["present"])
    # mid's own three ranges, and top's one.
    assert held <= (128 + 320 + 128 + 64 + 64) * KIB


def test_header_only(tmp_path):
    image = build(tmp_path)
    rebase(image, "-u", "-b", "missing.raw", "-F", "raw")
    assert qemu.info_json(image)["backing-filename"] == "missing.raw"
    rebase(image, "-u", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2")
    assert_same(image)


@pytest.mark.parametrize("argv, answer", [
    (["-b", "base.qcow2"], "format of the new backing file must be given"),
    (["-b", "missing", "-F", "raw"], "missing"),
    (["-b", "top.qcow2", "-F", "qcow2"], "in use"),
    (["-b", "flat.raw", "-F", "nonsense"], "no known format"),
    ([], "give -b FILE"),
])
def test_refused(argv, answer, tmp_path):
    image = build(tmp_path)
    before = image.read_bytes()
    result = rebase(image, *argv, check=False)
    assert result.status == 1 and answer in result.errors
    assert image.read_bytes() == before


def test_snapshots(tmp_path):
    """A snapshot that would change is not; one that would not does no harm."""
    image = build(tmp_path)
    qemu.img("snapshot", "-c", "one", image)
    result = rebase(image, "-b", "base.qcow2", "-F", "qcow2", check=False)
    assert result.status == 1 and "internal snapshots" in result.errors
    assert_same(image)
    qemu.img("convert", "-O", "raw", tmp_path / "mid.qcow2", tmp_path / "same.raw")
    rebase(image, "-b", "same.raw", "-F", "raw")
    assert_same(image)


def test_in_use(tmp_path):
    image = build(tmp_path)
    with qemu.held(image):
        assert "in use" in rebase(image, "-b", "", check=False).errors
