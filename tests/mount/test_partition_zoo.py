# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of all kinds, made by their tools, against partx, sfdisk and mmls on the same disk. Kinds
that are not read are named."""

import json
import re
import struct

import pytest

from qtest import env, partitions, procs
from qtest.mount import Mount

MIB = 1 << 20
SIZE = 40 * MIB

# name → sfdisk's script
SFDISK = {
    "dos": partitions.LOGICAL,
    "gpt": partitions.GPT,
    "sun": "label: sun\n1: start=16065,size=16065\n2: start=32130,size=16065\n",
    "sgi": "label: sgi\n1: start=16065,size=16065\n2: start=32130,size=16065\n",
}
NESTED = ("label: dos\n1: start=2048,size=40960,type=a5\n2: start=45056,size=4096,type=83\n"
          "3: start=51200,size=20480,type=5\n5: start=53248,size=2048,type=83\n")
# name → the words of a partition for parted
PARTED = {"bsd": ["ext2"], "mac": ["one", "ext2"]}
# name → (offset, signature): tables that nothing here reads
NAMED = {"dasd": (2 * 4096, "VOL1".encode("cp500")), "amiga": (0, b"RDSK")}


def by_sfdisk(path, script):
    partitions.make(path, script, SIZE)


def by_parted(path, label, words):
    """parted asks udev, which may not be there; it fails only if it says so itself."""
    with open(path, "wb") as file:
        file.truncate(SIZE)
    procs.run("parted", "-s", path, "mklabel", label)
    for start, end in (("2MiB", "10MiB"), ("12MiB", "20MiB")):
        procs.run("parted", "-s", path, "mkpart", *words, start, end)


def nested(path):
    """A BSD disklabel in a slice, where FreeBSD has it, beside a logical partition."""
    by_parted(path, "bsd", PARTED["bsd"])
    label = path.read_bytes()[64:512]
    path.unlink()
    partitions.make(path, NESTED, SIZE)
    with open(path, "r+b") as file:
        file.seek((2048 + 1) * 512)
        file.write(label)


def _atari_sector(entries):
    sector = bytearray(512)
    for i, (kind, start, n_sectors) in enumerate(entries):
        struct.pack_into(">B3sII", sector, 0x1c6 + 12 * i, 1, kind, start, n_sectors)
    return sector


def atari(path):
    """Two primary entries, and between them a chain of two logical ones."""
    first = 16384
    root = _atari_sector([(b"GEM", 2048, 8192), (b"XGM", first, 32768), (b"LNX", 60000, 4096)])
    struct.pack_into(">I", root, 0x1c2, SIZE // 512)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        file.write(root)
        file.seek(first * 512)
        file.write(_atari_sector([(b"BGM", 1, 8000), (b"XGM", 10000, 9000)]))
        file.seek((first + 10000) * 512)
        file.write(_atari_sector([(b"RAW", 1, 8000)]))


def ultrix(path):
    """Eight entries of length and start in the last bytes of the super block."""
    with open(path, "wb") as file:
        file.truncate(SIZE)
        file.seek(16384 - 72)
        file.write(struct.pack("<6I", 0x032957, 1, 8192, 2048, 8192, 16384))


def by_partx(path):
    """(number, start, length) of each partition."""
    lines = procs.run("partx", "-g", "-o", "NR,START,SECTORS", path).text.splitlines()
    return sorted(tuple(map(int, line.split())) for line in lines)


def by_mmls(path, *options):
    """(start, length) of each slot with a number."""
    text = procs.run("mmls", *options, path).text
    return {(int(start), int(length)) for start, length in re.findall(
        r"^\d{3}:\s+(?:\d{3}:)?\d{3}\s+(\d+)\s+\d+\s+(\d+)\s", text, re.M)}


BY_HAND = (nested, atari, ultrix)


@pytest.fixture
def zoo(tmp_path):
    env.need_tools("sfdisk", "parted", "partx", "mmls")
    folder = tmp_path / "zoo"
    folder.mkdir()
    for name, script in SFDISK.items():
        by_sfdisk(folder / f"{name}.raw", script)
    for name, words in PARTED.items():
        by_parted(folder / f"{name}.raw", name, words)
    for make in BY_HAND:
        make(folder / f"{make.__name__}.raw")
    for name, (offset, signature) in NAMED.items():
        with open(folder / f"{name}.raw", "wb") as file:
            file.truncate(SIZE)
            file.seek(offset)
            file.write(signature)
    return folder


def test_zoo(zoo, mnt):
    names = [*SFDISK, *PARTED, *(make.__name__ for make in BY_HAND)]
    with Mount(zoo, mnt):
        facts = {name: partitions.info(mnt / f"{name}.partitions") for name in [*names, *NAMED]}
        contents = {name: {int(file.stem): (mnt / f"{name}.partitions" / file.name).read_bytes()
                           for file in (mnt / f"{name}.partitions").glob("*.raw")}
                    for name in names}
    for name in names:
        path = zoo / f"{name}.raw"
        disk = path.read_bytes()
        items = facts[name]["partitions"]
        ours = [(p["number"], p["start"] // 512, p["length"] // 512) for p in items]
        assert ours == by_partx(path), name
        if name in SFDISK:
            told = json.loads(procs.run("sfdisk", "--json", path).text)["partitiontable"]
            told = [(int(re.search(r"(\d+)$", p["node"])[1]), p["start"], p["size"])
                    for p in told["partitions"]]
            assert ours == sorted(told), name
        if name in ("dos", "gpt", "sun", "mac", "nested"):
            slots = by_mmls(path)
            if name == "nested":
                slots |= {(2048 + start, n) for start, n in by_mmls(path, "-o", "2048")}
            wanted = {(p["start"] // 512, p["length"] // 512) for p in items if "file" in p}
            assert wanted <= slots, (name, wanted - slots)
        for item in items:
            if "file" in item:
                assert contents[name][item["number"]] == \
                    disk[item["start"]:item["start"] + item["length"]]
        assert facts[name]["notes"] == [] or name in ("dos", "gpt"), facts[name]["notes"]
    kinds = {name: facts[name]["table"] for name in facts}
    assert kinds == {"dos": "mbr", "gpt": "gpt", "sun": "sun", "sgi": "sgi", "bsd": "bsd",
                     "mac": "mac", "nested": "mbr", "atari": "atari", "ultrix": "ultrix",
                     "dasd": "dasd", "amiga": "amiga"}
    for name in NAMED:
        assert facts[name]["partitions"] == []
        assert facts[name]["notes"] == [f"the disk has a table of kind {name}, whose partitions are "
                                        "not shown"]
