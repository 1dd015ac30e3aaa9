# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images in a mount, and passphrases that are typed. Spec: encryption section 7."""

import os
import subprocess

import pytest

from qtest import env, procs, qemu, writing
from qtest.checks import read_all
from qtest.encryption import EncryptedImage, LuksVolume, typed
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
    """Data copied for a write are decrypted; the image stays."""
    wanted = bytearray(image.content())
    options = f"passphrase_file={image.passphrase_file()}"
    with Unchanged(image.path):
        with Mount(image.path, mnt, "-o", f"{options},cow") as mount:
            with open(mount.raw(image.path), "r+b") as file:
                file.seek(150 * 1024 + 7)
                file.write(b"written")
            wanted[150 * 1024 + 7:150 * 1024 + 14] = b"written"
            assert read_all(mount.raw(image.path)) == wanted


def test_write(image, mnt, rng):
    """Random writes, zeros, discards and sizes over all that an image has; a snapshot keeps its
    content. QEMU reads the result, and nothing that was written is in the file as it is."""
    mark = b"never in the file: plain text..."
    before = image.content("one")
    with Mount(image.path, mnt, "-o", f"passphrase_file={image.passphrase_file()},rw") as mount:
        with writing.opened(mount.raw(image.path)) as fd:
            disk = writing.Disk(fd, bytearray(read_all(mount.raw(image.path))))
            for step in range(60):
                at = rng.randrange(len(disk.content))
                length = min(rng.choice((1, 511, 700, 4096, 90_000)), len(disk.content) - at)
                if step % 10 == 3:
                    disk.zero(rng.choice((writing.PUNCH_HOLE, writing.ZERO_RANGE)), at, length)
                elif step % 20 == 7:
                    disk.resize(rng.randrange(1, 8000) * 512)
                else:
                    disk.write((mark * (length // len(mark) + 1))[:length], at)
            assert read_all(mount.raw(image.path)) == disk.content
        assert read_all(mnt / "disk.snapshots" / "one" / "disk.raw") == before
        os.mkdir(mnt / "disk.snapshots" / "two")
        with writing.opened(mount.raw(image.path)) as fd:
            os.pwrite(fd, mark, 5)
    assert image.content("two") == disk.content
    disk.content[5:5 + len(mark)] = mark
    assert image.content() == disk.content
    shown = min(len(before), len(disk.content))  # QEMU shows it in the disk's present size
    assert image.content("one")[:shown] == before[:shown]
    assert image.check().status == 0
    assert mark[:16] not in image.path.read_bytes()


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


def test_volume_with_partitions(tmp_path, mnt):
    """A LUKS volume in a file: its disk, and the partitions inside."""
    volume = LuksVolume(tmp_path / "disk.img", 8 * MIB)
    table = tmp_path / "table.img"
    table.write_bytes(bytes(4 * MIB))
    procs.run("sfdisk", "-q", table, stdin=b"2048,2048,L\n4096,2048,L\n")
    qemu.img("convert", "-n", *volume.objects(), "-f", "raw", table, "--target-image-opts",
             volume.source())
    volume.io("write -P 7 1M 1M", "write -P 8 2M 512k")
    wanted = volume.content()
    options = f"format=luks,passphrase_file={volume.passphrase_file()}"
    with Unchanged(volume.path), Mount(volume.path, mnt, "-o", options) as mount:
        assert read_all(mount.raw(volume.path)) == wanted
        parts = [mnt / "disk.partitions" / name for name in ("1.raw", "2.raw")]
        assert [read_all(path) for path in parts] == [wanted[MIB:2 * MIB], wanted[2 * MIB:3 * MIB]]
    refused(volume.path, mnt, file=volume.path, contains=["LUKS volume", "format=luks"])


def test_volume_is_written(tmp_path, mnt):
    """Also parts of sectors, zeros and discards; QEMU reads it back. The header and the size stay:
    added bytes would be noise."""
    volume = LuksVolume(tmp_path / "disk.img", 4 * MIB)
    volume.io("write -P 7 0 1M")
    wanted = bytearray(volume.content())
    header = volume.path.read_bytes()[:2 * MIB]
    options = f"format=luks,rw,passphrase_file={volume.passphrase_file()}"
    with Mount(volume.path, mnt, "-o", options) as mount:
        with open(mount.raw(volume.path), "r+b") as file:
            for offset, data in ((511, b"ab"), (5000, b"c" * 3000), (len(wanted) - 3, b"end")):
                wanted[offset:offset + len(data)] = data
                os.pwrite(file.fileno(), data, offset)
            writing.fallocate(file.fileno(), writing.ZERO_RANGE, 100_000, 70_001)
            writing.fallocate(file.fileno(), writing.PUNCH_HOLE | writing.KEEP_SIZE, 300_000, 70_001)
            for offset in (100_000, 300_000):
                wanted[offset:offset + 70_001] = bytes(70_001)
            with pytest.raises(OSError):
                os.pwrite(file.fileno(), b"x", len(wanted))
            os.fsync(file.fileno())
        assert read_all(mount.raw(volume.path)) == wanted
    assert volume.content() == wanted
    assert volume.path.read_bytes()[:2 * MIB] == header and volume.path.stat().st_size == 4 * MIB


def loaded_libraries(mount):
    with open(f"/proc/{mount.pid}/maps", encoding="utf-8") as maps:
        return {os.path.basename(line.split()[-1]) for line in maps if ".so" in line}


def test_libcrypto_is_loaded_at_need(image, tmp_path, mnt):
    """It takes half of a start; images of a directory are opened when nothing can be loaded."""
    plain = tmp_path / "plain" / "disk.raw"
    plain.parent.mkdir()
    plain.write_bytes(bytes(MIB))
    for path, options, is_loaded in ((plain, (), False), (plain.parent, (), True), (
            image.path, ("-o", f"passphrase_file={image.passphrase_file()}"), True)):
        with Mount(path, mnt, *options) as mount:
            libraries = loaded_libraries(mount)
            assert "libc.so.6" in libraries
            assert any(name.startswith("libcrypto") for name in libraries) == is_loaded


@pytest.mark.skipif(os.geteuid() != 0, reason="hides a file from the program: needs root")
def test_without_libcrypto(image, tmp_path):
    """Says so; all else works."""
    copy = tmp_path / "copy.raw"
    hide = ("for f in $(ldconfig -p | sed -n 's/.*libcrypto.* => //p'); do"
            " mount --bind /dev/null \"$f\"; done; exec \"$@\"")

    def run(*arguments):
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", hide, "sh", env.qimg(), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    done = run("copy-out", "-o", f"passphrase_file={image.passphrase_file()}", image.path, copy)
    assert done.returncode == 1 and "libcrypto" in done.stdout, done.stdout
    assert not copy.exists()
    done = run("info", image.path)
    assert done.returncode == 0 and "luks" in done.stdout or "aes" in done.stdout, done.stdout
