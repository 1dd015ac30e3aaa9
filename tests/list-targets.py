#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""list-targets.py DIR WORD...: what ninja has to build in DIR, for run-all.sh. A word is a target,
or +SUITE: the programs that the tests of the suite run."""

import json
import os
import subprocess
import sys


def introspect(build_dir, kind):
    return json.loads(subprocess.run(["meson", "introspect", build_dir, f"--{kind}"],
                                     check=True, stdout=subprocess.PIPE).stdout)


def programs_of_suite(build_dir, suite):
    files = {target["id"]: target["filename"] for target in introspect(build_dir, "targets")}
    programs = [os.path.relpath(path, os.path.realpath(build_dir))
                for test in introspect(build_dir, "tests")
                if suite in [name.rsplit(":", 1)[-1] for name in test["suite"]]
                for target in test["depends"] for path in files[target]]
    if not programs:
        sys.exit(f"no test of the suite {suite} runs a program of {build_dir}")
    return programs


def main():
    build_dir, words = sys.argv[1], sys.argv[2:]
    targets = []
    for word in words:
        targets += programs_of_suite(build_dir, word[1:]) if word.startswith("+") else [word]
    print(*dict.fromkeys(targets))


main()
