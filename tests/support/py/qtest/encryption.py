# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images: made, written and read by qemu-img and qemu-io with a passphrase; LUKS headers
seen by cryptsetup; and passphrases that are typed."""

import os
import pty
import signal
import struct
from pathlib import Path

from . import procs, qemu
from .procs import run
from .qcow2 import EXT_ENCRYPTION, Qcow2File

SECRET = "words"


class EncryptedImage:
    """A qcow2 image with a passphrase. @method: luks or aes; @options: of create, more than those
    of the encryption, which are @encrypt (without "encrypt.")."""

    def __init__(self, path, size, method="luks", secret=SECRET, encrypt=(), backing=None,
                 backing_secret=None, **options):
        self.path = Path(path)
        self.secret = secret
        self.backing_secret = backing_secret
        qemu.create_encrypted(self.path, size, method, secret, encrypt, backing, **options)

    @classmethod
    def existing(cls, path, secret=SECRET, backing_secret=None):
        image = cls.__new__(cls)
        image.path, image.secret, image.backing_secret = Path(path), secret, backing_secret
        return image

    def __fspath__(self):
        return str(self.path)

    def objects(self):
        out = ["--object", f"secret,id=s,data={self.secret}"]
        if self.backing_secret:
            out += ["--object", f"secret,id=b,data={self.backing_secret}"]
        return out

    def source(self):
        """For --image-opts."""
        out = f"driver=qcow2,file.filename={self.path},encrypt.key-secret=s"
        return out + (",backing.encrypt.key-secret=b" if self.backing_secret else "")

    def io(self, *commands):
        argv = ["qemu-io", *self.objects(), "--image-opts"]
        for command in commands:
            argv += ["-c", command]
        result = run(*argv, self.source(), cwd=self.path.parent)
        assert "failed" not in result.text + result.errors, str(result)
        return result

    def snapshot(self, name):
        qemu.img("snapshot", *self.objects(), "--image-opts", "-c", name, self.source(),
                 cwd=self.path.parent)

    def check(self):
        """Runs qemu-img check; returns its result."""
        return qemu.img("check", *self.objects(), "--image-opts", self.source(),
                        cwd=self.path.parent, check=False)

    def content(self, snapshot=None, out=None):
        """The disk as qemu-img reads it, by way of the file @out."""
        out = out or self.path.parent / "content.tmp"
        options = ["-l", snapshot] if snapshot else []
        qemu.img("convert", *self.objects(), "--image-opts", *options, self.source(), "-O", "raw",
                 out, cwd=self.path.parent)
        data = out.read_bytes()
        out.unlink()
        return data

    def passphrase_file(self):
        path = self.path.parent / "passphrase"
        path.write_text(self.secret)
        return path


# ---- LUKS headers ---------------------------------------------------------------------


def luks_area(path):
    """The offset and the length of LUKS header and key material in a qcow2 image."""
    with Qcow2File(path) as file:
        at = next(at + 8 for at, kind, _ in file.extensions() if kind == EXT_ENCRYPTION)
        return struct.unpack(">QQ", file.read(at, 16))


def cut_out(path):
    """The area as a file: a LUKS device without data."""
    offset, length = luks_area(path)
    out = Path(path).parent / "area.tmp"
    with open(path, "rb") as file:
        file.seek(offset)
        out.write_bytes(file.read(length).ljust(length + 4096, b"\0"))
    return out


def luks_opens(device, secret, slot=None):
    """Whether cryptsetup opens @device with @secret, in @slot if one is named."""
    options = [] if slot is None else ["--key-slot", str(slot)]
    return run("cryptsetup", "open", "--test-passphrase", "--type", "luks1", *options, "--key-file",
               "-", device, stdin=secret.encode(), check=False).status == 0


def luks_format(path, secret=SECRET, *options):
    """Makes @path, which exists, a LUKS volume, by cryptsetup with the fewest iterations."""
    run("cryptsetup", "-q", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000",
        "--key-file", "-", *options, path, stdin=secret.encode())


class LuksVolume(EncryptedImage):
    """A LUKS volume in a file of @size bytes, made by cryptsetup with its options @options."""

    def __init__(self, path, size, *options, secret=SECRET):
        self.path, self.secret, self.backing_secret = Path(path), secret, None
        with open(self.path, "wb") as file:
            file.truncate(size)
        luks_format(self.path, secret, *options)

    def source(self):
        return f"driver=luks,file.filename={self.path},key-secret=s"


# ---- typing ---------------------------------------------------------------------------


def typed(argv, *lines, question=b"assphrase of "):
    """Runs argv on a terminal of its own and types each line after a question; returns what the
    terminal shows, and the exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(argv[0], [os.fspath(a) for a in argv])
    shown = b""
    lines = list(lines)
    n_questions = 0
    with procs.Watchdog(30, lambda: os.kill(pid, signal.SIGKILL)):
        while True:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # EIO: the other side is closed
                piece = b""
            if not piece:
                break
            shown += piece
            if shown.count(question) > n_questions and shown.endswith(b": "):
                n_questions += 1
                os.write(terminal, lines.pop(0) if lines else b"\3")
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
