#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-includes.py ROOT: which includes are allowed. Each folder of the library names the
folders that it may use; the front ends have the public header alone. A unit (NAME.c with
NAME.h) must not include itself by way of others, and a folder holds few enough units to be
read as a list."""

import collections
import os
import re
import sys

import sources

BRICKS = ("base", "qimg.h")
# What a front end shares with the library besides its public header: one order of locks.
SHARED_BRICKS = {"fuse": ("base/lock.h",)}
# Folder of a file -> folders, or single headers, that it may include besides its own.
ALLOWED = {
    "base": ("qimg.h",),
    "codec": BRICKS,
    "transform": BRICKS,
    "storage": BRICKS,
    # Tables are cached as they are read, so their cache knows what they are read from.
    "cache": BRICKS + ("storage",),
    "format": BRICKS + ("codec", "cache", "transform", "storage"),
    "image": BRICKS + ("format/driver.h", "storage"),
    # What lies on a disk, whatever format the image has: over the public functions.
    "partition": BRICKS,
}
# The folders of a format, each of which may include those before it; the files beside them
# may include all.
FLOORS = {
    "format/qcow2": ("layer", "refcount", "tables", "count", "write", "snapshot", "check"),
}
# Headers that the build makes.
GENERATED = {"sandbox-filter.h"}
MAX_UNITS = 15
# Folders that are still to be divided, and how many units they may have until then.
LARGE_FOLDERS = {"lib/image": 40, "fuse": 34}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def may_include(folder, header):
    """folder is relative to lib/: "codec", "format", "format/qcow2", ..."""
    target = os.path.dirname(header)
    if target == folder:
        return True
    if folder.startswith("format/") and target == "format":
        return True  # what all formats share; never another format
    for house, floors in FLOORS.items():
        if not target.startswith(house + "/"):
            continue
        if folder == house:
            return True
        if folder.startswith(house + "/"):
            return floors.index(os.path.basename(target)) < floors.index(os.path.basename(folder))
    return any(header == one or target == one for one in ALLOWED[folder.split("/")[0]])


def check_library(root, path, includes, problems):
    folder = os.path.dirname(os.path.relpath(path, "lib"))
    if folder == "":
        problems += [f"{path}: includes {header}" for header in includes]
        return
    if folder.split("/")[0] not in ALLOWED:
        problems.append(f"{path}: no rule for this folder (see {__file__})")
        return
    for header in includes:
        if not os.path.exists(os.path.join(root, "lib", header)):
            problems.append(f"{path}: {header} is not written from the root of lib/")
        elif not may_include(folder, header):
            problems.append(f"{path}: {folder} may not include {header}")


def check_front_end(root, path, includes, problems):
    folder = os.path.dirname(path)
    for header in includes:
        if header in GENERATED:
            continue
        is_allowed = header == "qimg.h" or header in SHARED_BRICKS.get(folder.split("/")[0], ())
        if not is_allowed and not os.path.exists(os.path.join(root, folder, header)):
            problems.append(f"{path}: includes {header}: of lib/ only qimg.h is public")


def unit_of(path):
    """NAME-private.h is what the unit NAME shares with its neighbours."""
    return re.sub("-private$", "", os.path.splitext(path)[0])


def included_path(root, folder, header):
    """A front end's headers lie beside it, the library's below lib/."""
    beside = os.path.join(folder, header)
    return beside if os.path.exists(os.path.join(root, beside)) else os.path.join("lib", header)


def find_circles(graph):
    """The strongly connected sets of more than one unit (Tarjan)."""
    number, low, stack, circles = {}, {}, [], []

    def visit(unit):
        number[unit] = low[unit] = len(number)
        stack.append(unit)
        for used in sorted(graph.get(unit, ())):
            if used not in number:
                visit(used)
                low[unit] = min(low[unit], low[used])
            elif used in stack:
                low[unit] = min(low[unit], number[used])
        if low[unit] == number[unit]:
            members = [stack.pop()]
            while members[-1] != unit:
                members.append(stack.pop())
            if len(members) > 1:
                circles.append(sorted(members))

    for unit in sorted(graph):
        if unit not in number:
            visit(unit)
    return circles


def check_folders(units, problems):
    counts = collections.Counter(os.path.dirname(unit) for unit in units)
    for folder, n_units in sorted(counts.items()):
        limit = LARGE_FOLDERS.get(folder, MAX_UNITS)
        if n_units > limit:
            problems.append(f"{folder}: {n_units} .c files, at most {limit} (divide it)")


def main():
    root = sys.argv[1]
    problems, n_files, graph, units = [], 0, collections.defaultdict(set), set()
    for path in sources.find(root, ["lib", "fuse", "tools", "docs"], [".c", ".h", ".def"]):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            includes = INCLUDE.findall(file.read())
        n_files += 1
        graph[unit_of(path)] |= {unit_of(included_path(root, os.path.dirname(path), header))
                                 for header in includes} - {unit_of(path)}
        if path.endswith(".c"):
            units.add(unit_of(path))
        if path.startswith("lib/"):
            check_library(root, path, includes, problems)
        else:
            check_front_end(root, path, includes, problems)
    problems += [f"circle of includes: {', '.join(circle)}" for circle in find_circles(graph)]
    check_folders(units, problems)
    return sources.report(problems, f"the includes of {n_files} files")


if __name__ == "__main__":
    sys.exit(main())
