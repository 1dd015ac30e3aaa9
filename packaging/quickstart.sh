#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# quickstart.sh [IMAGE [MOUNTPOINT]]: installs the needs of the build, builds qcowfs, mounts
# IMAGE (default: a generated sample), and suggests what to try next.
set -euo pipefail

usage="usage: packaging/quickstart.sh [IMAGE [MOUNTPOINT]]"
case "${1-}" in
-h | --help)
    echo "$usage"
    exit 0
    ;;
esac
if [ $# -gt 2 ]; then
    echo "$usage" >&2
    exit 1
fi

image=${1:+$(realpath -- "$1")}
mountpoint=${2:+$(realpath -m -- "$2")}
if [ -n "$image" ] && [ ! -e "$image" ]; then
    echo "quickstart: $1: there is no such image" >&2
    exit 1
fi
cd "$(dirname "$0")/.."
root=$PWD
PATH=$PATH:/usr/sbin:/sbin

packaging/install-packages.sh build run

mkdir -p build
[ -e build/build.ninja ] || meson setup build --buildtype=release >build/setup.log 2>&1 || {
    tail -n 20 build/setup.log >&2
    exit 1
}
ninja -C build >build/build.log 2>&1 || {
    tail -n 30 build/build.log >&2
    exit 1
}
echo "Built: build/fuse/qcowfs and build/tools/qimg"

# A disk with a partition, its file system made without mounting anything: sample/base.qcow2
# as it was installed, sample/disk.qcow2 on top of it with an internal snapshot, then a
# second version of some files.
make_sample() {
    local dir=$root/build/sample work cluster
    work=$(mktemp -d "$root/build/sample-XXXXXX")
    mkdir -p "$work/tree/etc" "$work/tree/docs"
    echo "sample" >"$work/tree/etc/hostname"
    echo "This file lies in an ext4 file system, in a partition, in a qcow2 image." \
        >"$work/tree/README.txt"
    cp -r "$root/docs" "$work/tree/"
    truncate -s 64M "$work/v1.raw"
    echo 'start=2048, type=83' | sfdisk -q "$work/v1.raw"
    mke2fs -q -F -t ext4 -L sample -d "$work/tree" -E offset=$((2048 * 512)) \
        "$work/v1.raw" 63M
    cp --sparse=always "$work/v1.raw" "$work/v2.raw"
    echo "This file came after the snapshot." >"$work/added-later.txt"
    debugfs -w -R "write $work/added-later.txt added-later.txt" \
        "$work/v2.raw?offset=$((2048 * 512))" >/dev/null 2>&1
    qemu-img convert -c -O qcow2 "$work/v1.raw" "$work/base.qcow2"
    (cd "$work" && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2)
    qemu-img snapshot -c before-the-change "$work/disk.qcow2"
    { cmp -l "$work/v1.raw" "$work/v2.raw" || true; } |
        awk '{ c = int(($1 - 1) / 65536); if (c != last || NR == 1) print c; last = c }' |
        while read -r cluster; do
            dd if="$work/v2.raw" of="$work/cluster" bs=64K skip="$cluster" count=1 status=none
            qemu-io -f qcow2 -c "write -q -s $work/cluster $((cluster * 65536)) 64k" \
                "$work/disk.qcow2"
        done
    mkdir -p "$dir"
    mv "$work/base.qcow2" "$work/disk.qcow2" "$dir/"
    rm -rf "$work"
}

if [ -z "$image" ]; then
    image=$root/build/sample/disk.qcow2
    if [ ! -e "$image" ]; then
        make_sample
        echo "Made a sample: build/sample/disk.qcow2, with a backing file and a snapshot"
    fi
fi

if [ -z "$mountpoint" ]; then
    mountpoint=$root/build/mnt
    for ((n = 2;; n++)); do
        mountpoint -q "$mountpoint" 2>/dev/null || break
        mountpoint=$root/build/mnt-$n
    done
fi
[ -e "$mountpoint" ] || mkdir -p "$mountpoint"

options=()
# Under sudo, the calling user must be able to read the files, too.
[ "$(id -u)" -ne 0 ] || [ -z "${SUDO_USER-}" ] || options=(-o allow_other)
if ! build/fuse/qcowfs "${options[@]}" "$image" "$mountpoint"; then
    echo "The programs are built; without a mount you can still try:"
    echo "  build/tools/qimg info '$image'"
    exit 1
fi

if [ -d "$mountpoint" ]; then
    raw=$(find "$mountpoint" -maxdepth 1 -name '*.raw' | head -n 1)
    what="Mounted $image on $mountpoint:"
else
    raw=$mountpoint
    what="Mounted $image as the file $mountpoint:"
fi
echo
echo "$what"
ls -lA "$mountpoint"
[ "$(id -u)" -eq 0 ] && sudo="" || sudo="sudo "
cat <<TEXT

Try next:
  ls -lR '$mountpoint'                       # the disk, and its snapshots
  build/tools/qimg info '$image'
  build/tools/qimg map '$image'
  sha256sum '$raw'
  cp --sparse=always '$raw' copy.raw          # reads only what is stored
TEXT
if [ "$image" = "$root/build/sample/disk.qcow2" ] && [ -d "$mountpoint" ]; then
    cat <<TEXT
  /sbin/debugfs -R 'ls -l /' '${raw%.raw}.partitions/1.raw'
TEXT
fi
if [ -n "$sudo" ]; then
    echo "A loop device belongs to root, who may read your mount only with -o allow_root"
    echo "(and user_allow_other in /etc/fuse.conf); then, or in a mount made by root:"
fi
cat <<TEXT
  ${sudo}losetup -P -r -f --show '$raw'          # prints /dev/loopN, partitions /dev/loopNp1 …
  ${sudo}mount -o ro,noload /dev/loopNp1 /mnt    # ext4; XFS: -o ro,norecovery
  ${sudo}umount /mnt; ${sudo}losetup -d /dev/loopN
Unmount with:
  fusermount3 -u '$mountpoint'
TEXT
