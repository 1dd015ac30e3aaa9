#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# quickstart.sh [IMAGE [MOUNTPOINT]]: installs the needs of the build, builds qcowfs, mounts
# IMAGE (default: a generated sample), and suggests what to try next. It names each step.
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

echo "Looking for the packages in packaging/debian-packages.txt, sections build and run ..."
packaging/install-packages.sh build run

mkdir -p build
echo "Building in build/ ..."
[ -e build/build.ninja ] || meson setup build --buildtype=release >build/setup.log 2>&1 || {
    tail -n 20 build/setup.log >&2
    exit 1
}
ninja -C build >build/build.log 2>&1 || {
    tail -n 30 build/build.log >&2
    exit 1
}
echo "Built: build/fuse/qcowfs and build/tools/qimg"

# The files of the examples in README.md and the guides, in build/sample; nothing is mounted
# to make them.
work=
samples=$root/build/sample

# A disk of 24 MiB or @5 with one partition, of type @2, whose content is the file @3, as @4.
in_partition() {
    truncate -s "${5-24M}" "$work/whole"
    printf 'label: %s\nstart=2048, type=%s\n' "$1" "$2" | sfdisk -q "$work/whole"
    dd if="$3" of="$work/whole" bs=1M seek=1 conv=notrunc,sparse status=none
    qemu-img convert -f raw -O qcow2 "$work/whole" "$4"
    rm "$work/whole" "$3"
}

# disk.qcow2 over base.qcow2: an ext4 partition as it was installed, an internal snapshot of
# that, then a second version of some files.
make_disk() {
    local cluster
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
    qemu-img convert -c -O qcow2 "$work/v1.raw" "$work/new/base.qcow2"
    (cd "$work/new" && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2)
    qemu-img snapshot -c before-the-change "$work/new/disk.qcow2"
    { cmp -l "$work/v1.raw" "$work/v2.raw" || true; } |
        awk '{ c = int(($1 - 1) / 65536); if (c != last || NR == 1) print c; last = c }' |
        while read -r cluster; do
            dd if="$work/v2.raw" of="$work/cluster" bs=64K skip="$cluster" count=1 status=none
            qemu-io -f qcow2 -c "write -q -s $work/cluster $((cluster * 65536)) 64k" \
                "$work/new/disk.qcow2"
        done
}

# system.qcow2: GPT, ext4, a snapshot.
make_system() {
    truncate -s 16M "$work/part"
    mke2fs -q -F -t ext4 -d "$work/tree" "$work/part"
    in_partition gpt L "$work/part" "$work/new/system.qcow2"
    qemu-img snapshot -c before-upgrade "$work/new/system.qcow2"
}

# damaged.qcow2: the second cluster of its disk lies beyond the end of the file.
make_damaged() {
    qemu-img create -q -f qcow2 "$work/new/damaged.qcow2" 4M
    qemu-io -f qcow2 -c 'write -q -P 7 0 1M' "$work/new/damaged.qcow2"
    printf '\200\000\001\000\000\000\000\000' |
        dd of="$work/new/damaged.qcow2" bs=1 seek=$((0x40008)) conv=notrunc status=none
}

# Small disks under the other names of the examples.
make_small() {
    local name
    mkdir "$work/new/old" "$work/bases"
    for name in a b old/c; do
        qemu-img create -q -f qcow2 "$work/new/$name.qcow2" 4M
    done
    mv "$work/new/old/c.qcow2" "$work/new/old/c.img"
    truncate -s 4M "$work/new/usb.img"
    printf 'boot code' >"$work/new/boot.bin"
    qemu-img create -q -f qcow2 "$work/bases/base.qcow2" 4M
    for name in moved:../bases lost:/old/place; do
        qemu-img create -q -u -f qcow2 -F qcow2 -b "${name#*:}/base.qcow2" \
            "$work/new/${name%%:*}.qcow2" 4M
    done
}

make_ntfs() {
    truncate -s 8M "$work/part"
    mkntfs -q -F -p 2048 -H 16 -S 63 "$work/part" >/dev/null 2>&1
    ntfscp -q "$work/part" "$work/tree/README.txt" /README.txt
    in_partition dos 7 "$work/part" "$work/new/ntfs.qcow2"
}

make_xfs() {
    truncate -s 300M "$work/part"
    mkfs.xfs -q "$work/part"
    in_partition dos 83 "$work/part" "$work/new/xfs.qcow2" 302M
}

make_samples() {
    work=$(mktemp -d "$root/build/sample-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/new"
    echo "Making samples, in build/sample:"
    make_disk
    echo "  disk.qcow2, base.qcow2       a disk with a partition, a backing file and a snapshot"
    make_system
    echo "  system.qcow2                 another one, with a GPT"
    make_damaged
    echo "  damaged.qcow2                a part of this disk is missing"
    make_small
    echo "  moved.qcow2, lost.qcow2      their backing files are elsewhere: build/bases"
    echo "  a.qcow2, b.qcow2, old/c.img, usb.img, boot.bin"
    if command -v mkntfs >/dev/null && make_ntfs; then
        echo "  ntfs.qcow2                   since ntfs-3g is installed"
    fi
    if command -v mkfs.xfs >/dev/null && make_xfs; then
        echo "  xfs.qcow2                    since xfsprogs is installed"
    fi
    mkdir -p "$root/build/bases" "$samples"
    mv "$work/bases/"* "$root/build/bases/"
    mv "$work/new/"* "$samples/"
}

if [ -z "$image" ]; then
    image=$samples/disk.qcow2
    [ -e "$image" ] || make_samples
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
echo "\$ build/fuse/qcowfs ${options[*]:+${options[*]} }'$image' '$mountpoint'"
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
if [ "$image" = "$samples/disk.qcow2" ]; then
    cat <<TEXT
The examples of README.md and docs/guide-*.md run, in their order, in build/sample:
  fusermount3 -u '$mountpoint'
  PATH='$root/build/fuse:$root/build/tools':\$PATH; cd '$samples'
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
