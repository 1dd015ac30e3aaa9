# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images: made, written and read by qemu-img and qemu-io with a passphrase."""

from pathlib import Path

from . import qemu
from .procs import run

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

    def content(self, snapshot=None):
        """The disk as qemu-img reads it."""
        out = self.path.parent / "content.tmp"
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
