# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines to put before a program, so that it finds another machine than this one: a /dev
without some devices, other files in /etc, one that boots. Each has its own mount namespace."""

import os

from . import env

# The namespace copies mounts of concurrent tests: a server ends when the last copy of its mount
# has gone.
FORGET_MOUNTS = """
umount --all --lazy --types fuse.qcowfs 2>/dev/null || :
set -e
"""

DEV = """
nodes=$1
mount -t tmpfs none "$nodes"
for node in null zero $2; do
    cp -a "/dev/$node" "$nodes/"
done
[ ! -e "$nodes/fuse" ] || chmod 666 "$nodes/fuse"
mkdir "$nodes/shm"
mount --rbind /dev/shm "$nodes/shm"
[ -z "$3" ] || ln -s "$3" "$nodes/log"
mount --rbind "$nodes" /dev
shift 3
exec "$@"
"""

FILES = """
while [ "$1" != -- ]; do
    mount --bind "$2" "$1"
    shift 2
done
shift
exec "$@"
"""


PROGRAMS = """
mount -t overlay -o "lowerdir=$1:/usr/bin" none /usr/bin || exit 77
shift
exec "$@"
"""


# The container leaves its groups of processes behind. /dev/fuse is as a device manager makes it.
MACHINE = """
cd "$1"
shift
mkdir work root nodes
mount -t overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" none root || exit 77
mount -t tmpfs none /run
mount -t tmpfs none nodes
cp -a /dev/fuse nodes/
chmod 666 nodes/fuse
status=0
systemd-nspawn --directory=root --machine=machine --register=no \\
    --keep-unit --private-network --console=read-only --bind="$PWD/nodes/fuse:/dev/fuse" \\
    --boot "$@" || status=$?
for group in $(find /sys/fs/cgroup -maxdepth 3 -name payload -o -maxdepth 3 -name supervisor); do
    find "$group" -depth -type d -exec rmdir {} ';'
done
exit "$status"
"""

# With its own processes, temporary files and, as a device manager makes it, /dev/fuse.
ROOT = """
cd "$1"
shift
mkdir work root nodes
mount -t overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" none root || exit 77
mount -t tmpfs none nodes
cp -a /dev/fuse nodes/
chmod 666 nodes/fuse
mount --rbind /dev root/dev
mount --bind nodes/fuse root/dev/fuse
mount -t proc none root/proc
mount --rbind /sys root/sys
mount -t tmpfs none root/run
mount -t tmpfs none root/tmp
chmod 1777 root/tmp
exec chroot root "$@"
"""


def _in_namespace(script, *arguments, options=()):
    env.need_root("a mount namespace")
    env.need_tools("unshare")
    return ("unshare", "-m", "--propagation", "private", *options, "sh", "-c",
            FORGET_MOUNTS + script, "sh",
            *map(str, arguments))


def private_dev(tmp_path, log="", has_fuse=True):
    """/dev with the few needed devices, open to all; /dev/log is the socket @log, or absent."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    return _in_namespace(DEV, nodes, "fuse" if has_fuse else "", log)


def private_files(replacements):
    """Replaces the files: {path: new content}."""
    pairs = [str(item) for pair in replacements.items() for item in pair]
    return _in_namespace(FILES, *pairs, "--")


def private_programs(directory):
    """/usr/bin also has the files of @directory. Exit status 77 if that is impossible."""
    return _in_namespace(PROGRAMS, directory)


def private_machine(directory):
    """Boots systemd on this machine's files, overlaid with those of @directory/upper, until it is
    powered off; the following words are its kernel's. Exit status 77 if that is impossible."""
    env.need_tools("systemd-nspawn")
    # Killing unshare ends all processes in there.
    return _in_namespace(MACHINE, directory,
                         options=("--pid", "--fork", "--kill-child", "--mount-proc"))


def private_root(directory):
    """This machine's files, overlaid with those of @directory/upper, without a boot: the next words
    are a command of root. Exit status 77 if that is impossible."""
    return _in_namespace(ROOT, directory,
                         options=("--pid", "--fork", "--kill-child", "--mount-proc"))


def as_user(*paths, uid=65534):
    """Without root; @paths become that user's, so that it can reach them."""
    env.need_tools("setpriv")
    for path in paths:
        os.chown(path, uid, uid)
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
