#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-manuals.py ROOT: mandoc and man report nothing about the manual pages; each is installed,
has the name of its file, and refers to existing pages."""

import os
import re
import shutil
import subprocess
import sys

import sources

PAGE = re.compile(r"^[\w-]+\.[1-8]$")
OWN = re.compile(r"^(qcowfs|qimg|libqimg|qcow2)")


def complaints(argv, root, name):
    env = dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="100")
    run = subprocess.run([*argv, f"docs/{name}"], cwd=root, env=env, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # mandoc reports on standard output, man on standard error, since its output is the page.
    text = run.stdout if argv[0] == "mandoc" else run.stderr
    return [f"docs/{name}: {line}" for line in text.splitlines()
            if "outdated mandoc.db" not in line]


def main():
    root = sys.argv[1]
    names = sorted(name for name in os.listdir(f"{root}/docs") if PAGE.match(name))
    tools = [argv for argv in (["mandoc", "-T", "lint", "-W", "warning"],
                               ["man", "--warnings", "-l"]) if shutil.which(argv[0])]
    if not tools:
        print("neither mandoc nor man is installed")
        return 77
    with open(f"{root}/docs/meson.build", encoding="utf-8") as file:
        installed = set(re.findall(r"'([^']+\.[1-8])'", file.read()))
    problems = [f"docs/{name}: not in docs/meson.build" for name in set(names) - installed]
    for name in names:
        for argv in tools:
            problems += complaints(argv, root, name)
        with open(f"{root}/docs/{name}", encoding="utf-8") as file:
            page = file.read()
        if not re.search(rf"^\.Dt {name[:-2].upper()} {name[-1]}$", page, re.MULTILINE):
            problems.append(f"docs/{name}: has another name in .Dt")
        problems += [f"docs/{name}: refers to {title}({section})"
                     for title, section in re.findall(r"^\.Xr (\S+) (\d)", page, re.MULTILINE)
                     if OWN.match(title) and f"{title}.{section}" not in names]
    return sources.report(problems, f"{len(names)} manual pages, by {len(tools)} programs")


if __name__ == "__main__":
    sys.exit(main())
