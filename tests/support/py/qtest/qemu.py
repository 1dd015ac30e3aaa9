# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes images with qemu-img and qemu-io, and gets qemu-img's view of them."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

from . import env, pattern, procs, qcow2
from .procs import run


# Times for deriving a key, each tried if the previous one is too short to be measured.
LUKS_ITER_TIMES_MS = (10, 100, 1000, 2000)


def create(path, size, backing=None, backing_format=None, image_format="qcow2", **options):
    """qemu-img create; runs in the image's directory, since qemu-img takes the name of a data file
    as relative to the current one. A relative backing name is the image's."""
    path = Path(path)
    argv = ["qemu-img", "create", "-q", "-f", image_format]
    if options:
        argv += ["-o", ",".join(f"{k}={v}" for k, v in options.items())]
    if backing is not None:
        argv += ["-b", backing, "-F", backing_format or "qcow2"]
    argv.append(path.name)
    if size is not None:
        argv.append(str(size))
    run(*argv, cwd=path.parent)
    return path


def create_encrypted(path, size, method="luks", secret="words", encrypt=(), backing=None,
                     backing_format="qcow2", **options):
    """An encrypted qcow2 image with @secret as its passphrase; @method: luks or aes; @encrypt:
    further options of the encryption, by their names behind "encrypt."."""
    path = Path(path)
    argv = ["create", "-q", "-f", "qcow2", "--object", f"secret,id=s,data={secret}"]
    pairs = {"encrypt.format": method, "encrypt.key-secret": "s", **options,
             **{f"encrypt.{name}": value for name, value in dict(encrypt).items()}}
    if backing:
        argv += ["-u", "-b", backing, "-F", backing_format]
    # The key derivation is timed first, and qemu-img fails if a short time rounds to zero.
    for iter_time_ms in LUKS_ITER_TIMES_MS if method == "luks" else (0,):
        if iter_time_ms:
            pairs["encrypt.iter-time"] = iter_time_ms
        result = img(*argv, "-o", ",".join(f"{k}={v}" for k, v in pairs.items()), path.name,
                     str(size), check=False, cwd=path.parent)
        if result.status == 0 or "accurate CPU usage" not in result.errors:
            break
    assert result.status == 0, str(result)
    return path


def amend(image, change, new_secret=None):
    """qemu-img amend of an EncryptedImage; its new secret has the id t."""
    secrets = ["--object", f"secret,id=t,data={new_secret}"] if new_secret else []
    for iter_time_ms in LUKS_ITER_TIMES_MS:
        times = f",encrypt.iter-time={iter_time_ms}" if new_secret else ""
        result = img("amend", *image.objects(), *secrets, "--image-opts", "-o", change + times,
                     image.source(), check=False)
        if result.status == 0 or "accurate CPU usage" not in result.errors:
            break
    assert result.status == 0, str(result)


def img(*argv, cwd=None, check=True, limit_s=60):
    return run("qemu-img", *argv, cwd=cwd, check=check, limit_s=limit_s)


def io(path, *commands, options=(), check=True, image_format=None):
    """Runs qemu-io commands on an image. qemu-io reports many errors by text alone."""
    path = Path(path)
    argv = ["qemu-io", *options, *(["-f", image_format] if image_format else [])]
    for command in commands:
        argv += ["-c", command]
    result = run(*argv, path.name, cwd=path.parent, check=check)
    bad = re.search(r"failed|error|invalid|not found|out of range|misaligned", result.text + result.errors, re.I)
    assert not check or not bad, str(result)
    return result


@contextlib.contextmanager
def held(image, *options):
    """qemu-io that has the image open until the block ends: it answers a command when the locks
    are taken."""
    tool = env.find_tool("qemu-io")
    process = subprocess.Popen([tool, *options, str(image)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        process.stdin.write(b"length\n")
        process.stdin.flush()
        with procs.Watchdog(10, process.kill):
            line = process.stdout.readline()
        assert b"qemu-io>" in line and process.poll() is None, line
        yield process
    finally:
        procs.end_process(process)


def write(path, *pieces, backend=(), image_format=None):
    """Writes (offset, length, kind, salt[, flags]) pieces of pattern content through the
    format driver in one qemu-io process."""
    path = Path(path)
    commands, scratch = [], []
    try:
        for number, (offset, length, kind, salt, *flags) in enumerate(pieces):
            piece = path.parent / f"piece-{os.getpid()}-{number}"
            piece.write_bytes(pattern.KINDS[kind](offset, length, salt))
            scratch.append(piece)
            commands.append(" ".join(["write", *flags, "-s", piece.name, str(offset), str(length)]))
        if commands:
            io(path, *commands, options=backend, image_format=image_format)
    finally:
        for piece in scratch:
            piece.unlink()


def die_writing(path, *commands):
    """A killed writer: leaves the dirty bit of an image with lazy refcounts behind, and its
    refcounts only in its memory."""
    result = io(path, *commands, "abort", check=False)
    assert result.status != 0, result
    with qcow2.Qcow2File(path) as image:
        assert image.get("incompatible") & qcow2.DIRTY, "the image did not become dirty"


def make_raw(path, size, *pieces):
    """A sparse raw file of exactly @size bytes with (offset, length, kind, salt) pieces."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length, kind, salt in pieces:
            file.seek(offset)
            file.write(pattern.KINDS[kind](offset, length, salt)[:max(0, size - offset)])
    return Path(path)


def to_raw(path, out, snapshot=None, image_format=None):
    """The expected content: QEMU's read of the image."""
    path = Path(path)
    argv = ["qemu-img", "convert", "-O", "raw"]
    if image_format:
        argv += ["-f", image_format]
    if snapshot is not None:
        argv += ["-l", f"snapshot.name={snapshot}"]
    run(*argv, path.name, os.path.abspath(out), cwd=path.parent, limit_s=60)
    return Path(out)


def map_json(path, image_format=None):
    path = Path(path)
    argv = ["qemu-img", "map", "--output=json"]
    if image_format:
        argv += ["-f", image_format]
    entries = json.loads(run(*argv, path.name, cwd=path.parent).stdout)
    # For a disk of no bytes qemu-img shows one entry of no length.
    return [entry for entry in entries if entry["length"]]


def info_json(path, image_format=None, force_share=False):
    path = Path(path)
    argv = ["qemu-img", "info", "--output=json"]
    if image_format:
        argv += ["-f", image_format]
    if force_share:
        argv.append("-U")
    return json.loads(run(*argv, path.name, cwd=path.parent).stdout)


def has_option(name):
    """Whether this qemu-img can create qcow2 images with an option (older ones lack some)."""
    text = run("qemu-img", "create", "-f", "qcow2", "-o", "help", check=False).text
    return re.search(rf"^\s+{re.escape(name)}=", text, re.M) is not None


def snapshot_contents(path, folder):
    """QEMU's read of each internal snapshot, by its name."""
    out = {}
    for snapshot in info_json(path).get("snapshots", []):
        file = to_raw(path, folder / "snapshot.raw", snapshot["name"])
        out[snapshot["name"]] = file.read_bytes()
        file.unlink()
    return out
