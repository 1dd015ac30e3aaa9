# SPDX-License-Identifier: GPL-2.0-or-later
"""LUKS volumes in raw files, made by cryptsetup: read as QEMU reads them, never probed, and refused
by name where they cannot be read. Spec: encryption sections 3.1 and 3.5."""

import json

import pytest

from qtest import env, procs, qemu
from qtest.encryption import LuksVolume

MIB = 1 << 20
SIZE = 6 * MIB

VOLUMES = {
    "defaults": (),
    "aes-128-xts": ("-c", "aes-xts-plain64", "-s", "256", "--hash", "sha1"),
    "xts-essiv": ("-c", "aes-xts-essiv:sha256", "-s", "512"),
    "cbc-essiv": ("-c", "aes-cbc-essiv:sha256", "-s", "256", "--hash", "sha512"),
    "cbc-plain": ("-c", "aes-cbc-plain", "-s", "128"),
    "cbc-192": ("-c", "aes-cbc-plain64", "-s", "192", "--hash", "ripemd160"),
    "payload": ("--align-payload", "8200"),
}


def copied(volume, *options, check=True):
    out = volume.path.parent / "out"
    result = procs.run(env.qimg(), "copy-out", "--force", *options, volume.path, out, check=check)
    return out.read_bytes() if result.status == 0 else result


def opening(volume):
    return f"format=luks,passphrase_file={volume.passphrase_file()}"


@pytest.mark.parametrize("kind", VOLUMES)
def test_volumes(kind, tmp_path, rng):
    volume = LuksVolume(tmp_path / "disk.img", SIZE, *VOLUMES[kind])
    found = copied(volume, "-o", opening(volume))
    info = json.loads(procs.run(env.qimg(), "info", "-o", "format=luks", "--output=json",
                                volume.path).stdout)
    data = info["format-specific"]["data"]
    assert info["format"] == "luks" and info["encrypted"] is True
    assert info["virtual-size"] == len(found) == SIZE - data["payload-offset"]
    if kind == "cbc-192":  # which qemu-img opens, too, but cannot write
        return
    volume.io(*(f"write -P {rng.randrange(1, 256)} {rng.randrange(3000) * 512} 5k"
                for _ in range(5)))
    wanted = volume.content()
    assert copied(volume, "-o", opening(volume)) == wanted
    theirs = json.loads(qemu.img("info", "--image-opts", "--output=json",
                                 f"driver=luks,file.filename={volume.path}").stdout)
    theirs = theirs["format-specific"]["data"]
    assert {**theirs, "detached-header": False} == data


def test_never_probed(tmp_path):
    """The line names the option; with format=raw the bytes are shown as they are."""
    volume = LuksVolume(tmp_path / "disk.img", SIZE)
    result = copied(volume, check=False)
    assert result.status == 1 and result.errors.count("\n") == 1
    assert "is a LUKS volume (version 1)" in result.errors and "-o format=luks" in result.errors
    assert copied(volume, "-o", "format=raw") == volume.path.read_bytes()


def test_backing_file(tmp_path):
    """With its recorded format."""
    volume = LuksVolume(tmp_path / "base.img", SIZE)
    volume.io("write -P 7 0 1M")
    top = tmp_path / "top.qcow2"
    procs.run(env.qimg(), "create", "-q", "-b", "base.img", "-F", "luks", top)
    result = procs.run(env.qimg(), "copy-out", "-o",
                       f"passphrase_file=1:{volume.passphrase_file()}", top, tmp_path / "flat")
    assert result.status == 0
    flat = (tmp_path / "flat").read_bytes()
    assert flat == volume.content() and flat[:MIB] == b"\7" * MIB


def set_bytes(volume, at, value):
    with open(volume.path, "r+b") as file:
        file.seek(at)
        file.write(value)


REFUSED = {
    "version-2": (lambda v: set_bytes(v, 6, b"\0\2"), ["version 2", "cryptsetup"]),
    "version-3": (lambda v: set_bytes(v, 6, b"\0\3"), ["LUKS version"]),
    "detached": (lambda v: set_bytes(v, 104, bytes(4)), ["detached LUKS header"]),
    "cut": (lambda v: v.path.write_bytes(v.path.read_bytes()[:2097000]), ["payload offset", "cut"]),
    "short": (lambda v: v.path.write_bytes(v.path.read_bytes()[:100]), ["is no LUKS volume"]),
    "plain": (lambda v: set_bytes(v, 0, bytes(8)), ["is no LUKS volume"]),
    "payload": (lambda v: set_bytes(v, 104, b"\xff\xff\xff\xff"), ["payload offset", "cut"]),
    "cipher": (lambda v: set_bytes(v, 8, b"twofish\0"), ["twofish"]),
    "iterations": (lambda v: set_bytes(v, 212, b"\xff\xff\xff\xff"), ["minutes", "max_iterations"]),
    "overlap": (lambda v: set_bytes(v, 208 + 48 + 40, b"\0\0\0\x08"), ["LUKS key material"]),
    "passphrase": (lambda v: setattr(v, "secret", "wrong"), ["no key slot opens"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind, tmp_path):
    change, words = REFUSED[kind]
    volume = LuksVolume(tmp_path / "disk.img", SIZE)
    change(volume)
    result = copied(volume, "-o", opening(volume), check=False)
    assert result.status == 1 and result.errors.count("\n") == 1, result
    for word in [*words, "disk.img"]:
        assert word in result.errors, result.errors


def test_real_version_2(tmp_path):
    """As cryptsetup makes them by default."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(20 * MIB))
    procs.run("cryptsetup", "-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2",
              "--pbkdf-force-iterations", "1000", "--key-file", "-", path, stdin=b"words")
    for options in ([], ["-o", "format=luks"]):
        result = procs.run(env.qimg(), "info", *options, path, check=False)
        assert result.status == 1 and "version 2" in result.errors and "cryptsetup" in result.errors
