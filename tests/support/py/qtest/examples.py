# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of the manual pages and guides, run verbatim. A block of them is marked by a
comment in the line before:

.\\" files: NAME...              and .Bd -literal ... .Ed in a manual page
<!-- files: NAME... -->          and ```console ... ``` in a guide

It runs in its own directory with these files of the table FILES ("none": with none). Instead of
"files:", "installed:" says that the programs must be installed, "source NAME" that the block is
the text of that file, "goes on" that it continues where the previous one has ended, and "text" (in
a manual page) that it is no example. Lines are

$ COMMAND                        of any user; "# COMMAND" of root
OUTPUT

A command must exit with status 0; the lines up to the next one are its output, "..." being any
text in a line, or any lines; a command without such lines may print anything. A backslash at the
end continues a command. No mount and no loop device may be left at the end."""

import os
import re
from pathlib import Path

import pytest

from . import env, loop, procs, qemu
from .procs import run
from .qcow2 import Qcow2File

DOCS = Path(__file__).resolve().parents[4] / "docs"
MIB = 1 << 20
MDOC = re.compile(r'(?:^\.\\" (files:|installed:|source|goes on|text)(.*)\n)?^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$',
                  re.MULTILINE)
MARKDOWN = re.compile(r"(?:^<!-- (files:|installed:|source|goes on)(.*) -->\n)?^```(\w*)\n((?:.*\n)*?)^```$",
                      re.MULTILINE)
# The shell prints this behind each command, with its status.
END = "@@ends "


# ---- the initial files of examples ----


def _disk(path):
    qemu.create(path, 4 * MIB)
    qemu.write(path, (0, MIB, "noise", 1))


def _raw_disk(path):
    qemu.make_raw(path, 4 * MIB, (0, MIB, "noise", 1))


def _leaky(path):
    """One refcount too high."""
    _disk(path)
    with Qcow2File(path) as file:
        place = file.append_cluster()
        block = int.from_bytes(file.read(file.get("refcount_table_offset"), 8), "big")
        file.write(block + place // file.cluster_size * 2, b"\0\1")


def _damaged(path):
    """The second cluster of the disk lies beyond the end of the file."""
    _disk(path)
    with Qcow2File(path) as file:
        l2 = int.from_bytes(file.read(file.get("l1_table_offset"), 8), "big") & (2 ** 56 - 512)
        file.write(l2 + 8, (1 << 63 | 1 << 40).to_bytes(8, "big"))


def _filesystem(path):
    """An ext4 file system with some files in the first partition, and a snapshot."""
    env.need_tools("sfdisk", "mke2fs")
    work = path.parent.parent / f"{path.name}.work"
    (work / "tree" / "etc").mkdir(parents=True)
    (work / "tree" / "etc" / "hostname").write_text("sample\n")
    disk = qemu.make_raw(work / "disk", 24 * MIB)
    run("sfdisk", "-q", disk, stdin=b"label: gpt\nstart=2048, size=32768, type=L\n")
    run("mke2fs", "-q", "-t", "ext4", "-d", work / "tree", "-E", f"offset={2048 * 512}", disk,
        "16M")
    qemu.img("convert", "-f", "raw", "-O", "qcow2", disk, path)
    qemu.img("snapshot", "-c", "before-upgrade", path)


def _chain(path):
    """An overlay of base.qcow2, which is in ../bases."""
    bases = path.parent.parent / "bases"
    bases.mkdir()
    _disk(bases / "base.qcow2")
    qemu.create(path, 4 * MIB, "../bases/base.qcow2", "qcow2")


def _dirty(kind):
    def make(path):
        work = path.parent.parent / f"{path.name}.work"
        work.mkdir()
        loop.need_loop_devices()
        loop.need_filesystem(kind, {"ext4": "mke2fs", "xfs": "mkfs.xfs"}[kind])
        raw, _ = loop.dirty_copy(work, kind, env.rng(path.name))
        qemu.img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    return make


FILES = {
    "damaged.qcow2": _damaged,
    "dirty-ext4.qcow2": _dirty("ext4"),
    "dirty-xfs.qcow2": _dirty("xfs"),
    "disk.img": _raw_disk,
    "disk.qcow2": _disk,
    "leaky.qcow2": _leaky,
    "moved.qcow2": _chain,
    "system.qcow2": _filesystem,
}

# ---- reading pages ----------------------------------------------------------------------


class Session:
    """Blocks that run one after the other in one shell: steps of (root?, command, output)."""

    def __init__(self, name, files, is_installed):
        self.name, self.files, self.is_installed = name, files, is_installed
        self.sources, self.steps = {}, []

    def add(self, text):
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith(("$ ", "# ")):
                self.steps.append((line[0] == "#", line[2:], []))
            else:
                assert self.steps, f"{self.name}: begins without a command: {line}"
                self.steps[-1][2].append(line)

    def has(self, word):
        return any(re.search(rf"(?<![\w.-]){word}(?![\w.-])", command)
                   for _, command, _ in self.steps)


def _blocks(page):
    """(mark, the rest of its line, text) of each block of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if page.endswith(".md"):
        for mark, rest, language, block in MARKDOWN.findall(text):
            assert mark or language in ("text", "ini"), \
                f"{page}: a block is neither an example nor plain text: {block}"
            if mark:
                yield mark, rest, block
        return
    section = text.partition("\n.Sh EXAMPLES\n")[2].partition("\n.Sh ")[0]
    for mark, rest, block in MDOC.findall(section):
        assert mark, f"{page}: an example is not marked: {block}"
        if mark == "text":
            continue
        # The escapes of mdoc; those in C text stay unchanged.
        yield mark, rest, re.sub(r"\\(.)", lambda m: {"e": "\\", "&": ""}.get(m[1], m[1]), block)


def sessions(pages):
    for page in pages:
        found = []
        sources = {}
        for mark, rest, text in _blocks(page):
            if mark == "source":
                sources[rest.strip()] = text
                continue
            if mark != "goes on":
                found.append(Session(f"{page}-{len(found) + 1}", rest.replace("none", "").split(),
                                     mark == "installed:"))
                found[-1].sources = dict(sources)
            assert found, f"{page}: the first example goes on"
            found[-1].add(text)
        assert found, f"{page}: has no examples"
        yield from found


# ---- running them ----


def _pattern_of(lines):
    """A pattern for outputs like these lines."""
    parts = ["(?:.*\n)*" if line == "..." else
             ".*".join(re.escape(part) for part in line.split("...")) + "\n" for line in lines]
    return "".join(parts)


def _need(session):
    """Skips if the machine lacks a need of the commands."""
    if any(is_root for is_root, _, _ in session.steps):
        env.need_root("commands of root")
    if session.is_installed and not os.path.exists("/usr/bin/qcowfs"):
        pytest.skip("needs an installed qcowfs")
    if session.has("qcowfs"):
        env.need_fuse()
    if session.has("losetup"):
        loop.need_loop_devices()
    env.need_tools(*(tool for tool in ("cc", "pkg-config", "debugfs", "partx", "dumpe2fs")
                     if session.has(tool)))
    if session.has("cc") and env.sanitizer():
        pytest.skip("an ordinary program cannot use a library with a sanitizer")


def _make_programs(folder):
    """The programs that the examples find first in their PATH."""
    folder.mkdir()
    for name, variable in (("qcowfs", "QCOWFS"), ("qimg", "QIMG")):
        if os.environ.get(variable):
            os.symlink(env.program(variable), folder / name)
    write_losetup(folder / "losetup")


def write_losetup(path):
    """A losetup for kernels that are built without any partition table: they get the effect of -P
    elsewhere."""
    real = env.find_tool("losetup")
    path.write_text(f"""#!/bin/sh
case " $* " in
*" -d "*) for last; do :; done; partx -d "$last" >/dev/null 2>&1; exec {real} "$@" ;;
*" -P "*) device=$({real} "$@") || exit; partx -a "$device" >/dev/null 2>&1; echo "$device" ;;
*) exec {real} "$@" ;;
esac
""")
    path.chmod(0o755)


def _environment(programs):
    build = Path(env.qimg()).resolve().parents[1]
    return {"PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PKG_CONFIG_PATH": str(build / "meson-uninstalled"),
            "LD_LIBRARY_PATH": str(build / "lib")}


def _mounts_below(place):
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{place}/")]


def _loop_devices_below(place):
    out = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if file.read_text().startswith(f"{place}/"):
                out.append(f"/dev/{file.parent.parent.name}")
        except OSError:
            pass
    return out


def _clean_up(place):
    """Removes the leftovers of a failed example; returns their description."""
    left = [*reversed(_mounts_below(place)), *_loop_devices_below(place)]
    for one in left:
        if one.startswith("/dev/"):
            run("losetup", "-d", one, check=False)
        else:
            run("umount", "-l", one, check=False)
    return left


def wait_for_servers(before):
    """Servers that were started since, and unmounted, end soon: waits until all children that are
    not in @before have."""
    def ended():
        for pid in procs.children() - before:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        return not procs.children() - before
    procs.wait_until(ended, "the servers to end", 20)


def check(session, directory):
    """Runs a session below @directory and compares its output."""
    _need(session)
    programs, place = directory / "bin", directory / "place"
    _make_programs(programs)
    place.mkdir()
    for name in session.files:
        FILES[name](place / name)
    for name, text in session.sources.items():
        (place / name).write_text(text)
    script = directory / "script"
    script.write_text("".join(f'{command}\nstatus=$?; printf "\\n{END}%s\\n" $status; '
                              f"[ $status = 0 ] || exit 1\n" for _, command, _ in session.steps))
    before = procs.children()
    try:
        result = run("sh", "-c", f"exec 2>&1; . {script}", cwd=place, limit_s=60, check=False,
                     env_add=_environment(programs))
    finally:
        left = _clean_up(place)
        wait_for_servers(before)
    outputs = re.findall(rf"((?:.*\n)*?)\n?{END}(\d+)\n", result.text)
    for (_, command, expected), (printed, status) in zip(session.steps, outputs):
        assert status == "0", f"{command}\nends with status {status} and prints\n{printed}"
        assert not expected or re.fullmatch(_pattern_of(expected), printed), \
            f"{command}\nprints\n{printed}\nand not\n" + "\n".join(expected)
    assert len(outputs) == len(session.steps), f"the shell ended early:\n{result.text}"
    assert not left, f"{session.name} leaves {left}"
