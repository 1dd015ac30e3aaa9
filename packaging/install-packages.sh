#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# install-packages.sh SECTION...: installs the Debian packages of these sections of
# debian-packages.txt that are missing. Uses sudo only if a package is missing and the
# user is not root.
set -euo pipefail

list="$(dirname "$0")/debian-packages.txt"
packages=()
for section; do
    mapfile -t -O "${#packages[@]}" packages < <(
        awk -v wanted="[$section]" '
            /^#/ || NF == 0 { next }
            /^\[/ { inside = ($1 == wanted); next }
            inside { print $1 }' "$list")
done

if ! command -v apt-get >/dev/null; then
    echo "This is no Debian system: make sure that what these packages hold is installed:"
    printf '  %s\n' "${packages[*]}"
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=none
    [ "$status" = installed ] || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "Install these packages as root, then run this again: ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "Installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get -q update &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
           apt-get -qy --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "Installing the packages failed." >&2
    exit 1
fi
