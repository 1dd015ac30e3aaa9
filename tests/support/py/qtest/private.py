# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines to put before a program, so that it finds another machine than this one: a
/dev without some devices, other files in /etc. Each has a mount namespace of its own."""

import os

from . import env

# The copies of the mounts that other tests have at this moment: a server ends when the last
# one of its mount has gone.
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


def _in_namespace(script, *arguments):
    env.need_root("a mount namespace")
    env.need_tools("unshare")
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", FORGET_MOUNTS + script, "sh",
            *map(str, arguments))


def private_dev(tmp_path, log="", has_fuse=True):
    """/dev with the few devices that are needed, open to all; /dev/log is the socket @log, or absent."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    return _in_namespace(DEV, nodes, "fuse" if has_fuse else "", log)


def private_files(replacements):
    """The files of {path: what stands there instead}."""
    pairs = [str(item) for pair in replacements.items() for item in pair]
    return _in_namespace(FILES, *pairs, "--")


def private_programs(directory):
    """/usr/bin has what @directory has, too. Exit status 77 where that cannot be had."""
    return _in_namespace(PROGRAMS, directory)


def as_user(*paths, uid=65534):
    """Without root; @paths become that user's, so that it can get there."""
    env.need_tools("setpriv")
    for path in paths:
        os.chown(path, uid, uid)
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
