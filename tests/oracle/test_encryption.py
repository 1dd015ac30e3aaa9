# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images read as qemu-img reads them: all ciphers that it can make, in all kinds of
images; and which are refused. Spec: encryption."""

import json
import os
import struct

import pytest

from qtest import env, procs, qemu
from qtest.encryption import EncryptedImage, luks_area
from qtest.qcow2 import EXT_ENCRYPTION, Qcow2File

MIB = 1 << 20
SIZE = 4 * MIB

# qemu-img aborts when it makes AES-192 with another mode than xts.
CIPHERS = [(cipher, mode, iv)
           for cipher, modes in (("aes-128", ("xts", "cbc", "ecb", "ctr")), ("aes-192", ("xts",)),
                                 ("aes-256", ("xts", "cbc", "ecb", "ctr")))
           for mode in modes for iv in ("plain", "plain64", "essiv")]
HASHES = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"]
KINDS = {
    "v2": {"compat": "0.10"},
    "512": {"cluster_size": 512},
    "2M": {"cluster_size": 2 * MIB},
    "extended-l2": {"extended_l2": "on"},
    "data-file": {"data_file": "data.bin"},
    "data-file-raw": {"data_file": "data.bin", "data_file_raw": "on"},
    "metadata": {"preallocation": "metadata"},
}


def read(image, *options, check=True):
    """The disk as qimg reads it."""
    out = image.path.parent / "out.tmp"
    result = procs.run(env.qimg(), "copy-out", "--force", *options, image.path, out, check=check)
    if result.status != 0:
        return result
    data = out.read_bytes()
    out.unlink()
    return data


def read_with(image, *options):
    return read(image, "-o", f"passphrase_file={image.passphrase_file()}", *options)


def fill(image, rng):
    """Writes, zeroes, discards and compresses at places that are no multiples of a cluster."""
    commands = ["write -P 0xa5 64k 64k", "write -P 0x5a 0 512", "write -z 3M 100k"]
    for _ in range(12):
        offset = rng.randrange(SIZE // 512 - 300) * 512
        commands.append(f"write -P {rng.randrange(1, 256)} {offset} {rng.randrange(1, 300) * 512}")
    image.io(*commands, "discard 1M 70k")


def make(tmp_path, rng, method="luks", encrypt=(), **options):
    image = EncryptedImage(tmp_path / "disk.qcow2", SIZE, method, encrypt=encrypt, **options)
    if not {"data_file", "preallocation"} & set(options):
        image.io("write -c -P 0x77 2M 2M")  # stored plain
    fill(image, rng)
    return image


def assert_alike(image, *options):
    wanted = image.content()
    found = read_with(image, *options)
    assert any(wanted) and len(found) == len(wanted)
    bad = [sector for sector in range(len(wanted) // 512)
           if found[sector * 512:][:512] != wanted[sector * 512:][:512]] if found != wanted else []
    assert not bad, f"differs in sectors {bad[:10]}"


@pytest.mark.parametrize("cipher,mode,iv", CIPHERS, ids="-".join)
def test_ciphers(cipher, mode, iv, tmp_path, rng):
    encrypt = {"cipher-alg": cipher, "cipher-mode": mode, "ivgen-alg": iv}
    if iv == "essiv":
        encrypt["ivgen-hash-alg"] = rng.choice(["sha256", "md5"])
    assert_alike(make(tmp_path, rng, encrypt=encrypt))


@pytest.mark.parametrize("name", HASHES)
def test_hashes(name, tmp_path, rng):
    assert_alike(make(tmp_path, rng, encrypt={"hash-alg": name}))


@pytest.mark.parametrize("method", ["luks", "aes"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, method, tmp_path, rng):
    assert_alike(make(tmp_path, rng, method, **KINDS[kind]))


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_snapshots(method, tmp_path, rng):
    image = make(tmp_path, rng, method)
    image.snapshot("one")
    before = image.content()
    fill(image, rng)
    assert_alike(image)
    assert image.content() != before
    assert read_with(image, "--snapshot=one") == before


def test_chain_of_different_keys(tmp_path, rng):
    """A plain image on a LUKS one on an AES one, each with its own passphrase or none."""
    lowest = EncryptedImage(tmp_path / "lowest.qcow2", SIZE, "aes", "words below")
    lowest.io("write -P 1 0 4M")
    middle = EncryptedImage(tmp_path / "middle.qcow2", SIZE, "luks", "words", backing="lowest.qcow2",
                            backing_secret="words below")
    middle.io("write -P 2 1M 1000k", "write -P 3 65k 1k")
    top = qemu.create(tmp_path / "top.qcow2", SIZE)
    with Qcow2File(top) as file:
        file.set_backing(b"middle.qcow2", b"qcow2")
    (tmp_path / "w").write_text("words")
    (tmp_path / "b").write_text("words below")
    wanted = middle.content()
    out = tmp_path / "out"
    for options in (f"passphrase_file=1:{tmp_path}/w,passphrase_file=2:{tmp_path}/b",
                    f"passphrase_file={tmp_path}/b,passphrase_file=2:{tmp_path}/b,"
                    f"passphrase_file={tmp_path}/w"):
        procs.run(env.qimg(), "copy-out", "--force", "-o", options, top, out)
        assert out.read_bytes() == wanted
    # Nothing tells whether the passphrase of an AES layer is right: it is not guessed.
    result = procs.run(env.qimg(), "copy-out", "--force", "-o",
                       f"passphrase_file={tmp_path}/w,passphrase_file={tmp_path}/b", top, out,
                       check=False)
    assert result.status == 1 and "lowest.qcow2" in result.errors
    assert "passphrase_file=2:FILE" in result.errors, result.errors


@pytest.mark.parametrize("method", ["luks", "aes", None])
def test_copy_tells_that_it_is_plain(method, tmp_path):
    """Also if only a backing file is encrypted."""
    base = EncryptedImage(tmp_path / "base.qcow2", MIB, method) if method else \
        qemu.create(tmp_path / "base.qcow2", MIB)
    top = qemu.create(tmp_path / "top.qcow2", MIB)
    with Qcow2File(top) as file:
        file.set_backing(b"base.qcow2", b"qcow2")
    options = ["-o", f"passphrase_file=1:{base.passphrase_file()}"] if method else []
    argv = [env.qimg(), "copy-out", "--force", *options, top, tmp_path / "out"]
    assert ("top.qcow2: is encrypted; the copy has its data as plain" in
            procs.run(*argv).errors) == (method is not None)
    assert json.loads(procs.run(*argv, "--output=json").stdout)["decrypted"] is (method is not None)


# ---- passphrases ----------------------------------------------------------------------


@pytest.mark.parametrize("content,words", [
    (None, ["no passphrase was given", "passphrase_file=FILE"]),
    (b"wrong", ["no key slot opens"]),
    (b"words\n", ["no key slot opens", "newline"]),
    (b"", ["no key slot opens"]),
    (b"x" * 8193, ["more than 8192 bytes"]),
])
def test_wrong_passphrase(content, words, tmp_path):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    options = []
    if content is not None:
        (tmp_path / "p").write_bytes(content)
        options = ["-o", f"passphrase_file={tmp_path / 'p'}"]
    result = read(image, *options, check=False)
    assert result.status == 1 and result.errors.count("\n") == 1, result
    for word in words:
        assert word in result.errors, result.errors
    assert not (tmp_path / "out.tmp").exists()


def test_passphrase_from_a_descriptor(tmp_path):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    image.io("write -P 7 0 1M")
    fd = os.open(image.passphrase_file(), os.O_RDONLY)
    out = tmp_path / "out"
    try:
        procs.run(env.qimg(), "copy-out", "-o", f"passphrase_fd=0:{fd}", image.path, out,
                  pass_fds=[fd])
    finally:
        os.close(fd)
    assert out.read_bytes() == b"\7" * MIB


def test_second_key_slot(tmp_path):
    """Any active slot opens the image; an erased one does not."""
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    image.io("write -P 7 0 1M")
    qemu.amend(image, "encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=5", "other")
    for secret in ("words", "other"):
        image.secret = secret
        assert read_with(image) == b"\7" * MIB
    qemu.amend(image, "encrypt.state=inactive,encrypt.keyslot=0")
    assert read_with(image) == b"\7" * MIB
    image.secret = "words"
    assert read(image, "-o", f"passphrase_file={image.passphrase_file()}", check=False).status == 1


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_facts_need_no_key(method, tmp_path, rng):
    image = make(tmp_path, rng, method)
    image.snapshot("one")
    info = json.loads(procs.run(env.qimg(), "info", "--output=json", image.path).stdout)
    assert info["encrypted"] is True and len(info["snapshots"]) == 1
    found = json.loads(procs.run(env.qimg(), "map", "--output=json", image.path).stdout)
    wanted = json.loads(qemu.img("map", *image.objects(), "--image-opts", "--output=json",
                                 image.source()).stdout)

    def extents(maps, keys):
        """With neighbours that differ in other facts put together."""
        out = []
        for extent in maps:
            facts = [extent[key] for key in keys]
            if out and out[-1][1] == facts:
                out[-1][0] += extent["length"]
            else:
                out.append([extent["length"], facts])
        return out

    assert extents(found, ("zero", "data")) == extents(wanted, ("zero", "data"))
    assert not any("offset" in extent for extent in found if extent["data"])
    assert procs.run(env.qimg(), "check", image.path).status == 0
    procs.run(env.qimg(), "snapshot", "list", image.path)


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_changes_without_key(method, tmp_path, rng):
    """Snapshots and bitmaps are changed without the passphrase; the disk stays as it was."""
    image = make(tmp_path, rng, method)
    wanted = image.content()
    for words in (("snapshot", "create", image, "one"), ("bitmap", "--add", image, "marks")):
        procs.run(env.qimg(), *words)
    image.io("write -P 9 64k 100k")  # copies clusters of the snapshot
    assert image.content("one") == wanted != image.content()
    assert "marks" in procs.run(env.qimg(), "bitmap", "--list", image).text
    procs.run(env.qimg(), "bitmap", "--extents", image, "marks")
    for words in (("snapshot", "rename", image, "one", "two"), ("snapshot", "revert", image, "two"),
                  ("snapshot", "delete", image, "two"), ("bitmap", "--remove", image, "marks")):
        procs.run(env.qimg(), *words)
    assert image.content() == wanted == read_with(image)
    qemu.img("check", *image.objects(), "--image-opts", image.source())
    assert procs.run(env.qimg(), "check", image).status == 0


# ---- hostile headers ------------------------------------------------------------------


def extension_place(image):
    """Where the extension's data are in the file."""
    with Qcow2File(image.path) as file:
        return next(at + 8 for at, kind, _ in file.extensions() if kind == EXT_ENCRYPTION)


def refused(image, *words):
    result = read(image, "-o", f"passphrase_file={image.passphrase_file()}", check=False)
    assert result.status == 1 and result.errors.count("\n") == 1, result
    for word in words:
        assert word in result.errors, result.errors


@pytest.mark.parametrize("at,value,word", [
    (8, b"serpent\0", "serpent"), (8, b"twofish\0", "twofish"), (8, b"ca\nst5\0", "ca\\nst5"),
    (40, b"xts-benbi\0", "benbi"), (40, b"gcm-plain64\0", "gcm"), (72, b"whirlpool\0", "whirlpool"),
    (0, b"LUKT", "magic"), (6, b"\0\2", "version"), (108, b"\0\0\0\xff", "key bytes"),
    (164, b"\xff\xff\xff\xff", "minutes"), (212, b"\xff\xff\xff\xff", "minutes"),
    (208, b"\0\0\xde\xad", "none is active"), (252, b"\0\0\0\1", "stripes"),
])
def test_hostile_header(at, value, word, tmp_path):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    with Qcow2File(image.path) as file:
        file.write(luks_area(image.path)[0] + at, value)
    refused(image, word)


@pytest.mark.parametrize("fields", [(0, 2068480), (1, 2068480), (0x40000, 591), (0x40000, 1 << 62),
                                    (1 << 62, 2068480), (0x40000, 65 * MIB)])
def test_hostile_place(fields, tmp_path):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    with Qcow2File(image.path) as file:
        file.write(extension_place(image), struct.pack(">QQ", *fields))
    refused(image, "encryption extension")


@pytest.mark.parametrize("method", [0, 1])
def test_method_without_extension(method, tmp_path):
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    with Qcow2File(image.path) as file:
        file.set("crypt_method", method)
    refused(image, "crypt_method", "encryption extension")
