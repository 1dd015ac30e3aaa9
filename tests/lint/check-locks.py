#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-locks.py ROOT: each mutex and condition of the product is one of base/lock.h, so that its
rank is checked; the table of docs/locking.md has all ranks in their order."""

import re
import sys

import sources

RAW = re.compile(r"\b(?:pthread_(?:mutex|cond|rwlock|spin)_\w+|G(?:Mutex|Cond|RecMutex|RWLock)\b)")
RANK = re.compile(r"^    QIMG_RANK_(\w+),$", re.MULTILINE)
ROW = re.compile(r"^\| `([A-Z]+)` \|", re.MULTILINE)


def read(root, path):
    with open(f"{root}/{path}", encoding="utf-8") as file:
        return file.read()


def main():
    root = sys.argv[1]
    problems, n_files = [], 0
    for path in sources.find(root, ["lib", "fuse", "tools"], [".c", ".h"]):
        n_files += 1
        if path not in ("lib/base/lock.c", "lib/base/lock.h"):
            problems += [f"{path}: {name}: use base/lock.h, with a rank"
                         for name in sorted(set(RAW.findall(read(root, path))))]
    ranks, rows = RANK.findall(read(root, "lib/base/lock.h")), ROW.findall(read(root, "docs/locking.md"))
    if not ranks or ranks != rows:
        problems.append(f"docs/locking.md: has the ranks {' '.join(rows)}; lock.h has {' '.join(ranks)}")
    return sources.report(problems, f"the locks of {n_files} files, {len(ranks)} ranks")


if __name__ == "__main__":
    sys.exit(main())
