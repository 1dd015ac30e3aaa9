#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# build-deb.sh [OUTDIR]: builds the Debian packages, source and binary, from the files of this
# tree, and puts them into OUTDIR (build-deb). DEB_BUILD_OPTIONS works as for
# dpkg-buildpackage: nocheck leaves the tests out, noautodbgsym the debugging symbols.
set -euo pipefail

case "${1-}" in
-h | --help)
    echo "usage: packaging/build-deb.sh [OUTDIR]"
    exit 0
    ;;
esac
out=$(realpath -m -- "${1:-$(dirname "$0")/../build-deb}")
cd "$(dirname "$0")/.."
missing=$(dpkg-checkbuilddeps packaging/debian/control 2>&1) || {
    echo "build-deb: ${missing#*: } (packaging/install-packages.sh build package installs them)" >&2
    exit 1
}

version=$(dpkg-parsechangelog -l packaging/debian/changelog -S Version)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/qcowfs-$version
mkdir "$tree"
# Files known to git, or not ignored by it; without git everything but builds.
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
        tar -c --null -T - | tar -x -C "$tree"
else
    tar -c --exclude='./build*' . | tar -x -C "$tree"
fi
cp -r packaging/debian "$tree/debian"

(cd "$tree" && dpkg-buildpackage -us -uc -j"$(nproc)") >"$work/log" 2>&1 || {
    tail -n 40 "$work/log" >&2
    echo "build-deb: building the packages failed" >&2
    exit 1
}
mkdir -p "$out"
find "$work" -maxdepth 1 -type f ! -name log -exec mv -t "$out" {} +
ls "$out"
