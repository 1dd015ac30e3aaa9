# SPDX-License-Identifier: GPL-2.0-or-later
"""Partitions as files: their number, content and facts, against sfdisk, sgdisk, parted and blkid
on the same disk."""

import json
import os

import pytest

from qtest import env, loop, partitions, procs, qemu
from qtest.evidence import Unchanged
from qtest.mount import Mount

MIB = 1 << 20


def below(mount, image, *rest):
    name = os.path.basename(image).rsplit(".", 1)[0]
    return mount.mountpoint.joinpath(f"{name}.partitions", *rest)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def assert_like_sfdisk(directory, content, told, sector=512):
    """Names, bytes and facts equal sfdisk's for the disk with @content."""
    items = {item["number"]: item for item in told["partitions"]}
    shown = {n: i for n, i in items.items() if not partitions.is_extended(i)}
    facts = partitions.info(directory)
    assert partitions.files(directory) == sorted(shown)
    assert facts["sector-size"] == sector
    assert [p["number"] for p in facts["partitions"]] == sorted(items)
    for ours in facts["partitions"]:
        item = items[ours["number"]]
        end = item["start"] + item["size"]
        assert (ours["start"], ours["length"]) == (item["start"], item["size"])
        assert ours.get("file") == (f"{ours['number']}.raw" if ours["number"] in shown else None)
        if told["label"] == "gpt":
            assert ours["type"] == item["type"].lower()
            assert ours["uuid"] == item["uuid"].lower()
            assert ours.get("label", "") == item.get("name", "")
        else:
            assert int(ours["type"], 16) == int(item["type"], 16)
            assert ours["uuid"] == f"{told['id'][2:]}-{ours['number']:02x}"
            assert ("bootable" in ours["flags"]) == item.get("bootable", False)
        if ours["number"] in shown:
            with open(directory / ours["file"], "rb") as file:
                assert os.fstat(file.fileno()).st_size == item["size"]
                assert file.read() == content[item["start"]:end]
    assert facts["table"] == {"gpt": "gpt", "dos": "mbr"}[told["label"]]
    assert facts["disk-id"] == told["id"].lower().removeprefix("0x")
    return facts


@pytest.mark.parametrize("script", [partitions.GPT, partitions.LOGICAL], ids=["gpt", "dos"])
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=512"]],
                         ids=["plain", "compressed", "cs512"])
def test_as_sfdisk_says(script, options, images, mnt, tmp_path):
    raw = partitions.make(tmp_path / "raw", script)
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", *options, raw, image)
    with Unchanged(images), Mount(image, mnt) as mount:
        facts = assert_like_sfdisk(below(mount, image), raw.read_bytes(),
                                   partitions.told_by_sfdisk(raw))
        assert facts["notes"] == []
        if "gpt" in script:
            assert facts["partitions"][0]["flags"] == ["required", "read-only", "no-automount"]
            assert facts["partitions"][0]["type-name"] == "Linux file system"


@pytest.mark.parametrize("script", [
    "label: gpt\n2 : start=256, size=2048, name=two\n4 : start=4096, size=100\n",
    "label: dos\nlabel-id: 0x1\n1 : start=256, size=1024\n2 : start=2048, size=2048, type=5\n"
    "5 : start=2304, size=100\n6 : start=3072, size=256\n"], ids=["gpt", "dos"])
def test_large_sectors(script, images, mnt):
    raw = partitions.make(images / "disk.raw", script, sector=4096)
    content, told = raw.read_bytes(), partitions.told_by_sfdisk(raw, 4096)
    with Unchanged(images), Mount(raw, mnt) as mount:
        facts = assert_like_sfdisk(below(mount, raw), content, told, 4096)
        # A GPT stores its place; for the other kind it is a guess, and reported as one.
        assert len(facts["notes"]) == ("dos" in script)


def test_made_by_sgdisk(images, mnt):
    env.need_tools("sgdisk")
    raw = qemu.make_raw(images / "disk.raw", 16 * MIB, (MIB, 8 * MIB, "words", 1))
    procs.run("sgdisk", "-n", "1:2048:+2M", "-n", "5:0:+3M", "-t", "5:8e00", "-c", "5:volumes",
              "-A", "5:set:2", "-h", "1", raw)
    with Mount(raw, mnt) as mount:
        facts = assert_like_sfdisk(below(mount, raw), raw.read_bytes(),
                                   partitions.told_by_sfdisk(raw))
        assert facts["partitions"][1]["flags"] == ["legacy-bootable"]
        assert facts["partitions"][1]["type-name"] == "Linux LVM"
        assert len(facts["notes"]) == 1 and "hybrid" in facts["notes"][0]


@pytest.mark.parametrize("label", ["gpt", "msdos"])
def test_made_by_parted(label, images, mnt):
    env.need_tools("parted")
    raw = qemu.make_raw(images / "disk.raw", 32 * MIB, (MIB, 8 * MIB, "words", 1))
    extended = ["mkpart", "extended", "8MiB", "30MiB", "mkpart", "logical", "9MiB", "12MiB",
                "mkpart", "logical", "14MiB", "20MiB"] if label == "msdos" else []
    procs.run("parted", "-s", raw, "mklabel", label,
              "mkpart", "primary", "ext4", "1MiB", "4MiB", *extended)
    with Mount(raw, mnt) as mount:
        assert_like_sfdisk(below(mount, raw), raw.read_bytes(), partitions.told_by_sfdisk(raw))


def overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


@pytest.mark.parametrize("places, note", [
    ([512], "the GPT's header is missing: its copy is used"),
    ([1024], "the GPT's header has entries that do not have their checksum: its copy is used"),
    ([-512], "the copy of the GPT's header is missing"),
    ([-33 * 512], "the copy of the GPT's header has entries that do not have their checksum"),
], ids=["header", "entries", "copy", "entries-of-copy"])
def test_damaged_gpt(places, note, images, mnt):
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    told = partitions.told_by_sfdisk(raw)
    for place in places:
        overwrite(raw, place, bytes(512))
    with Mount(raw, mnt) as mount:
        facts = assert_like_sfdisk(below(mount, raw), raw.read_bytes(), told)
        assert facts["notes"] == [note]


def test_gpt_beyond_repair(images, mnt):
    """No partition is shown, only a note."""
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    overwrite(raw, 512 + 60, b"x")
    overwrite(raw, -512 + 60, b"x")
    with Mount(raw, mnt) as mount:
        assert partitions.files(below(mount, raw)) == []
        assert len(partitions.info(below(mount, raw))["notes"]) == 1


def test_cut_disk(images, mnt):
    """An interrupted copy: the present part of the partitions can be read."""
    raw = partitions.make(images / "disk.raw", partitions.LOGICAL)
    told = partitions.told_by_sfdisk(raw)
    os.truncate(raw, 30000 * 512)
    with Mount(raw, mnt) as mount:
        facts = partitions.info(below(mount, raw))
        assert partitions.files(below(mount, raw)) == [1, 5, 6]
        assert below(mount, raw, "6.raw").stat().st_size == (30000 - 28672) * 512
        assert below(mount, raw, "6.raw").read_bytes() == raw.read_bytes()[28672 * 512:]
        assert told["partitions"][4]["number"] == 6
        assert any("partition 6 ends beyond" in note for note in facts["notes"])
        assert any("cannot be read" in note for note in facts["notes"])


@pytest.mark.parametrize("make", [
    ["mkfs.ext4", "-q"], ["mkfs.vfat"], ["mkfs.vfat", "-F", "32"], ["mkswap"], None],
    ids=["ext4", "fat", "fat32", "swap", "nothing"])
def test_no_table(make, images, mnt):
    raw = qemu.make_raw(images / "disk.raw", 40 * MIB)
    if make:
        env.need_tools(make[0])
        procs.run(*make, raw)
    with Mount(raw, mnt) as mount:
        assert not below(mount, raw).exists()
        assert sorted(os.listdir(mnt)) == [".qcowfs", "disk.raw", "disk.snapshots"]


def test_not_shown(images, mnt):
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    with Mount(raw, mnt, "-o", "nopartitions") as mount:
        assert not below(mount, raw).exists()
        assert sorted(os.listdir(mnt)) == [".qcowfs", "disk.raw", "disk.snapshots"]
        assert os.listdir(mnt / ".qcowfs" / "disk" / "layers") == ["0.raw"]
        assert reads_of(mount) == 0


def reads_of(mount):
    return json.loads((mount.mountpoint / ".qcowfs" / "stats.json").read_text())["disk"]["reads"]


def test_read_when_asked_for(images, mnt):
    """The first look reads the table, once; the mount does not."""
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    with Mount(raw, mnt) as mount:
        os.stat(mnt / "disk.raw")
        assert reads_of(mount) == 0
        os.listdir(mnt)
        n_reads = reads_of(mount)
        assert n_reads > 0
        os.listdir(below(mount, raw))
        os.stat(below(mount, raw, "7.raw"))
        assert reads_of(mount) == n_reads


def test_names_are_exact(images, mnt):
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    with Mount(raw, mnt) as mount:
        directory = below(mount, raw)
        for name in ("0.raw", "4.raw", "01.raw", "1", "1.raw.", "+1.raw", " 1.raw", "-1.raw",
                     "4294967297.raw", "info", "1.RAW", "256.raw"):
            assert not (directory / name).exists(), name
        with pytest.raises(OSError):
            (directory / "8.raw").write_bytes(b"")
        with pytest.raises(OSError):
            os.open(directory / "1.raw", os.O_RDWR)


def test_file_mountpoint_has_none(images, tmp_path):
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    point = tmp_path / "point"
    point.touch()
    with Mount(raw, point):
        assert point.stat().st_size == 40 * MIB


FILE_SYSTEMS = {
    1: ["mkfs.ext4", "-q", "-L", "first one"],
    2: ["mkfs.vfat", "-n", "SECOND"],
    7: ["mkswap", "-L", "third"],
}


def blkid(path):
    out = procs.run("blkid", "-p", "-o", "export", path, check=False).text
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def test_content_as_blkid_says(images, mnt, tmp_path):
    env.need_tools("blkid", *(argv[0] for argv in FILE_SYSTEMS.values()))
    raw = partitions.make(tmp_path / "raw", partitions.GPT)
    for item in partitions.told_by_sfdisk(raw)["partitions"]:
        argv = FILE_SYSTEMS.get(item["number"])
        if argv:
            part = tmp_path / "part"
            part.write_bytes(bytes(item["size"]))
            procs.run(*argv, part)
            overwrite(raw, item["start"], part.read_bytes())
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", "-c", raw, image)
    with Mount(image, mnt) as mount:
        facts = partitions.info(below(mount, image))
        if not any("content" in item for item in facts["partitions"]):
            pytest.skip("built without libblkid")
        for item in facts["partitions"]:
            theirs = blkid(below(mount, image, item["file"]))
            ours = item.get("content", {})
            assert ("TYPE" in theirs) == (item["number"] in FILE_SYSTEMS)
            for key in ("usage", "type", "version", "uuid"):
                assert ours.get(key) == theirs.get(key.upper()), (item["number"], key)
            assert ours.get("label") == theirs.get("LABEL", "").replace("\\ ", " ") \
                or "LABEL" not in theirs


def with_ext4(tmp_path, rng):
    """A disk with an ext4 file system in partition 1, made without a mount."""
    env.need_tools("mke2fs")
    raw = partitions.make(tmp_path / "raw", partitions.GPT)
    source = tmp_path / "source"
    source.mkdir()
    contents = loop.fill(source, rng)
    procs.run("mke2fs", "-q", "-t", "ext4", "-d", source, "-E", f"offset={MIB}", raw, "8M")
    return raw, contents


def test_loop_mount(images, mnt, tmp_path, rng):
    loop.need_loop_devices()
    loop.need_filesystem("ext4", "mke2fs")
    raw, contents = with_ext4(tmp_path, rng)
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    with Unchanged(images), Mount(image, mnt) as mount:
        with loop.mounted(below(mount, image, "1.raw"), tmp_path / "p", "loop", "ro") as top:
            loop.assert_files(top, contents)
        with loop.attached(below(mount, image, "1.raw"), "-r") as device:
            assert int(procs.run("blockdev", "--getsize64", device).text) == 8 * MIB


def test_fuse2fs(images, mnt, tmp_path, rng):
    raw, contents = with_ext4(tmp_path, rng)
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    with Unchanged(images), Mount(image, mnt) as mount:
        with partitions.fuse2fs(below(mount, image, "1.raw"), tmp_path / "p", "ro") as top:
            loop.assert_files(top, contents)


def test_snapshots_have_their_own(images, mnt, tmp_path):
    raw = partitions.make(tmp_path / "raw", partitions.GPT)
    image = images / "disk.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    qemu.img("snapshot", "-c", "before", image)
    later = partitions.make(tmp_path / "later", partitions.LOGICAL)
    qemu.io(image, f"write -s {later} 0 1M")
    qemu.img("snapshot", "-c", "after", image)
    qemu.io(image, "write -z 0 1M")
    with Unchanged(images), Mount(image, mnt) as mount:
        snapshots = mnt / "disk.snapshots"
        assert not below(mount, image).exists()
        assert_like_sfdisk(snapshots / "before" / "disk.partitions", raw.read_bytes(),
                           partitions.told_by_sfdisk(raw))
        now = bytearray(raw.read_bytes())
        now[:MIB] = later.read_bytes()[:MIB]
        directory = snapshots / "after" / "disk.partitions"
        assert partitions.files(directory) == [1, 4]     # the chain's links are not there
        assert (directory / "4.raw").read_bytes() == bytes(now[65536 * 512:][:2048 * 512])
        os.stat(snapshots / "after" / "disk.partitions" / "1.raw")


def test_layers_have_their_own(images, mnt, tmp_path):
    raw = partitions.make(images / "base.raw", partitions.GPT)
    top = qemu.create(images / "top.qcow2", 40 * MIB, "base.raw", "raw")
    later = partitions.make(tmp_path / "later", partitions.LOGICAL)
    qemu.img("convert", "-f", "raw", "-O", "qcow2", "-n", later, top)
    base, told = raw.read_bytes(), partitions.told_by_sfdisk(raw)
    with Unchanged(images), Mount(top, mnt):
        layers = mnt / ".qcowfs" / "top" / "layers"
        assert sorted(os.listdir(layers)) == ["0.partitions", "0.raw", "1.partitions", "1.raw"]
        assert_like_sfdisk(layers / "1.partitions", base, told)
        assert_like_sfdisk(layers / "0.partitions", later.read_bytes(),
                           partitions.told_by_sfdisk(later))
        assert not (layers / "2.partitions").exists() and not (layers / "00.raw").exists()


def test_sparse_partition(images, mnt):
    """Holes and data are those of the disk."""
    raw = images / "disk.raw"
    with open(raw, "wb") as file:
        file.truncate(64 * MIB)
        file.seek(24 * MIB)
        file.write(b"x" * MIB)
    partitions.make(raw, "label: dos\n1 : start=16384, size=81920\n")
    image = images / "sparse.qcow2"
    qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    with Mount(image, mnt) as mount, open(below(mount, image, "1.raw"), "rb") as file:
        fd = file.fileno()
        assert os.lseek(fd, 0, os.SEEK_DATA) == 16 * MIB
        assert os.lseek(fd, 16 * MIB, os.SEEK_HOLE) == 17 * MIB
        with pytest.raises(OSError):
            os.lseek(fd, 17 * MIB, os.SEEK_DATA)
        assert os.pread(fd, 10, 16 * MIB) == b"x" * 10


def test_directory_of_images(images, mnt, tmp_path):
    """By name they are found at once; a listing opens no image, and shows those of images that
    were opened before. They stay when an image is closed."""
    raw = partitions.make(images / "disk.raw", partitions.GPT)
    qemu.make_raw(images / "plain.img", MIB)
    with Mount(images, mnt, "-o", "idle=0") as mount:
        assert ".partitions" not in " ".join(os.listdir(mnt))
        assert not (mnt / "plain.partitions").exists()
        assert_like_sfdisk(below(mount, raw), raw.read_bytes(), partitions.told_by_sfdisk(raw))
        names = [name for name in os.listdir(mnt) if "partitions" in name]
        assert names == ["disk.partitions"]
        inode = below(mount, raw, "1.raw").stat().st_ino
        overwrite(raw, 0, bytes(512))           # by another program, while it is closed
        overwrite(raw, 512, bytes(512))
        procs.wait_until(lambda: not below(mount, raw).exists(), "a table that has gone")
        partitions.make(raw, partitions.LOGICAL)
        procs.wait_until(below(mount, raw).exists, "a new table")
        assert partitions.files(below(mount, raw)) == [1, 4, 5, 6, 7]
        # The same bytes, but they may have changed in between.
        assert below(mount, raw, "1.raw").stat().st_ino != inode
        assert below(mount, raw, "1.raw").read_bytes() == raw.read_bytes()[MIB:9 * MIB]
