#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-format.py ROOT: clang-format has nothing to change. Releases other than the project's
format some constructs differently, so the check is skipped with those."""

import re
import shutil
import subprocess
import sys

import sources

RELEASE = "14"


def main():
    root = sys.argv[1]
    program = shutil.which(f"clang-format-{RELEASE}") or shutil.which("clang-format")
    if not program:
        print("clang-format is not installed")
        return 77
    version = subprocess.run([program, "--version"], check=True, stdout=subprocess.PIPE,
                             text=True).stdout
    if not re.search(rf"version {RELEASE}\.", version):
        print(f"not release {RELEASE}: {version.strip()}")
        return 77
    files = list(sources.find(root, ["lib", "fuse", "tools", "tests", "docs"], [".c", ".h"]))
    run = subprocess.run([program, "--dry-run", "-Werror", *files], cwd=root,
                         stderr=subprocess.PIPE, text=True)
    problems = re.findall(r"^(\S+?:\d+):\d+: error", run.stderr, re.MULTILINE)
    if run.returncode and not problems:
        problems = [run.stderr.strip()]
    return sources.report(problems, f"the format of {len(files)} files")


if __name__ == "__main__":
    sys.exit(main())
