# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 in the middle of a change by qimg: at a system call that changes the file, chosen by a
seed. The image stays usable, and nothing in it is lost."""

import re
import shutil
import struct

import pytest
from qtest import env, pattern, procs, qemu
from qtest.qcow2 import COPIED, Qcow2File

MIB = 1 << 20
SIZE = 4 * MIB
N_KILLS = 4
CHANGES = "pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate,ftruncate"


@pytest.fixture(autouse=True)
def needs():
    env.need_tools("qemu-img", "qemu-io", "strace")
    if env.sanitizer():
        pytest.skip("leaks cannot be looked for under ptrace")


def traced(options, log, *argv):
    return procs.run("strace", "-f", "-qq", "-o", log, *options, env.qimg(), *argv, check=False)


def kill_points(log, calls=CHANGES):
    """Each call that changes the file: its name, and its number among those of that name."""
    seen, points = {}, []
    for name in re.findall(r"(?m)^\d+ +(%s)\(" % calls.replace(",", "|"), log.read_text()):
        seen[name] = seen.get(name, 0) + 1
        points.append((name, seen[name]))
    return points


def kills(folder, image, rng, *argv):
    """Runs qimg @argv, with a copy of @image in place of None, once to its end to record its
    calls, and then kills it on one copy after the other."""
    log, copy = folder / "log", folder / "copy.qcow2"
    command = [copy if arg is None else arg for arg in argv]
    trace = ["-e", f"trace={CHANGES}"]
    shutil.copy(image, copy)
    result = traced(trace, log, *command)
    points = kill_points(log)
    assert len(points) > 3, str(result)
    for number in sorted(rng.sample(range(len(points)), min(N_KILLS, len(points)))):
        name, when = points[number]
        shutil.copy(image, copy)
        traced([*trace, "-e", f"inject={name}:signal=KILL:when={when}"], log, *command)
        assert "killed by SIGKILL" in log.read_text()
        yield copy, f"killed at change {number} of {len(points)}, {name}"


def make(folder, **options):
    """A disk with two snapshots, and the content of all three."""
    image = qemu.create(folder / "disk.qcow2", SIZE, **options)
    qemu.write(image, (0, 3 * MIB, "words", 1))
    qemu.img("snapshot", "-c", "one", image)
    qemu.write(image, (MIB, MIB, "words", 2))
    qemu.img("snapshot", "-c", "two", image)
    qemu.write(image, (MIB + 65536, 300_000, "words", 3), (3 * MIB, 4096, "words", 4))
    return image, contents(folder, image, ["one", "two"])


def contents(folder, image, snapshots):
    return {name: qemu.to_raw(image, folder / "raw", snapshot=name).read_bytes()
            for name in [None, *snapshots]}


def names(image):
    text = qemu.img("snapshot", "-l", image).text
    return [line.split()[1] for line in text.splitlines()[2:]]


KINDS = {"v3": {"cluster_size": 4096}, "v3-512": {"cluster_size": 512, "refcount_bits": 64},
         "v2": {"cluster_size": 4096, "compat": "0.10"},
         "el2": {"cluster_size": 16384, "extended_l2": "on"}}


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["create", "delete", "rename", "revert"])
def test_snapshot(verb, kind, tmp_path, rng):
    image, before = make(tmp_path, **KINDS[kind])
    operands = {"create": ["three"], "delete": ["one"], "rename": ["one", "uno"],
                "revert": ["one"]}[verb]
    for copy, where in kills(tmp_path, image, rng, "snapshot", verb, None, *operands):
        # The next change repairs as needed; the last allocations may be leaked.
        procs.run(env.qimg(), "snapshot", "create", copy, "later")
        if kind != "v2":
            assert qemu.img("check", "-q", copy, check=False).status in (0, 3), where
        left = names(copy)
        assert left.pop() == "later"
        assert left in (["one", "two"],
                        {"create": ["one", "two", "three"], "delete": ["two"],
                         "rename": ["uno", "two"], "revert": ["one", "two"]}[verb]), where
        after = contents(tmp_path, copy, left)
        disk = after.pop(None)
        assert disk in ([before[None], before["one"]] if verb == "revert" else [before[None]]), \
            where
        for name, content in after.items():
            old = {"uno": "one", "three": None}.get(name, name)
            pattern.assert_same(content, before[old], f"{where}: {name}")


def ruin(image, how):
    with Qcow2File(image) as file:
        table = file.get("refcount_table_offset")
        block = struct.unpack(">Q", file.read(table, 8))[0]
        if how == "table":
            file.write(table, struct.pack(">Q", block + 512))   # no block begins there
        elif how == "counts":
            for cluster in range(6, 60):
                file.write(block + 2 * cluster, struct.pack(">H", cluster % 4))
        elif how == "flags":
            for guest in range(0, MIB, file.cluster_size):
                entry = file.l2_entry(guest)
                file.set_l2_entry(guest, (entry[0] if isinstance(entry, tuple) else entry) ^ COPIED)


@pytest.mark.limit(120)
@pytest.mark.parametrize("how", ["table", "counts", "flags"])
def test_repair(how, tmp_path, rng):
    """Interrupted and repeated, a repair has the same result as an uninterrupted one."""
    image, before = make(tmp_path, cluster_size=4096)
    ruin(image, how)
    assert qemu.img("check", "-q", image, check=False).status in (1, 2)
    for copy, where in kills(tmp_path, image, rng, "check", "-q", "-r", "all", None):
        result = procs.run(env.qimg(), "check", "-r", "all", copy, check=False)
        assert result.status == 0, f"{where}\n{result}"
        qemu.img("check", "-q", copy)
        after = contents(tmp_path, copy, ["one", "two"])
        for name, content in after.items():
            pattern.assert_same(content, before[name], f"{where}: {name}")


STEPS = CHANGES + ",unlinkat,renameat,renameat2,fchmod,syncfs"


@pytest.mark.limit(240)
@pytest.mark.parametrize("is_old", [False, True], ids=["new", "replaces"])
def test_copy_out(is_old, tmp_path):
    """Killed at each step that changes a file, a copy is resumed to the right end; until then the
    file to be replaced is as it was."""
    image = qemu.create(tmp_path / "disk.qcow2", SIZE)
    qemu.write(image, (0, 3 * MIB, "words", 1))
    wanted = qemu.to_raw(image, tmp_path / "wanted").read_bytes()
    folder, log = tmp_path / "copies", tmp_path / "log"
    out = folder / "out.raw"
    trace = ["-e", f"trace={STEPS}"]

    def begin():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if is_old:
            out.write_bytes(b"precious")

    command = ["copy-out", "--threads=1", *(["--force"] if is_old else []), image, out]
    begin()
    traced(trace, log, *command)
    points = kill_points(log, STEPS)
    assert out.read_bytes() == wanted and len(points) > 8
    for number, (name, when) in enumerate(points):
        where = f"killed at step {number} of {len(points)}, {name}"
        begin()
        traced([*trace, "-e", f"inject={name}:signal=KILL:when={when}"], log, *command)
        assert "killed by SIGKILL" in log.read_text(), where
        if is_old:
            assert out.read_bytes() in (b"precious", wanted), where
        result = procs.run(env.qimg(), "copy-out", "--resume", "--hash=md5", image, out, check=False)
        if result.status != 0:      # it had not begun, or was complete already
            assert is_old or out.read_bytes() == wanted, f"{where}\n{result}"
            assert "has no journal" in result.errors, f"{where}\n{result}"
            procs.run(env.qimg(), "copy-out", "--force", image, out)
        assert out.read_bytes() == wanted, where
        assert [path.name for path in folder.iterdir()] == ["out.raw"], where
