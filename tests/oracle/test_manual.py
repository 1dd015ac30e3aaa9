# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of the manual pages do what they show. In the section EXAMPLES

    .\\" files: NAME...       (or none)
    .Bd -literal ...
    $ COMMAND
    OUTPUT
    .Ed

each block runs in a directory of its own with these files of the table FILES. A command
must exit with status 0; the lines up to the next one are what it prints, "..." being any
text in a line, or any lines; a command without such lines may print anything. A backslash
at the end continues a command."""

import os
import re
from pathlib import Path

import pytest

from qtest import env, qemu
from qtest.procs import run
from qtest.qcow2 import Qcow2File

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["qimg.1"]
BLOCK = re.compile(r'^\.\\" files: (.*)\n\.Bd -literal.*\n((?:.*\n)*?)\.Ed$', re.MULTILINE)
MIB = 1 << 20


def _disk(path):
    qemu.create(path, 4 * MIB)
    qemu.write(path, (0, MIB, "noise", 1))


def _leaky(path):
    """One refcount more than is referred to."""
    _disk(path)
    with Qcow2File(path) as file:
        place = file.append_cluster()
        block = int.from_bytes(file.read(file.get("refcount_table_offset"), 8), "big")
        file.write(block + place // file.cluster_size * 2, b"\0\1")


# What the examples begin with: each name, and what makes that file.
FILES = {
    "disk.qcow2": _disk,
    "leaky.qcow2": _leaky,
}


class Block:
    def __init__(self, page, number, files, text):
        self.name = f"{page}-{number}"
        self.files = [] if files == "none" else files.split()
        # mdoc's escapes, and a command that goes on in the next line.
        text = text.replace("\\&", "").replace("\\e", "\\").replace("\\-", "-").replace("\\\n", " ")
        self.steps = []
        for line in text.splitlines():
            if line.startswith("$ "):
                self.steps.append((line[2:], []))
            else:
                assert self.steps, f"{self.name}: begins without a command: {line}"
                self.steps[-1][1].append(line)


def blocks():
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        section = text.partition("\n.Sh EXAMPLES\n")[2].partition("\n.Sh ")[0]
        found = [Block(page, number, *match.groups())
                 for number, match in enumerate(BLOCK.finditer(section), 1)]
        assert found and len(found) == section.count("\n.Bd "), f"{page}: an example is not marked"
        yield from found


def pattern_of(lines):
    """What matches an output like these lines."""
    parts = ["(?:.*\n)*" if line == "..." else
             ".*".join(re.escape(part) for part in line.split("...")) + "\n" for line in lines]
    return "".join(parts)


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_example(block, tmp_path):
    programs, place = tmp_path / "bin", tmp_path / "place"
    programs.mkdir()
    place.mkdir()
    os.symlink(env.qimg(), programs / "qimg")
    for name in block.files:
        FILES[name](place / name)
    for command, expected in block.steps:
        result = run("sh", "-c", command, cwd=place,
                     env_add={"PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"})
        printed = result.text + result.errors
        assert not expected or re.fullmatch(pattern_of(expected), printed), \
            f"{command}\nprints\n{printed}\nand not\n" + "\n".join(expected)
