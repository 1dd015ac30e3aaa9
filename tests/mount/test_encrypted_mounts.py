# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images in a mount, and passphrases that are typed. Spec: encryption section 7."""

import os

import pytest

from qtest import env, qemu
from qtest.checks import read_all
from qtest.encryption import EncryptedImage, typed
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.qcow2 import Qcow2File

MIB = 1 << 20
SIZE = 3 * MIB


@pytest.fixture(params=["luks", "aes"])
def image(request, tmp_path):
    out = EncryptedImage(tmp_path / "disk.qcow2", SIZE, request.param)
    out.io("write -P 1 0 1M", "write -P 2 1500k 3k", "write -z 2M 64k")
    out.snapshot("one")
    out.io("write -P 3 100k 200k")
    return out


def test_disk_and_snapshot(image, mnt):
    wanted, before = image.content(), image.content("one")
    options = f"passphrase_file={image.passphrase_file()}"
    with Unchanged(image.path), Mount(image.path, mnt, "-o", options) as mount:
        raw = mount.raw(image.path)
        assert read_all(raw) == wanted
        assert read_all(mnt / "disk.snapshots" / "one" / "disk.raw") == before
        with open(raw, "rb") as file:  # parts of sectors
            for offset, length in ((511, 2), (1500 * 1024 - 1, 1000), (SIZE - 5, 5)):
                assert os.pread(file.fileno(), length, offset) == wanted[offset:offset + length]


def test_directory(image, tmp_path, mnt):
    """The image is opened later, by a process that reads no file with passphrases any more."""
    folder = tmp_path / "images"
    folder.mkdir()
    wanted = image.content()
    passphrase = image.passphrase_file()
    os.rename(image.path, folder / "disk.qcow2")
    with Mount(folder, mnt, "-o", f"passphrase_file={passphrase}") as mount:
        passphrase.unlink()
        assert read_all(mount.raw("disk.qcow2")) == wanted


def test_overlay(image, mnt):
    """Data copied for a write are decrypted; the image itself cannot be written to."""
    wanted = bytearray(image.content())
    options = f"passphrase_file={image.passphrase_file()}"
    with Unchanged(image.path):
        with Mount(image.path, mnt, "-o", f"{options},cow") as mount:
            with open(mount.raw(image.path), "r+b") as file:
                file.seek(150 * 1024 + 7)
                file.write(b"written")
            wanted[150 * 1024 + 7:150 * 1024 + 14] = b"written"
            assert read_all(mount.raw(image.path)) == wanted
        refused(image.path, mnt, "-o", f"{options},rw", file=image.path,
                contains=["crypt_method", "read-only"])


def test_wrong_passphrase_is_refused(tmp_path, mnt):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    image.secret = "wrong"
    refused(image.path, mnt, "-o", f"passphrase_file={image.passphrase_file()}", file=image.path,
            contains=["no key slot opens"])


def test_typed(tmp_path):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    image.io("write -P 7 0 1M")
    out = tmp_path / "out"
    command = [env.qimg(), "copy-out", image.path, out]
    shown, status = typed(command, b"secret not right\n", b"worf\x7fds\n")
    assert status == 0 and out.read_bytes() == b"\7" * MIB, shown
    assert "disk.qcow2" in shown and "opens no key slot" in shown
    assert "secret" not in shown and "words" not in shown and "worf" not in shown
    out.unlink()
    for lines in ((b"\3",), (b"\4",), (b"a\n", b"b\n", b"c\n")):
        shown, status = typed(command, *lines)
        assert status == 1 and shown.count("Passphrase of ") == len(lines), shown
        assert "is encrypted (luks)" in shown and not out.exists()


def test_typed_once_for_a_chain(tmp_path):
    """A passphrase that opens two layers is asked for once."""
    base = EncryptedImage(tmp_path / "base.qcow2", MIB)
    base.io("write -P 7 0 1M")
    top = qemu.create_encrypted(tmp_path / "top.qcow2", MIB)
    with Qcow2File(top) as file:
        file.set_backing(b"base.qcow2", b"qcow2")
    shown, status = typed([env.qimg(), "copy-out", top, tmp_path / "out"], b"words\n")
    assert status == 0 and shown.count("Passphrase of ") == 1, shown
    assert (tmp_path / "out").read_bytes() == b"\7" * MIB
