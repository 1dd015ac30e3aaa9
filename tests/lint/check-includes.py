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
# What a front end shares with the library besides its public header: one order of locks,
# and what a thread does before it waits for a disk.
SHARED_BRICKS = {"fuse": ("base/lock.h", "base/wait-hook.h")}
# Folder of a file -> folders, or single headers, that it may include besides its own.
ALLOWED = {
    "base": ("qimg.h",),
    "codec": BRICKS,
    "transform": BRICKS,
    "storage": BRICKS,
    # Tables are cached as they are read, so their cache knows what they are read from.
    "behind": BRICKS + ("storage",),
    "cache": BRICKS + ("storage", "behind/behind.h"),
    "format": BRICKS + ("behind/behind.h", "codec", "cache", "transform", "storage"),
    "image": BRICKS + ("format/driver.h", "storage"),
    # What lies on a disk, whatever format the image has: over the public functions.
    "partition": BRICKS,
    "copy": BRICKS + ("format/driver.h", "storage", "image/chain", "image/map", "image/read",
                      "image/open"),
}
# Folders that are divided into floors: each floor may include those before it, the files
# beside the floors may include all.
FLOORS = {
    "format/qcow2": ("layer", "refcount", "tables", "count", "write", "snapshot", "check"),
    "image": ("chain", "map", "read", "write", "open"),
    "fuse": ("images", "sandbox", "mount", "tree", "ops"),
}
# Headers that the build makes.
GENERATED = {"sandbox-filter.h"}
# Folders that are built, and tested, without libfuse.
WITHOUT_FUSE = {"fuse/images", "fuse/sandbox"}
FUSE_INCLUDE = re.compile(r"^\s*#\s*include\s+<((?:linux/)?fuse[^>]*)>", re.MULTILINE)
MAX_UNITS = 15
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def is_floor_below(folder, target):
    """Whether both lie in one house, and target on the same floor as folder or below."""
    for house, floors in FLOORS.items():
        order = ["/".join((house, floor)) for floor in floors] + [house]
        if folder in order and target in order:
            return order.index(target) <= order.index(folder)
    return target == folder


def may_include(folder, header):
    """folder is relative to lib/: "codec", "format", "format/qcow2", ..."""
    target = os.path.dirname(header)
    if is_floor_below(folder, target):
        return True
    if folder.startswith("format/") and target == "format":
        return True  # what all formats share; never another format
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
    house, folder = path.split("/")[0], os.path.dirname(path)
    for header in includes:
        if header in GENERATED or header == "qimg.h" or header in SHARED_BRICKS.get(house, ()):
            continue
        target = os.path.dirname(os.path.join(house, header))
        if not os.path.exists(os.path.join(root, house, header)):
            problems.append(f"{path}: includes {header}: of lib/ only qimg.h is public")
        elif not is_floor_below(folder, target):
            problems.append(f"{path}: {folder} may not include {header}")


def unit_of(path):
    """NAME-private.h is what the unit NAME shares with its neighbours."""
    return re.sub("-private$", "", os.path.splitext(path)[0])


def included_path(root, path, header):
    """Includes are written from the root of the library, or of the front end."""
    own = os.path.join(path.split("/")[0], header)
    return own if os.path.exists(os.path.join(root, own)) else os.path.join("lib", header)


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
        if n_units > MAX_UNITS:
            problems.append(f"{folder}: {n_units} .c files, at most {MAX_UNITS} (divide it)")


def main():
    root = sys.argv[1]
    problems, n_files, graph, units = [], 0, collections.defaultdict(set), set()
    for path in sources.find(root, ["lib", "fuse", "tools", "docs"], [".c", ".h", ".def"]):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        includes = INCLUDE.findall(text)
        if os.path.dirname(path) in WITHOUT_FUSE:
            problems += [f"{path}: includes <{header}>, and is built without libfuse"
                         for header in FUSE_INCLUDE.findall(text)]
        n_files += 1
        graph[unit_of(path)] |= {unit_of(included_path(root, path, header))
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
