#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-scripts.py ROOT: shellcheck finds nothing in the shell scripts, and the Python ones can be
compiled."""

import os
import shutil
import subprocess
import sys

import sources


def main():
    root = sys.argv[1]
    problems = []
    python = list(sources.find(root, ["tests", "packaging"], [".py"]))
    shell = list(sources.find(root, ["tests", "packaging"], [".sh"]))
    # Scripts of the packages have the names expected by the package tools.
    for path in sources.find(root, ["packaging"], [""]):
        with open(os.path.join(root, path), "rb") as file:
            if file.read(9) == b"#!/bin/sh":
                shell.append(path)
    if os.path.exists(os.path.join(root, ".ci/run")):
        shell.append(".ci/run")
    for path in python:
        with open(os.path.join(root, path), encoding="utf-8") as file:
            try:
                compile(file.read(), path, "exec")
            except SyntaxError as error:
                problems.append(f"{path}:{error.lineno}: {error.msg}")
    if shutil.which("shellcheck"):
        run = subprocess.run(["shellcheck", "--format=gcc", *sorted(set(shell))], cwd=root,
                             stdout=subprocess.PIPE, text=True)
        problems += run.stdout.splitlines()
    elif not problems:
        print("shellcheck is not installed")
        return 77
    return sources.report(problems, f"{len(set(shell))} shell and {len(python)} Python scripts")


if __name__ == "__main__":
    sys.exit(main())
