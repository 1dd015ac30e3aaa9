#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-spdx.py ROOT: each source begins with its licence's identifier, behind "#!" at most: the
library and its examples are LGPL, everything else is GPL."""

import os
import sys

import sources

IDENTIFIER = "SPDX-License-Identifier: GPL-2.0-or-later"
LIBRARY_IDENTIFIER = "SPDX-License-Identifier: LGPL-2.1-or-later"
LIBRARY_FOLDERS = ("lib/", "docs/examples/")
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
        wanted = LIBRARY_IDENTIFIER if path.startswith(LIBRARY_FOLDERS) else IDENTIFIER
        if wanted not in line:
            problems.append(f"{path}: begins without \"{wanted}\"")
    return sources.report(problems, f"the first lines of {n_files} files")


if __name__ == "__main__":
    sys.exit(main())
