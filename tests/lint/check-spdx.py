#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-spdx.py ROOT: each source begins with the licence identifier, behind "#!" at most."""

import os
import sys

import sources

IDENTIFIER = "SPDX-License-Identifier: GPL-2.0-or-later"
SUFFIXES = [".c", ".h", ".def", ".py", ".sh", ".md", ".1", ".3", ".7", ".spec", ".supp", "meson.build",
            "meson_options.txt", "debian-packages.txt", "PKGBUILD"]


def main():
    root = sys.argv[1]
    problems, n_files = [], 0
    for path in sources.find(root, ["."], SUFFIXES):
        n_files += 1
        with open(os.path.join(root, path), encoding="utf-8") as file:
            line = file.readline()
            if line.startswith("#!"):
                line = file.readline()
        if IDENTIFIER not in line:
            problems.append(f"{path}: begins without \"{IDENTIFIER}\"")
    return sources.report(problems, f"the first lines of {n_files} files")


if __name__ == "__main__":
    sys.exit(main())
