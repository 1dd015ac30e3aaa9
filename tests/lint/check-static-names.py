#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-static-names.py ROOT: each function has a unique name, even a static or inline one, so that
a backtrace, a profile and grep '^name' identify it."""

import collections
import os
import re
import sys

import sources

# Files of their own programs: no backtrace has both.
PROGRAMS = ("lib/", "fuse/"), ("lib/", "tools/")
DEFINITION = re.compile(r"^(?!typedef\b)[A-Za-z][^;={}()#]*\n(\w+)\(", re.MULTILINE)
INLINE = re.compile(r"^static inline\b[^;={}()#]*\n(\w+)\(", re.MULTILINE)


def main():
    root = sys.argv[1]
    places = collections.defaultdict(list)
    for path in sources.find(root, ["lib", "fuse", "tools"], [".c", ".h"]):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            pattern = DEFINITION if path.endswith(".c") else INLINE
            for name in set(pattern.findall(file.read())) - {"main"}:
                places[name].append(path)
    problems = []
    for name, paths in sorted(places.items()):
        for folders in PROGRAMS:
            of_program = [path for path in paths if path.startswith(folders)]
            if len(of_program) > 1:
                problems.append(f"{name}: is a function of {', '.join(of_program)}")
                break
    return sources.report(problems, f"the names of {sum(map(len, places.values()))} "
                          "functions")


if __name__ == "__main__":
    sys.exit(main())
