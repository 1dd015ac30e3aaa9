# SPDX-License-Identifier: GPL-2.0-or-later
"""The source files of the project, for the checks: a walk, so that it needs no git."""

import os

SKIPPED = {"__pycache__", ".git", ".pytest_cache", "corpus"}


def find(root, folders, suffixes):
    """Paths relative to root of the files below the folders ("." for all) whose names end
    in one of the suffixes; build directories at the top are left out."""
    for folder in folders:
        for directory, names, files in os.walk(os.path.join(root, folder)):
            is_top = os.path.samefile(directory, root)
            names[:] = sorted(n for n in names
                              if n not in SKIPPED and not (is_top and n.startswith("build")))
            for name in sorted(files):
                if name.endswith(tuple(suffixes)):
                    yield os.path.relpath(os.path.join(directory, name), root)


def report(problems, what):
    """Prints the problems, or the success; returns the exit status."""
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else f"good: {what}")
    return 1 if problems else 0
