# SPDX-License-Identifier: GPL-2.0-or-later
"""Slips and habits of users: each gets the right cure, in one line; harmless options of other
programs are accepted. Help fits into 80 columns, and no output has a non-breaking space."""

import json
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest

from qtest import env, procs, qemu
from qtest.mount import Daemon, mounts_at
from qtest.private import as_user


def told_by(*argv, cwd=None, **more):
    """The only line of a failure."""
    result = subprocess.run([os.fspath(a) for a in argv], cwd=cwd, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, **more)
    line = result.stderr.decode()
    assert result.returncode == 1 and line.count("\n") == 1, line
    return line


@pytest.mark.parametrize("option", [
    "nonempty", "kernel_cache", "auto_cache", "big_writes", "large_read", "hard_remove", "use_ino",
    "noexec", "lazytime", "intr", "defaults"])
def test_harmless_option(option, disk, mnt):
    with Daemon(disk, mnt, "-o", option):
        pass


@pytest.mark.parametrize("option, access", [("-r", "ro"), ("-w", "rw")])
def test_letters_of_mount(option, access, disk, mnt):
    with Daemon(disk, mnt, option):
        assert access in mounts_at(mnt)[0][3].split(",")


@pytest.mark.parametrize("options, answer", [
    (["-o", "readonly"], "-o readonly: unknown option (give -o ro)"),
    (["--read-only"], "--read-only: unknown option (give -o ro)"),
    (["-o", "loop"], "which mount -o loop then mounts"),
    (["-o", "offset=512"], "DISK.partitions/N.raw"),
    (["-o", "alow_other"], "is -o allow_other meant?"),
    (["-o", "backing-map=a=b"], "is -o backing_map meant?"),
    (["--formt=raw"], "is --format meant?"),
    (["-o", "x" * 5000], "unknown option (see qcowfs --help)"),
    (["-o", "="], "unknown option (see qcowfs --help)"),
])
def test_near_option(options, answer, disk, mnt):
    assert answer in told_by(env.qcowfs(), *options, disk, mnt)


@pytest.mark.parametrize("argv, answer", [
    (["convert", "x"], "qimg copy-out"), (["rebase", "x"], "-b FILE -F FORMAT"),
    (["nonsense"], "no such subcommand (see qimg --help)"),
    (["map", "-O", "raw", "x"], "qemu-img convert"),
    (["info", "--json", "x"], "--output=json"),
    (["info", "--nonsense", "x"], "(see qimg info --help)"),
])
def test_habits_of_qemu_img(argv, answer):
    assert answer in told_by(env.qimg(), *argv)


def test_help_and_chain(tmp_path):
    """As a script of qemu-img asks."""
    for argv, other in ((["help"], ["--help"]), (["help", "map"], ["map", "--help"])):
        assert procs.run(env.qimg(), *argv).text == procs.run(env.qimg(), *other).text
    qemu.create(tmp_path / "base.qcow2", 1 << 20)
    top = qemu.create(tmp_path / "top.qcow2", None, "base.qcow2")
    argv = ["info", "-U", "-f", "qcow2", "--backing-chain", "--output=json", top.name]
    for program in (env.qimg(), "qemu-img"):
        chain = json.loads(procs.run(program, *argv, cwd=tmp_path).text)
        assert [one["format"] for one in chain] == ["qcow2", "qcow2"]
        assert chain[0]["backing-filename"] == "base.qcow2"


@pytest.mark.parametrize("options", [[], ["-o", "rw"], ["-o", "cow"]])
def test_mounted_already(options, disk, mnt):
    with Daemon(disk, mnt, *options):
        line = told_by(env.qcowfs(), *options, disk, mnt)
        assert f"{disk} is mounted there already (unmount it with fusermount3 -u)" in line
        assert len(mounts_at(mnt)) == 1


@pytest.mark.parametrize("image, mountpoint, answer", [
    ("mnt", "disk", "the mountpoint comes last: qcowfs IMAGE MOUNTPOINT"),
    ("disk", "missing", "make the directory first"),
    ("disk", "disk/x", "a part of the path is a file"),
])
def test_swapped_or_missing(image, mountpoint, answer, disk, mnt):
    mnt.mkdir(exist_ok=True)
    (mnt.parent / "disk").write_bytes(disk.read_bytes())
    assert answer in told_by(env.qcowfs(), image, mountpoint, cwd=mnt.parent)


@pytest.mark.parametrize("n_files", [5, 8])
def test_too_many_open_files(n_files, disk, mnt):
    """Of the image, and of the mount."""
    mnt.mkdir(exist_ok=True)
    limit = (n_files, n_files)
    line = told_by(env.qcowfs(), disk, mnt,
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))
    assert "Too many open files (raise the limit of open files, ulimit -n)" in line


@pytest.mark.parametrize("argv, answer", [
    (["qcowfs", "-o", "rw", "{media}/disk.qcow2", "mnt"], "leave out -o rw, write to an overlay"),
    (["qcowfs", "-o", "cow={media}/new", "{media}/disk.qcow2", "mnt"], "name a place on another"),
    (["qimg", "resize", "{media}/disk.qcow2", "+1M"], "or copy it elsewhere"),
    (["qimg", "create", "{media}/new", "1M"], "name a place on another one"),
    (["qimg", "copy-out", "{media}/disk.qcow2", "{media}/new"], "name a place on another one"),
])
def test_read_only_media(argv, answer, tmp_path):
    env.need_root("a mount")
    media = tmp_path / "media"
    media.mkdir()
    (tmp_path / "mnt").mkdir()
    procs.run("mount", "-t", "tmpfs", "none", media)
    try:
        qemu.create(media / "disk.qcow2", 1 << 20)
        procs.run("mount", "-o", "remount,ro", media)
        program = env.qcowfs() if argv[0] == "qcowfs" else env.qimg()
        line = told_by(program, *(word.format(media=media) for word in argv[1:]), cwd=tmp_path)
        assert "Read-only file system (" in line and answer in line
    finally:
        procs.run("umount", media)


@pytest.mark.parametrize("image, mountpoint, answer", [
    ("closed/disk.qcow2", "mnt", "check the permissions of the directories above it"),
    ("disk.qcow2", "closed/x", "name a directory of your own"),
])
def test_closed_directory(image, mountpoint, answer, tmp_path):
    """As an ordinary user meets /root/x."""
    user = as_user()
    qemu.create(tmp_path / "disk.qcow2", 1 << 20)
    for name, mode in (("closed", 0o700), ("mnt", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    assert answer in told_by(*user, env.qcowfs(), image, mountpoint, cwd=tmp_path)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_overlay_follows_the_umask(mask, mode, disk, mnt, tmp_path):
    old = os.umask(mask)
    try:
        with Daemon(disk, mnt, "-o", f"cow={tmp_path}/try.qcow2"):
            pass
    finally:
        os.umask(old)
    assert (tmp_path / "try.qcow2").stat().st_mode & 0o777 == mode


def test_help_fits():
    commands = ["bitmap", "check", "copy-out", "create", "info", "map", "resize", "snapshot"]
    for argv in ([env.qcowfs()], [env.qimg()], *([env.qimg(), name] for name in commands)):
        text = procs.run(*argv, "--help").text
        assert [line for line in text.splitlines() if len(line) > 80] == [], argv


def test_no_other_spaces(disk, tmp_path):
    for argv in (["info"], ["check"], ["copy-out"], ["create"], ["snapshot", "list"]):
        last = [tmp_path / "new.raw"] if argv[0] == "copy-out" else []
        first = [tmp_path / "new.qcow2", "1G"] if argv[0] == "create" else [disk]
        result = procs.run(env.qimg(), *argv, *first, *last)
        assert "\u00a0" not in result.text + result.errors


def test_plural(tmp_path):
    """One finding is a singular."""
    image = qemu.create(tmp_path / "disk.qcow2", 1 << 20)
    os.truncate(image, 6 * 65536)
    with open(image, "r+b") as file:
        file.seek(2 * 65536 + 2 * 5)        # the refcount of the last cluster
        file.write(b"\0\1")
    result = procs.run(env.qimg(), "check", image, check=False)
    assert "1 leaked cluster: space" in result.text, result


def test_readme_runs_when_pasted():
    """sudo does not have the PATH of a build, nor has a user /sbin; what is set up is taken down."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        assert not re.search(r"sudo (qcowfs|qimg)\b", block), block
        assert not re.search(r"^(debugfs|xfs_db|losetup)\b", block, re.M), block
        assert block.count("losetup -P") == block.count("losetup -d"), block
