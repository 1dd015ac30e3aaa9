# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of README.md and the guides, pasted one after the other by an ordinary user who may
use sudo, on a machine where only the quick start has run. test_guides.py compares the output of
each; here each works on the files that the earlier ones have left."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from qtest import env, examples, loop, procs
from qtest.private import private_root

TOP = Path(__file__).resolve().parents[2]
GUIDES = ["guide-inspection.md", "guide-loop-device.md", "guide-evidence.md"]
BLOCK = re.compile(r"(^<!-- not run: .* -->\n)?^```sh\n((?:.*\n)*?)^```$", re.M)
# The reader's own things.
SSH = "#!/bin/sh\nshift\nexec sh -c \"$*\"\n"
DEVICE = "/dev/sdX"

# Without the directories of the system's administration.
USER_PATH = "/usr/local/bin:/usr/bin:/bin"
MACHINE = r"""
useradd -m -s /bin/bash reader && chown -R reader: /home/reader &&
    echo 'reader ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/reader || exit 77
setpriv --reuid=reader --regid=reader --init-groups env -i HOME=/home/reader USER=reader \
    PATH={path} bash -c 'cd ~/qcowfs && packaging/quickstart.sh && . ~/script'
status=$?
touch /run/loops
while read -r device; do
    echo "left: $device"
    umount "$device"* 2>/dev/null
    losetup -d "$device"
done </run/loops
exit $status
"""

# Notes the devices in use.
LOSETUP = """#!/bin/sh
case " $* " in
*" -d "*)
    for last; do :; done
    /usr/local/lib/losetup "$@" && sed -i "\\|^$last\\$|d" /run/loops ;;
*" --show "*)
    device=$(/usr/local/lib/losetup "$@") || exit
    echo "$device" >>/run/loops
    echo "$device" ;;
*) exec /usr/local/lib/losetup "$@" ;;
esac
"""


def _step(line):
    """A line, and a check of its status."""
    line = line.replace(DEVICE, "sdX")
    fails = re.search(r"# refuse", line)
    return (f"printf '$ %s\\n' {shlex.quote(line)}\n{line}\nstatus=$?\n"
            f"[ $status {'!=' if fails else '='} 0 ] || {{ echo \"status $status\"; exit 1; }}\n")


def _of_readme():
    for is_skipped, block in BLOCK.findall((TOP / "README.md").read_text()):
        if not is_skipped:
            yield from map(_step, block.splitlines())


def _of_guides():
    """Sessions with commands of root run in a shell of root, as their readers have one."""
    for session in examples.sessions(GUIDES):
        if any(name.startswith("dirty-") for name in session.files):
            continue  # disks of a crashed machine
        steps = "".join(_step(command) for _, command, _ in session.steps)
        if any(is_root for is_root, _, _ in session.steps):
            yield ('sudo env PATH="/usr/local/sbin:$PATH:/usr/sbin:/sbin" '
                   f"bash -c {shlex.quote(steps)} || exit 1\n")
        else:
            yield steps


def _furnish(upper):
    """Puts the clone, as the build leaves it, and the reader's own things into @upper."""
    clone = upper / "home/reader/qcowfs"
    for name in ("docs", "packaging"):
        shutil.copytree(TOP / name, clone / name)
    shutil.copy(TOP / "README.md", clone)
    for folder, program in (("fuse", env.qcowfs()), ("tools", env.qimg())):
        (clone / "build" / folder).mkdir(parents=True)
        shutil.copy(program, clone / "build" / folder)
    (clone / "build/build.ninja").write_text("")
    for folder in ("bin", "sbin", "lib"):
        (upper / "usr/local" / folder).mkdir(parents=True)
    (upper / "usr/local/bin/ssh").write_text(SSH)
    (upper / "usr/local/sbin/losetup").write_text(LOSETUP)
    examples.write_losetup(upper / "usr/local/lib/losetup")
    for name in ("bin/ssh", "sbin/losetup"):
        (upper / "usr/local" / name).chmod(0o755)
    (upper / "home/reader/script").write_text("".join([*_of_readme(), *_of_guides()]))


@pytest.mark.limit(200)
def test_sequence(tmp_path):
    if env.sanitizer():
        pytest.skip("a sanitizer's reports would be lost in there")
    env.need_root("a container")
    loop.need_loop_devices()
    env.need_tools("sudo", "useradd", "setpriv", "ninja", "fuse2fs", "ntfscat", "mkntfs", "xfs_db",
                   "mkfs.xfs", "debugfs", "partx")
    _furnish(tmp_path / "upper")
    result = procs.run(*private_root(tmp_path), "bash", "-c", MACHINE.format(path=USER_PATH),
                       limit_s=150, check=False)
    if result.status == 77:
        pytest.skip(f"no container can be had here: {result}")
    assert result.status == 0 and "left:" not in result.text, result.text[-6000:]
