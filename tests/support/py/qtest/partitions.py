# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks with partition tables, made by the host's tools, and these tools' reports."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

from . import env, loop, procs, qemu

MIB = 1 << 20

GPT = """label: gpt
label-id: 00112233-4455-6677-8899-AABBCCDDEEFF
1 : start=2048, size=16384, type=L, name="one", attrs="RequiredPartition GUID:60,63"
2 : start=18432, size=4096, type=U, name="größer € 😀"
7 : start=24576, size=8192, type=S
3 : start=32768, size=1
"""

LOGICAL = """label: dos
label-id: 0x12ab34cd
1 : start=2048, size=16384, type=83, bootable
3 : start=20480, size=40960, type=5
4 : start=65536, size=2048, type=c
5 : start=22528, size=4096, type=82
6 : start=28672, size=8192, type=7
7 : start=38912, size=4096, type=8e
"""


def make(path, script, size=40 * MIB, sector=512):
    """A raw disk with a table by sfdisk; sectors of another size need a loop device."""
    env.need_tools("sfdisk")
    if not Path(path).exists():
        # Some data in each partition, and a little of each kind.
        qemu.make_raw(path, size, *((at * MIB - 65536, 400_000, "words", 3)
                                    for at in range(1, size // MIB - 1, 4)))
    run(path, "sfdisk", "-q", "--wipe", "never", "--wipe-partitions", "never",
        stdin=script.encode(), sector=sector)
    return path


def run(path, *argv, stdin=None, sector=512):
    """A program on the disk, or on a loop device of it that has such sectors."""
    if sector == 512:
        return procs.run(*argv, path, stdin=stdin).text
    loop.need_loop_devices()
    with loop.attached(path, "-b", str(sector)) as device:
        out = procs.run(*argv, device, stdin=stdin).text
    return out.replace(str(device), str(path))


def told_by_sfdisk(path, sector=512):
    """The table according to sfdisk, with starts and sizes in bytes, the numbers as "number"."""
    table = json.loads(run(path, "sfdisk", "--json", sector=sector))["partitiontable"]
    for item in table["partitions"]:
        item["number"] = int(re.search(r"(\d+)$", item["node"]).group(1))
        item["start"] *= sector
        item["size"] *= sector
    return table


@contextlib.contextmanager
def fuse2fs(path, point, *options):
    """A file system on @path, by fuse2fs and so without a loop device."""
    env.need_tools("fuse2fs")
    point = Path(point)
    point.mkdir(exist_ok=True)
    process = subprocess.Popen([env.find_tool("fuse2fs"), "-f", "-o", ",".join(options), path, point],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        procs.wait_until(lambda: os.path.ismount(point) or process.poll() is not None, "fuse2fs")
        yield point
    finally:
        procs.run("fusermount3", "-u", point, check=False)
        try:
            process.wait(20)                # it writes its cached data
        finally:
            procs.end_process(process)
    assert process.returncode == 0


def is_extended(item):
    return item["type"] in ("5", "f", "85")


def files(directory):
    """The numbers of the partitions that are files."""
    names = os.listdir(directory)
    assert "info.json" in names
    return sorted(int(name[:-4]) for name in names if name != "info.json")


def info(directory):
    return json.loads((Path(directory) / "info.json").read_text())
