#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-probes.py ROOT BINARY...: the binaries have the probes of docs/tracing.md, with as many
arguments, and no others."""

import re
import shutil
import subprocess
import sys

import sources

ROW = re.compile(r"^\| `qimg:(\w+)` \| ([^|]*) \|", re.MULTILINE)
NOTE = re.compile(r"Provider: qimg\s+Name: (\w+)\s+Location:.*\s+Arguments:(.*)")


def main():
    root, *binaries = sys.argv[1:]
    if not shutil.which("readelf"):
        print("readelf is not installed")
        return 77
    with open(f"{root}/docs/tracing.md", encoding="utf-8") as file:
        wanted = {name: len(arguments.split(",")) for name, arguments in ROW.findall(file.read())}
    problems = [] if wanted else ["docs/tracing.md: no probes"]
    for binary in binaries:
        notes = subprocess.run(["readelf", "-n", "-W", binary], check=True, text=True,
                               stdout=subprocess.PIPE).stdout
        found = {name: len(arguments.split()) for name, arguments in NOTE.findall(notes)}
        problems += [f"{binary}: {name}: has {found.get(name, 'no')} arguments, not "
                     f"{wanted.get(name, 'in docs/tracing.md')}"
                     for name in sorted(set(wanted) | set(found))
                     if found.get(name) != wanted.get(name)]
    return sources.report(problems, f"{len(wanted)} probes of {len(binaries)} binaries")


if __name__ == "__main__":
    sys.exit(main())
