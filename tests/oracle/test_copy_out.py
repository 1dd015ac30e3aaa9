# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg copy-out: the copy equals QEMU's read, for all ways to make, interrupt and resume it;
digests equal those of coreutils; forbidden targets are not written to."""

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from qtest import env, pattern, qemu
from qtest.evidence import Unchanged, file_digest
from qtest.procs import is_running, run, sanitizer_report, wait_until
from qtest.qcow2 import COMPRESSED, Qcow2File
from qtest.recipes import compressible, default_size, sprinkle
from qtest.writing import allocated_bytes, small_tmpfs

KIB, MIB = 1 << 10, 1 << 20


def copy_out(*argv, check=True, **kwargs):
    return run(env.qimg(), "copy-out", *argv, check=check, **kwargs)


def refused(*argv, **kwargs):
    """The one line printed by a refusal."""
    result = copy_out(*argv, check=False, **kwargs)
    assert result.status == 1 and not result.stdout, result
    lines = result.errors.splitlines()
    assert len(lines) == 1, result
    return lines[0]


def journal_of(target):
    return target.with_name(target.name + ".qimg-resume")


def part_of(target):
    return target.with_name(target.name + ".qimg-part")


def last_state(target):
    """The last line of the journal; None: it has only the header."""
    lines = journal_of(target).read_text().splitlines()
    return json.loads(lines[-1].rpartition(" ")[0]) if len(lines) > 1 else None


def assert_same_file(got, wanted):
    """Compares without reading the common holes."""
    assert got.stat().st_size == wanted.stat().st_size
    run("cmp", got, wanted)


# ---- images of every kind ----------------------------------------------------------------

def _sprinkled(folder, rng, cluster=65536, backing=None, compressed=False, size=None, **options):
    size = size or default_size(cluster)
    if backing:
        qemu.make_raw(folder / "base.img", size - 1000, (0, size // 2, "words", 60))
    image = qemu.create(folder / "disk.qcow2", size, "base.img" if backing else None,
                        "raw" if backing else None, cluster_size=cluster, **options)
    sprinkle(image, size, cluster, rng, compressed=compressed)
    return image


def _converted(folder, rng, cluster, method, size=3 * MIB + 512):
    source = compressible(folder / "source.tmp", size, cluster, rng)
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
             f"cluster_size={cluster},compression_type={method}", source.name, "disk.qcow2",
             cwd=folder)
    source.unlink()
    return folder / "disk.qcow2"


def _chain(folder, rng):
    """Four layers of different cluster sizes, one compressed, the last raw and short."""
    qemu.make_raw(folder / "base.img", MIB - 700, (0, MIB // 2, "words", 1))
    below, fmt = "base.img", "raw"
    for number, cluster in enumerate((4096, 65536, 512)):
        image = qemu.create(folder / f"disk{number}.qcow2", 2 * MIB + 1024, below, fmt,
                            cluster_size=cluster)
        sprinkle(image, 2 * MIB + 1024, cluster, rng, number + 2, compressed=number == 1)
        below, fmt = image.name, "qcow2"
    return image


def _data_file(folder, rng):
    return _sprinkled(folder, rng, data_file="disk.data")


def _raw(folder, rng):
    return qemu.make_raw(folder / "disk.img", 3 * MIB + 123, (0, 5000, "words", 3),
                         (MIB - 1, 2, "words", 4), (3 * MIB + 100, 23, "noise", 5))


def _zeros(folder, rng):
    """Data that are all zeros."""
    image = qemu.create(folder / "disk.qcow2", 4 * MIB)
    qemu.io(image, "write -P 0 0 2M", "write -P 1 2559k 1k")
    return image


def _no_bytes(folder, rng):
    return qemu.create(folder / "disk.qcow2", 0)


KINDS = {
    **{f"cs{c}": lambda f, r, c=c: _sprinkled(f, r, c) for c in (512, 4096, 65536)},
    "el2": lambda f, r: _sprinkled(f, r, extended_l2="on"),
    "v2": lambda f, r: _sprinkled(f, r, compat="0.10"),
    "backing": lambda f, r: _sprinkled(f, r, backing=True),
    "among-compressed": lambda f, r: _sprinkled(f, r, backing=True, compressed=True),
    "metadata": lambda f, r: _sprinkled(f, r, preallocation="metadata"),
    **{f"{m}-cs{c}": lambda f, r, m=m, c=c: _converted(f, r, c, m)
       for m, c in (("zlib", 512), ("zlib", 65536), ("zlib", 2 * MIB), ("zstd", 65536))},
    "chain": _chain,
    "data-file": _data_file,
    "raw": _raw,
    "zeros": _zeros,
    "no-bytes": _no_bytes,
}


def expectation(image, out):
    """QEMU rounds raw disks up to sectors; the promise is the exact file."""
    if image.suffix == ".img":
        shutil.copyfile(image, out)
        return out
    return qemu.to_raw(image, out)


def chain_files(image):
    """The files of the chain in our order: data files behind their images."""
    files = []
    if image.suffix == ".img":
        return [image]
    info = json.loads(qemu.img("info", "--output=json", "--backing-chain", image.name,
                               cwd=image.parent).stdout)
    for layer in info:
        files.append(image.parent / layer["filename"])
        data = layer.get("format-specific", {}).get("data", {}).get("data-file")
        if data:
            files.append(image.parent / data)
    return files


def data_granules(path):
    content = path.read_bytes()
    return sum(len(content[at:at + 4096]) for at in range(0, len(content), 4096)
               if any(content[at:at + 4096]))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, tmp_path, rng):
    folder = tmp_path / "images"
    folder.mkdir()
    image = KINDS[kind](folder, rng)
    wanted = expectation(image, tmp_path / "wanted")
    out = tmp_path / "out.raw"
    with Unchanged(folder):
        result = copy_out("--hash=sha256,md5", "--hash=sha1", "-o", "backing=same-dir", image, out)
    assert_same_file(out, wanted)
    assert allocated_bytes(out) <= -(-data_granules(wanted) // 4096) * 4096
    assert not journal_of(out).exists()
    lines = result.text.splitlines()
    for at, file in enumerate([out, *chain_files(image)]):
        for number, name in enumerate(("md5", "sha1", "sha256")):
            digest = hashlib.new(name, file.read_bytes()).hexdigest()
            line = lines[3 * at + number]
            assert line.startswith(f"{name.upper()} (") and line.endswith(f"{file.name}) = {digest}")
    assert len(lines) == 3 * (1 + len(chain_files(image)))
    assert re.fullmatch(r"copied .*, .* of data, in [0-9.]+ s, .*/s\n", result.errors), result
    sums = tmp_path / "sums"
    sums.write_text("".join(f"{line}\n" for line in lines if line.startswith("SHA256")))
    run("sha256sum", "-c", "--strict", sums, cwd=tmp_path)

    result = copy_out("--output=json", "--hash=sha256", "--no-hash-files", "--sparse=no",
                      "--threads=1", "--force", image, out)
    assert_same_file(out, wanted)
    assert allocated_bytes(out) >= wanted.stat().st_size // 4096 * 4096
    facts = json.loads(result.stdout)
    assert facts["bytes"] == wanted.stat().st_size and facts["files"] == []
    assert facts["data-bytes"] == data_granules(wanted) and facts["unreadable"] == []
    assert facts["digests"] == {"sha256": file_digest(wanted)}


def test_threads(tmp_path, rng):
    """Many threads, digests and a stream at once."""
    image = _chain(tmp_path, rng)
    wanted = file_digest(expectation(image, tmp_path / "wanted"))
    for n_threads in (1, 2, 7, 300):
        copy_out("--hash=md5,sha1,sha256", f"--threads={n_threads}", "--force", image,
                 tmp_path / "out.raw")
        assert file_digest(tmp_path / "out.raw") == wanted
        result = copy_out("--hash=sha256", f"--threads={n_threads}", image, "-")
        assert hashlib.sha256(result.stdout).hexdigest() == wanted
        assert f"SHA256 (-) = {wanted}\n" in result.errors


def test_stdout_json(tmp_path, rng):
    image = _sprinkled(tmp_path, rng)
    result = copy_out("--hash=md5", "--output=json", image, "-")
    wanted = qemu.to_raw(image, tmp_path / "wanted").read_bytes()
    assert result.stdout == wanted
    facts = json.loads(result.stderr)
    assert facts["digests"] == {"md5": hashlib.md5(wanted).hexdigest()}


def test_empty_tebibyte(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", 1 << 40)
    copy_out(image, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").stat().st_size == 1 << 40
    assert allocated_bytes(tmp_path / "out.raw") == 0


@pytest.mark.parametrize("name", [b"a\x1b[31m\n.qcow2", b"a\\b\r.qcow2", b"\xff\xa0.qcow2"])
def test_odd_names(name, tmp_path, rng):
    """sha256sum -c finds the files; a terminal gets no control characters; no name is taken for
    an option."""
    image = _sprinkled(tmp_path, rng).rename(tmp_path / os.fsdecode(name))
    result = copy_out("--hash=sha256", "--", image.name, "-out", cwd=tmp_path)
    assert result.text.startswith("SHA256 (-out) = ")
    (tmp_path / "sums").write_bytes(result.stdout)
    run("sha256sum", "-c", "--strict", "sums", cwd=tmp_path)
    ours, theirs = pty.openpty()
    process = subprocess.run([env.qimg(), "copy-out", "--hash=sha256", "--force", image, "out"],
                             cwd=tmp_path, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    assert process.returncode == 0
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        shown = terminal.read(4096)
    assert b"\x1b" not in shown and b"\xff" not in shown and b"SHA256 (" in shown


def test_progress(tmp_path, rng):
    """A line on a terminal, removed at the end; none in a pipe."""
    image = _sprinkled(tmp_path, rng)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([env.qimg(), "copy-out", image, tmp_path / "out.raw"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):      # EIO is a terminal's end
        while chunk := os.read(ours, 4096):
            text += chunk
    os.close(ours)
    assert process.communicate()[0] == b"" and process.returncode == 0
    shown = text.decode()
    assert "\xa0" not in shown
    assert re.match(r"\rcopied: +[0-9.]+ %, .* of 1.0 MiB\x1b\[K.*\r\x1b\[Kcopied 1.0 MiB, ",
                    shown, re.S), shown


# ---- snapshots and layers ----------------------------------------------------------------

@pytest.fixture
def with_snapshots(tmp_path):
    image = qemu.create(tmp_path / "disk.qcow2", 4 * MIB)
    for number, name in enumerate(("first", "second", "third")):
        qemu.write(image, (number * MIB + 300 * KIB, 300 * KIB, "noise", number))
        qemu.img("snapshot", "-c", name, image)
    qemu.write(image, (0, 4 * MIB, "words", 9))
    return image


def test_snapshots(with_snapshots, tmp_path):
    image, out = with_snapshots, tmp_path / "out.raw"
    names = ("first", "second", "third")
    wanted = [qemu.to_raw(image, tmp_path / name, snapshot=name) for name in names]
    with Unchanged(image):
        for number, name in enumerate(names):
            for which in (name, str(number + 1)):
                copy_out("--force", f"--snapshot={which}", image, out)
                assert_same_file(out, wanted[number])
        line = refused("--force", "--snapshot=fourth", image, out)
    assert line == f'qimg: {image}: no snapshot has the name or ID "fourth" (see qimg snapshot list)'


def test_ambiguous_snapshots(with_snapshots, tmp_path):
    image, out = with_snapshots, tmp_path / "out.raw"
    with Qcow2File(image) as file:
        entries = file.snapshots()
        entries[0]["name"] = entries[1]["name"] = b"same"
        entries[2]["name"] = b"1"
        file.write_snapshots(entries)
    assert refused("--snapshot=same", image, out) == \
        (f'qimg: {image}: "same" is the name or ID of several snapshots (give another ID of 1, 2, '
         'or rename one by it first)')
    assert refused("--snapshot=1", image, out) == \
        (f'qimg: {image}: "1" is the name or ID of several snapshots (give another ID of 1, 3, '
         'or rename one by it first)')
    copy_out("--snapshot=2", image, out)
    qemu.img("snapshot", "-a", "2", image)
    assert_same_file(out, qemu.to_raw(image, tmp_path / "wanted"))


def test_vmstate(with_snapshots, tmp_path):
    """The state begins behind the disk, at the next border of an L2 table: here it is data written
    before the disk was declared smaller."""
    image, out = tmp_path / "state.qcow2", tmp_path / "out.bin"
    qemu.create(image, 4 * MIB, cluster_size=4096)      # a table maps 2 MiB
    qemu.write(image, (2 * MIB, MIB, "words", 3), (3 * MIB, 100 * KIB, "noise", 4))
    qemu.img("snapshot", "-c", "running", image)
    wanted = qemu.to_raw(image, tmp_path / "wanted").read_bytes()[2 * MIB:][:1_200_001]
    with Qcow2File(image) as file:
        entries = file.snapshots()
        entries[0].update(disk_size=2 * MIB, vm_state=1_200_001)
        file.write_snapshots(entries)
    copy_out("--snapshot=running", "--vmstate", "--hash=md5", image, out)
    pattern.assert_same(out.read_bytes(), wanted, "the VM state")
    assert "has no VM state" in refused("--vmstate", "--snapshot=first", with_snapshots,
                                        tmp_path / "other")


def test_layers(tmp_path, rng):
    image, out = _chain(tmp_path, rng), tmp_path / "out.raw"
    for depth, layer in enumerate(chain_files(image)):
        result = copy_out("--force", f"--layer={depth}", "--hash=md5", image, out)
        assert_same_file(out, expectation(layer, tmp_path / "wanted"))
        assert len(result.text.splitlines()) == 1 + 4 - depth
    assert refused("--layer=4", image, out) == f"qimg: {image}: there is no layer 4"


# ---- damage ------------------------------------------------------------------------------

def damage(image, *clusters):
    """Makes the L2 entries of these clusters point nowhere; returns their reason."""
    with Qcow2File(image) as file:
        for cluster in clusters:
            file.set_l2_entry(cluster * file.cluster_size, 1 << 45 | 1 << 63)


def with_zeros(path, *ranges):
    content = bytearray(path.read_bytes())
    for start, length in ranges:
        content[start:start + length] = bytes(length)
    return bytes(content)


def test_damage(tmp_path):
    """Each bad range is reported exactly, and everything else is there."""
    image, out, log = (tmp_path / name for name in ("disk.qcow2", "out.raw", "bad.log"))
    qemu.create(image, 6 * MIB)
    qemu.write(image, (0, 6 * MIB, "words", 1))
    wanted = qemu.to_raw(image, tmp_path / "whole")
    damage(image, 0, 15, 16, 40, 95)
    ranges = [(0, 64 * KIB), (15 * 64 * KIB, 128 * KIB), (40 * 64 * KIB, 64 * KIB),
              (95 * 64 * KIB, 64 * KIB)]
    with Unchanged(image):
        for extra in ([], ["--hash=sha256"]):
            result = copy_out("--rescue", f"--log={log}", "--output=json", "--force", *extra,
                              image, out, check=False)
            assert result.status == 2, result
            pattern.assert_same(out.read_bytes(), with_zeros(wanted, *ranges), "rescued copy")
            facts = json.loads(result.stdout)
            assert [(r["start"], r["length"]) for r in facts["unreadable"]] == ranges
            assert len({r["reason"] for r in facts["unreadable"]}) == 1
            assert log.read_text() == "".join(
                f"{start} {length} {facts['unreadable'][0]['reason']}\n" for start, length in ranges)
            assert facts["unreadable-ranges"] == 4 and facts["unreadable-bytes"] == 320 * KIB
            assert result.errors == (f"qimg: {image}: 327680 bytes in 4 ranges cannot be read "
                                     "and are zeros in the copy\n")
        assert facts["digests"]["sha256"] == file_digest(out)
        # Nothing of the first chunk could be read: no file is left behind.
        out.unlink()
        line = refused(image, out)
    assert line == (f"qimg: {image}: cannot read offset 0 of the disk: "
                    f"{facts['unreadable'][0]['reason']} (with --rescue the copy has zeros there, "
                    "and goes on)")
    assert not out.exists() and not journal_of(out).exists()


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_damaged_streams(method, tmp_path):
    """Compressed clusters are lost whole, their neighbours are not."""
    image, out, log = (tmp_path / name for name in ("disk.qcow2", "out.raw", "bad.log"))
    source = qemu.make_raw(tmp_path / "whole", 2 * MIB, (0, 2 * MIB, "words", 1))
    qemu.img("convert", "-c", "-O", "qcow2", "-o", f"compression_type={method}", source, image)
    with Qcow2File(image) as file:
        for cluster in (3, 31):
            assert file.l2_entry(cluster << 16) & COMPRESSED
            host, _ = file.compressed_at(cluster << 16)
            file.write(host, b"\xff" * 100)
    result = copy_out("--rescue", f"--log={log}", image, out, check=False)
    assert result.status == 2, result
    ranges = [(3 << 16, 1 << 16), (31 << 16, 1 << 16)]
    assert [tuple(map(int, line.split()[:2])) for line in log.read_text().splitlines()] == ranges
    pattern.assert_same(out.read_bytes(), with_zeros(source, *ranges), "rescued copy")
    assert "cannot read offset 196608 of the disk: " in refused("--force", image, out)


def test_damaged_tables(tmp_path):
    """An L2 table outside the file: everything that it maps is one range."""
    image, out, log = (tmp_path / name for name in ("disk.qcow2", "out.raw", "bad.log"))
    qemu.create(image, 10 * MIB, cluster_size=4096)     # a table maps 2 MiB
    qemu.write(image, (0, 10 * MIB, "words", 1))
    wanted = qemu.to_raw(image, tmp_path / "whole")
    with Qcow2File(image) as file:
        file.set_l1_entry(4 * MIB, 1 << 45 | 1 << 63)
    result = copy_out("--rescue", f"--log={log}", image, out, check=False)
    assert result.status == 2, result
    assert log.read_text().startswith(f"{4 * MIB} {2 * MIB} ")
    assert log.read_text().count("\n") == 1
    pattern.assert_same(out.read_bytes(), with_zeros(wanted, (4 * MIB, 2 * MIB)), "rescued copy")


# ---- interrupted copies ------------------------------------------------------------------

@pytest.fixture
def interrupted(tmp_path):
    """(image, target, content): a copy that ended at a damaged cluster at 5 MiB, which is sound
    again (with its former times)."""
    image, out = tmp_path / "disk.qcow2", tmp_path / "out.raw"
    qemu.create(image, 8 * MIB)
    qemu.write(image, (0, 8 * MIB, "words", 1))
    wanted = qemu.to_raw(image, tmp_path / "wanted")
    with Qcow2File(image) as file:
        entry = file.l2_entry(5 * MIB)
        damage(image, 5 * MIB >> 16)
        times = os.stat(image)
        line = refused(image, out)
        assert line.endswith("; 5242880 of 8388608 bytes are copied, --resume goes on")
        file.set_l2_entry(5 * MIB, entry)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert out.stat().st_size == 8 * MIB and journal_of(out).exists()
    return image, out, wanted


@pytest.mark.parametrize("hashed", [False, True], ids=["plain", "hashed"])
def test_resume(interrupted, hashed):
    image, out, wanted = interrupted
    with open(out, "r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 4096, 7 * MIB)   # a machine may leave this behind it
        result = copy_out("--resume", "--output=json", *(["--hash=md5"] if hashed else []), image, out)
    assert_same_file(out, wanted)
    facts = json.loads(result.stdout)
    assert facts["resumed-bytes"] == 5 * MIB and facts["data-bytes"] == data_granules(wanted)
    if hashed:
        assert facts["digests"]["md5"] == hashlib.md5(wanted.read_bytes()).hexdigest()
    assert not journal_of(out).exists()


def test_resume_refusals(interrupted, tmp_path):
    image, out, wanted = interrupted
    before = file_digest(out)
    facts = os.stat(image)
    assert refused(image, out) == (
        f"qimg: {out}: holds a copy that was interrupted (go on with --resume, or start again "
        "with --force)")
    assert refused("--resume", "--force", image, out) == "qimg: give one of --force and --resume"
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert refused("--resume", image, out) == (
        f'qimg: {out}: the copy cannot go on: "{image}" has changed since (start again with '
        "--force)")
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other = shutil.copy2(image, tmp_path / "other.qcow2")
    assert refused("--resume", other, out) == (
        f'qimg: {out}: the copy cannot go on: it was begun with "{image}", not with "{other}" '
        "(start again with --force)")
    assert file_digest(out) == before
    copy_out("--force", image, out)
    assert_same_file(out, wanted)
    assert not journal_of(out).exists()
    assert refused("--resume", image, out) == (
        f"qimg: {out}: exists, and has no journal of a copy that could go on: it is complete, or "
        "something else (start again with --force)")
    out.unlink()
    copy_out("--resume", image, out)
    assert_same_file(out, wanted)


def test_resume_other_source(with_snapshots, tmp_path):
    """A snapshot is not the disk, though the files are the same."""
    image, out = with_snapshots, tmp_path / "out.raw"
    damage(image, 50)
    assert "cannot read offset 3276800 " in refused(image, out)
    assert refused("--resume", "--snapshot=1", image, out) == (
        f'qimg: {out}: the copy cannot go on: it was begun with "disk" (start again with --force)')


def _wide_image(folder):
    """64 KiB in each 4 MiB of a disk of 512 MiB: states are stored along the way."""
    source = folder / "source.img"
    with open(source, "wb") as file:
        file.truncate(512 * MIB)
        for number in range(127):
            file.seek(number * (4 * MIB + 4 * KIB))
            file.write(pattern.words(0, 64 * KIB, number))
    image = folder / "disk.qcow2"
    qemu.img("convert", "-O", "qcow2", source, image)
    return image, source


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_killed(fatal, tmp_path, rng):
    """Ended at any moment and resumed, repeatedly, the copy is correct."""
    image, source = _wide_image(tmp_path)
    out, log, total = tmp_path / "out.raw", tmp_path / "messages", allocated_bytes(source)
    # A separate process searches for leaks, and would outlive a killed one.
    calm = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0")
    n_ended = 0
    for _ in range(5):
        present = allocated_bytes(out) if out.exists() else 0
        threshold = rng.randrange(present, max(present, total) + 1)
        with open(log, "wb") as messages:
            process = subprocess.Popen([env.qimg(), "copy-out", "--resume", image, out],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=messages, env=calm)
            while process.poll() is None:
                with contextlib.suppress(FileNotFoundError):
                    if allocated_bytes(out) > threshold:
                        process.send_signal(fatal)
                        break
            process.wait(60 * env.slow())
        text = log.read_text()
        assert sanitizer_report(text) is None, text
        if process.returncode == 0 or not journal_of(out).exists() and out.exists():
            assert_same_file(out, source)       # complete, or ended after the work
            assert not journal_of(out).exists()
            out.unlink()
            continue
        n_ended += 1
        if fatal == signal.SIGTERM:
            assert process.returncode == 1, text
            assert re.fullmatch(rf"qimg: {image}: the copy was stopped(; \d+ of {512 * MIB} bytes are "
                                r"copied, --resume goes on)?\n", text), text
            assert out.exists() == journal_of(out).exists()
    assert n_ended > 0, "no copy was ended before it was complete"
    result = copy_out("--resume", "--hash=md5", "--no-hash-files", "--output=json", image, out)
    assert_same_file(out, source)
    facts = json.loads(result.stdout)
    assert facts["digests"]["md5"] == run("md5sum", source).text.split()[0]
    print("resumed:", facts["resumed-bytes"])
    assert not journal_of(out).exists()


def test_states_along_the_way(tmp_path):
    """A killed copy has a journal with its progress of some time before."""
    image, source = _wide_image(tmp_path)
    out, log = tmp_path / "out.raw", tmp_path / "messages"
    os.mkfifo(log)
    # More lines than fit in a pipe: the log's reader stops the copy behind the first state.
    damage(image, *range(300 * MIB >> 16, 500 * MIB >> 16, 2))
    process = subprocess.Popen([env.qimg(), "copy-out", "--rescue", "--force", f"--log={log}",
                                image, out], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(log, "rb") as lines:
        lines.read(1)
        wait_until(lambda: journal_of(out).read_text().count("\n") > 1,
                   "a state in the journal", 20)
        process.kill()
        process.wait()
    state = last_state(out)
    assert 256 * MIB <= state["offset"] < 500 * MIB
    header = json.loads(journal_of(out).read_text().splitlines()[0].rpartition(" ")[0])
    assert header["source"]["files"][0]["filename"] == str(image)
    assert header["target"]["inode"] == out.stat().st_ino
    result = copy_out("--resume", "--rescue", "--output=json", image, out, check=False)
    assert result.status == 2, result
    facts = json.loads(result.stdout)
    assert facts["resumed-bytes"] == state["offset"]
    assert [r["start"] for r in facts["unreadable"]] == list(range(300 * MIB, 500 * MIB, 128 * KIB))
    with open(out, "rb") as got, open(source, "rb") as wanted:
        for start in (0, 240 * MIB, 290 * MIB, 502 * MIB):
            got.seek(start), wanted.seek(start)
            pattern.assert_same(got.read(10 * MIB), wanted.read(10 * MIB), "resumed copy", start)


def test_stopped_stream(tmp_path, rng):
    """A signal ends a copy whose reader is asleep."""
    image = _sprinkled(tmp_path, rng, size=8 * MIB)
    process = subprocess.Popen([env.qimg(), "copy-out", image, "-"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(process.stdout.read1(1)) == 1
    process.send_signal(signal.SIGTERM)
    # The signal may arrive just before a blocking write: it is sent until it has an effect.
    wait_until(lambda: process.poll() is not None or process.send_signal(signal.SIGTERM),
               "end of the copy", 20, 0.05)
    errors = process.communicate()[1].decode()
    assert process.returncode in (1, -signal.SIGTERM), errors
    if process.returncode == 1:
        assert errors == f"qimg: {image}: the copy was stopped\n"


# ---- targets -----------------------------------------------------------------------------

def test_refusals(tmp_path, rng):
    image = _sprinkled(tmp_path, rng, backing=True)
    base, out = tmp_path / "base.img", tmp_path / "out.raw"
    os.mkfifo(tmp_path / "fifo")
    os.link(base, tmp_path / "link")
    (tmp_path / "symlink").symlink_to("disk.qcow2")
    (tmp_path / "there").write_text("mine")
    taken = base.rename(tmp_path / "x.qimg-resume")
    shutil.copy(taken, base)
    own = "is the image itself or one of its chain (name another file)"
    kind = ("is neither a regular file nor a block device (name one of these, or - for standard "
            "output)")
    with Unchanged(tmp_path):
        for target, text in [
                (image, own), (base, own), (tmp_path / "symlink", own),
                (tmp_path / "there", "exists (name another file, or replace it with --force)"),
                (tmp_path / "no" / "out", "cannot be made: No such file or directory (check the "
                                          "path and its permissions)"),
        ]:
            options = [] if target.name == "there" else ["--force"]
            assert refused(*options, image, target) == f"qimg: {target}: {text}"
        assert refused("--resume", image, image) == f"qimg: {image}: {own}"
        assert refused(image, "/dev/null") == f"qimg: /dev/null: {kind}"
        assert refused(taken, tmp_path / "link", "--force") == f"qimg: {tmp_path / 'link'}: {own}"
        assert refused(taken, tmp_path / "x") == (
            f"qimg: {tmp_path / 'x'}: the journal of a copy to it would have the name of a file of "
            "the chain (name another file)")
        assert refused(image, tmp_path, "--force").startswith(f"qimg: {tmp_path}: cannot be opened")
        assert refused("-o", "rw", image, out) == "qimg: rw: no such option"
        for options, text in [
                (["--hash=sha512"], "--hash=sha512: give sha256, sha1 or md5"),
                (["--hash="], "--hash=: give sha256, sha1 or md5"),
                (["--sparse=maybe"], "--sparse: give yes or no"),
                (["--threads=-1"], "--threads: give a number of threads"),
                (["--vmstate"], "--vmstate: give --snapshot=NAME, too"),
                (["--layer=0", "--snapshot=1"], "give one of --layer and --snapshot"),
                (["--log=x"], "--log: give --rescue, too"),
                (["--rescue", f"--log={base}", "--force"], None),
                (["--rescue", f"--log={tmp_path / 'there'}"], None),
        ]:
            line = refused(*options, image, out)
            assert text is None or line == f"qimg: {text}"
        assert refused("--resume", image, "-") == \
            "qimg: --resume: a copy to standard output cannot go on"
    assert not out.exists()


def test_target_in_use(tmp_path, rng):
    """Two copies do not write to one file, nor does QEMU meanwhile."""
    image, out = _sprinkled(tmp_path, rng), tmp_path / "out.raw"
    qemu.make_raw(out, MIB)
    process = subprocess.Popen(["qemu-io", "-f", "raw", out], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        process.stdout.read(len("qemu-io> "))
        line = refused("--force", image, out)
        assert line.startswith(f"qimg: {out}: ") and "lock" in line
        assert is_running(process.pid)
    finally:
        process.communicate(b"quit\n")
    assert not any(out.read_bytes()) and not journal_of(out).exists()
    copy_out("--force", image, out)


def test_force(tmp_path, rng):
    """The old content is gone: longer, and full of other data. Another file has its name, and its
    mode."""
    image, out = _sprinkled(tmp_path, rng), tmp_path / "out.raw"
    out.write_bytes(b"\xff" * (2 * MIB))
    out.chmod(0o640)
    inode = out.stat().st_ino
    copy_out("--force", image, out)
    assert_same_file(out, qemu.to_raw(image, tmp_path / "wanted"))
    assert out.stat().st_ino != inode and out.stat().st_mode & 0o7777 == 0o640
    assert not part_of(out).exists() and not journal_of(part_of(out)).exists()


def test_full_target(tmp_path):
    env.need_root("mounts a small file system")
    image = qemu.create(tmp_path / "disk.qcow2", 64 * MIB)
    qemu.write(image, (MIB, 2 * MIB, "noise", 1), (40 * MIB, 3 * MIB, "noise", 2))
    wanted = qemu.to_raw(image, tmp_path / "wanted")
    with small_tmpfs(tmp_path / "small", 3 * MIB) as small:
        out = small / "out.raw"
        line = refused("--threads=1", image, out)      # several may fail at any of the chunks
        assert line == (f"qimg: {out}: cannot write at offset {40 * MIB}: No space left on device "
                        f"(make room); {40 * MIB} of {64 * MIB} bytes are copied, --resume goes on")
        assert out.stat().st_size == 64 * MIB
        run("mount", "-o", f"remount,size={8 * MIB}", small)
        result = copy_out("--resume", "--output=json", image, out)
        assert json.loads(result.stdout)["resumed-bytes"] == 40 * MIB
        assert_same_file(out, wanted)


def test_just_enough_room(tmp_path):
    """Room for the data, and two pages for the journal."""
    env.need_root("mounts a small file system")
    image = qemu.create(tmp_path / "disk.qcow2", 64 * MIB)
    qemu.write(image, (MIB, 2 * MIB, "noise", 1), (40 * MIB + 512, 3 * MIB, "noise", 2))
    wanted = qemu.to_raw(image, tmp_path / "wanted")
    with small_tmpfs(tmp_path / "small", 5 * MIB + 4096 + 8192) as small:
        copy_out("--hash=md5", image, small / "out.raw")
        assert_same_file(small / "out.raw", wanted)


@contextlib.contextmanager
def loop_device(path):
    device = Path(run("losetup", "--show", "-f", path).text.strip())
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@pytest.mark.parametrize("options", [[], ["--sparse=no"], ["--hash=sha256"]], ids="-".join)
def test_block_device(options, tmp_path, rng):
    """Everything covered by the disk is written, nothing behind it."""
    env.need_root("sets up a loop device")
    image = _sprinkled(tmp_path, rng, backing=True, size=5 * MIB + 512)
    wanted = qemu.to_raw(image, tmp_path / "wanted").read_bytes()
    host = tmp_path / "host"
    host.write_bytes(b"\xee" * (6 * MIB))
    with loop_device(host) as device:
        result = copy_out(*options, image, device)
        assert not journal_of(device).exists()
        pattern.assert_same(device.read_bytes(), wanted + b"\xee" * (6 * MIB - len(wanted)),
                            "the device")
        if "--hash=sha256" in options:
            assert f"SHA256 ({device}) = {hashlib.sha256(wanted).hexdigest()}\n" in result.text
        large = qemu.create(tmp_path / "large.qcow2", 6 * MIB + 512)
        assert refused(large, device) == (
            f"qimg: {device}: is too small: 6291456 bytes, the disk has 6291968 (name a larger device)")
        assert refused("-o", "format=raw", device, device) == \
            f"qimg: {device}: is the image itself or one of its chain (name another file)"
