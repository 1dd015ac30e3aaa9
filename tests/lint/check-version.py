#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-version.py ROOT VERSION: the public header and the recipes of the packages have the
version of the build."""

import re
import sys

import sources

# File -> pattern of its version.
PLACES = {
    "packaging/debian/changelog": r"\Aqcowfs \(([\d.]+)",
    "packaging/rpm/qcowfs.spec": r"^Version:\s*([\d.]+)$",
    "packaging/arch/PKGBUILD": r"^pkgver=([\d.]+)$",
}
HEADER = "lib/qimg.h"


def read(root, path):
    with open(f"{root}/{path}", encoding="utf-8") as file:
        return file.read()


def header_version(root):
    text = read(root, HEADER)
    parts = (re.search(rf"^#define QIMG_VERSION_{part}\s+(\d+)$", text, re.MULTILINE)
             for part in ("MAJOR", "MINOR", "MICRO"))
    return ".".join(part[1] if part else "?" for part in parts)


def main():
    root, version = sys.argv[1:]
    found = {HEADER: header_version(root)}
    for path, pattern in PLACES.items():
        match = re.search(pattern, read(root, path), re.MULTILINE)
        found[path] = match[1] if match else "none"
    problems = [f"{path}: has version {other}, meson.build has {version}"
                for path, other in found.items() if other != version]
    return sources.report(problems, f"the version in {len(found)} files")


if __name__ == "__main__":
    sys.exit(main())
