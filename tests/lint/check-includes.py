#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-includes.py ROOT: who may include whom. Each folder of the library names the folders
that it may use; the front ends have the public header alone."""

import os
import re
import sys

import sources

BRICKS = ("base", "qimg.h")
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
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def may_include(folder, header):
    """folder is relative to lib/: "codec", "format", "format/qcow2", ..."""
    target = os.path.dirname(header)
    if target == folder:
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
    folder = os.path.dirname(path)
    for header in includes:
        if header != "qimg.h" and not os.path.exists(os.path.join(root, folder, header)):
            problems.append(f"{path}: includes {header}: of lib/ only qimg.h is public")


def main():
    root = sys.argv[1]
    problems, n_files = [], 0
    for path in sources.find(root, ["lib", "fuse", "tools", "docs"], [".c", ".h", ".def"]):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            includes = INCLUDE.findall(file.read())
        n_files += 1
        if path.startswith("lib/"):
            check_library(root, path, includes, problems)
        else:
            check_front_end(root, path, includes, problems)
    return sources.report(problems, f"the includes of {n_files} files")


if __name__ == "__main__":
    sys.exit(main())
