#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-symbols.py ROOT LIBRARY: the shared library exports exactly the functions declared in the
public header, and has no large constants; the structures of the header can grow."""

import re
import shutil
import subprocess
import sys

import sources

# base/zeros.h has the zeros; a table of this size is better computed.
MAX_CONSTANT_BYTES = 16384
DECLARATION = re.compile(r"^QIMG_API\b[^;]*?\b(qimg_\w+)\s*\(", re.MULTILINE)

STRUCT = re.compile(r"^typedef struct \w* ?\{\n(.*?)^\} (\w+);", re.MULTILINE | re.DOTALL)
# Its content belongs to the library, which has room in it.
FIXED_STRUCTS = {"QimgInfoPlace"}


def rigid_structs(header):
    """The structures that cannot get another field without breaking programs."""
    for body, name in STRUCT.findall(re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)):
        if name in FIXED_STRUCTS:
            continue
        if not body.lstrip().startswith("size_t struct_bytes;"):
            yield f"{name}: does not begin with struct_bytes"
        for field in re.findall(r"\w+\[\w+\]", body):
            yield f"{name}: {field}: an array's length is for ever (use a function)"


def large_constants(library):
    """Constants of the read-only data, which are in each program."""
    listing = subprocess.run(["nm", "--print-size", "--defined-only", library], check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2] in "rR" and int(fields[1], 16) > MAX_CONSTANT_BYTES:
            yield f"{fields[3]}: a constant of {int(fields[1], 16)} bytes"


def main():
    root, library = sys.argv[1:]
    if not shutil.which("nm"):
        print("nm is not installed")
        return 77
    with open(f"{root}/lib/qimg.h", encoding="utf-8") as header:
        text = header.read()
    declared, problems = set(DECLARATION.findall(text)), list(rigid_structs(text))
    listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                             stdout=subprocess.PIPE, text=True).stdout
    exported = set()
    for line in listing.splitlines():
        kind, symbol = line.split()[-2:]
        if kind == "A":  # the name of a version
            continue
        name, at, version = symbol.partition("@")
        exported.add(name)
        # Code that a sanitizer adds is not ours.
        if not at and not name.startswith(("__asan", "__ubsan", "__tsan", "__odr_asan")):
            problems.append(f"{name}: exported without a version")
    exported = {name for name in exported if not name.startswith("__")}
    problems += [f"{name}: declared, not exported" for name in sorted(declared - exported)]
    problems += [f"{name}: exported, not declared" for name in sorted(exported - declared)]
    problems += large_constants(library)
    if not declared:
        problems.append("no declaration was found")
    return sources.report(problems, f"{len(declared)} exported functions")


if __name__ == "__main__":
    sys.exit(main())
