#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-headers.py ROOT: a header declares what its own .c file defines, so that an include
says what a file needs. NAME-private.h belongs to NAME.c."""

import collections
import re
import sys

import sources
from importlib import import_module

unit_of = import_module("check-includes").unit_of

# The public header, and headers that are lists: of requests, of subcommands.
LISTS = {"lib/qimg.h", "fuse/ops/ops.h", "tools/output.h"}
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
DEFINITION = re.compile(r"^(?!static\b|typedef\b)[A-Za-z][^;={}()#]*\n(\w+)\(", re.MULTILINE)
DECLARATION = re.compile(r"^(?!static\b|typedef\b|#)[A-Za-z][\w \*]*?\b(\w+)\(", re.MULTILINE)


def main():
    root = sys.argv[1]
    defined, declared, problems = {}, collections.defaultdict(list), []
    for path in sources.find(root, ["lib", "fuse", "tools"], [".c", ".h"]):
        with open(f"{root}/{path}", encoding="utf-8") as file:
            text = COMMENT.sub("", file.read())
        if path.endswith(".c"):
            # A program's main, or a part of it that another program has too.
            defined.update({name: path for name in DEFINITION.findall(text)})
        else:
            declared[path] = DECLARATION.findall(text)
    for path, names in sorted(declared.items()):
        others = {name: unit_of(defined[name]) for name in names
                  if name in defined and unit_of(defined[name]) != unit_of(path)}
        if path in LISTS or not others:
            continue
        problems += [f"{path}: declares {name} of {unit}.c (give that a header)"
                     for name, unit in sorted(others.items())]
    return sources.report(problems, f"{len(declared)} headers")


if __name__ == "__main__":
    sys.exit(main())
