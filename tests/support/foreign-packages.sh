#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# foreign-packages.sh ARCHITECTURE DIRECTORY: unpacks the packages of the section
# [sysroot] of debian-packages.txt, of another architecture, below DIRECTORY. The system's
# package database does not change: apt uses separate lists and a separate cache, with the
# system's sources and keys. Exit status 77: the packages are not available here.
set -euo pipefail

architecture=$1
root=$2
list=$(dirname "$0")/../../packaging/debian-packages.txt
mapfile -t packages < <(
    awk '/^\[/ { inside = ($1 == "[sysroot]"); next }
         inside && NF > 0 && !/^#/ { print $1 }' "$list")

[ ! -e "$root/complete" ] || [ "$list" -nt "$root/complete" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "there is no apt-get here"
    exit 77
fi
rm -rf "$root"
mkdir -p "$root/apt/lists/partial" "$root/apt/cache/archives/partial" "$root/debs"
: >"$root/apt/status"
cd "$root"
options=(-o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
    -o "Dir::State=$PWD/apt" -o "Dir::State::lists=$PWD/apt/lists"
    -o "Dir::State::status=$PWD/apt/status" -o "Dir::Cache=$PWD/apt/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3)
if ! apt-get -q "${options[@]}" update ||
    ! (cd debs && apt-get -q "${options[@]}" download "${packages[@]}"); then
    echo "the packages of $architecture cannot be downloaded"
    exit 77
fi
for deb in debs/*.deb; do
    dpkg -x "$deb" .
done
rm -rf apt debs
# A link to an absolute path would lead out of DIRECTORY.
find . -lname '/*' -printf '%p %l\n' | while read -r link target; do
    ln -sfr ".$target" "$link"
done
touch complete
