# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg create -o encrypt.format=luks: QEMU and cryptsetup open each image with its passphrase, and
no other; its secrets are asked for twice, and never shown. Spec: encryption sections 3 and 7."""

import json
import os
import signal
import subprocess

import pytest

from qtest import env, procs, qemu
from qtest.encryption import EncryptedImage, cut_out, luks_area, luks_opens, typed

MIB = 1 << 20
SIZE = 4 * MIB
QUICK = {"encrypt.iter-time": 1}


def create(path, size=SIZE, *options, check=True, secret="words", **properties):
    """Run in the image's directory; properties with "_" for "-" behind "encrypt."."""
    (path.parent / "p").write_text(secret)
    pairs = {"encrypt.format": "luks", "passphrase_file": "p", **QUICK,
             **{name if name[:8] != "encrypt_" else "encrypt." + name[8:].replace("_", "-"): value
                for name, value in properties.items()}}
    listed = ",".join(f"{name}={value}" for name, value in pairs.items() if value is not None)
    return procs.run(env.qimg(), "create", "-q", *options, "-o", listed, path.name,
                     *([] if size is None else [str(size)]), cwd=path.parent, check=check)


def check_with_qemu(image):
    """QEMU checks, writes and reads the image; qimg reads the same."""
    qemu.img("check", *image.objects(), "--image-opts", image.source(), cwd=image.path.parent)
    image.io("write -P 5 0 64k", "write -P 6 2000k 100k")
    wanted = image.content()
    assert wanted[:65536] == b"\5" * 65536
    out = image.path.parent / "flat"
    procs.run(env.qimg(), "copy-out", "--force", "-o", f"passphrase_file={image.passphrase_file()}",
              image.path, out)
    assert out.read_bytes() == wanted
    assert procs.run(env.qimg(), "check", image.path).status == 0


KINDS = {
    "defaults": {},
    "aes-128": {"encrypt_cipher_alg": "aes-128", "encrypt_ivgen_alg": "plain"},
    "aes-192": {"encrypt_cipher_alg": "aes-192", "encrypt_hash_alg": "sha1"},
    "aes-256": {"encrypt_cipher_alg": "aes-256", "encrypt_cipher_mode": "xts",
                "encrypt_ivgen_alg": "essiv", "encrypt_ivgen_hash_alg": "sha256",
                "encrypt_hash_alg": "sha512"},
    "v2": {"compat": "0.10"},
    "512": {"cluster_size": 512},
    "2M": {"cluster_size": 2 * MIB},
    "extended-l2": {"extended_l2": "on", "refcount_bits": 1},
    "data-file": {"data_file": "data.bin"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, tmp_path):
    image = EncryptedImage.existing(tmp_path / "new.qcow2")
    create(image.path, **KINDS[kind])
    area = cut_out(image.path)
    dump = procs.run("cryptsetup", "luksDump", area).text
    key_bits = 2 * int(KINDS[kind].get("encrypt_cipher_alg", "aes-256")[4:])
    assert f"MK bits:       \t{key_bits}\n" in dump and "Key Slot 0: ENABLED" in dump, dump
    assert dump.count("DISABLED") == 7
    if key_bits != 384:  # the kernel has no such key for XTS, and cryptsetup's own code neither
        assert luks_opens(area, "words") and not luks_opens(area, "wordy")
    check_with_qemu(image)


def test_same_facts_as_qemu(tmp_path):
    """The defaults are qemu-img's: the same cipher, hash, and layout of the area."""
    create(tmp_path / "new.qcow2")
    theirs = EncryptedImage(tmp_path / "theirs.qcow2", SIZE)
    facts = [qemu.info_json(path)["format-specific"]["data"]["encrypt"]
             for path in (tmp_path / "new.qcow2", theirs.path)]
    for fact in facts:
        assert fact.pop("uuid") and fact.pop("master-key-iters") >= 1000
        assert fact["slots"][0].pop("iters") >= 1000
    assert facts[0] == facts[1]
    assert luks_area(tmp_path / "new.qcow2")[1] == luks_area(theirs.path)[1]


def test_each_image_has_its_own_key(tmp_path):
    areas = []
    for name in ("a.qcow2", "b.qcow2"):
        create(tmp_path / name)
        areas.append(cut_out(tmp_path / name).read_bytes())
    for start, end in ((112, 132), (132, 164), (168, 204), (216, 248), (4096, 260096)):
        assert areas[0][start:end] != areas[1][start:end], (start, end)
    assert b"words" not in areas[0]


def test_backing_needs_no_key(tmp_path):
    """Encrypted backing files are opened for their facts alone; each layer has its own key."""
    base = EncryptedImage(tmp_path / "base.qcow2", SIZE, "luks", "words below")
    base.io("write -P 3 0 4M")
    image = EncryptedImage.existing(tmp_path / "new.qcow2", "words", "words below")
    create(image.path, None, "-b", "base.qcow2", "-F", "qcow2")
    image.io("write -P 4 1M 64k")
    wanted = image.content()
    assert wanted == b"\3" * MIB + b"\4" * 65536 + b"\3" * (3 * MIB - 65536)
    (tmp_path / "b").write_text("words below")
    procs.run(env.qimg(), "copy-out", "-o", "passphrase_file=0:p,passphrase_file=1:b", image.path,
              "flat", cwd=tmp_path)
    assert (tmp_path / "flat").read_bytes() == wanted


def test_iterations_by_time(tmp_path):
    """More time, more iterations; never less than 1000. The times differ by a factor of 200."""
    found = []
    for iter_time in (1, 200):
        create(tmp_path / "new.qcow2", SIZE, "--force", **{"encrypt.iter-time": iter_time})
        encrypt = qemu.info_json(tmp_path / "new.qcow2")["format-specific"]["data"]["encrypt"]
        found.append(encrypt["slots"][0]["iters"])
        assert encrypt["master-key-iters"] >= 1000
    assert 1000 <= found[0] < found[1], found


REFUSED = [
    ({"encrypt_format": "aes"}, ["encrypt.format=aes", "give luks"]),
    ({"encrypt_format": "luks2"}, ["encrypt.format=luks2: unknown"]),
    ({"encrypt_cipher_alg": "serpent-256"}, ["serpent-256", "aes-256"]),
    ({"encrypt_cipher_alg": "cast5-128"}, ["cast5-128"]),
    ({"encrypt_cipher_mode": "cbc"}, ["encrypt.cipher-mode=cbc", "xts"]),
    ({"encrypt_ivgen_alg": "benbi"}, ["benbi", "plain64"]),
    ({"encrypt_ivgen_hash_alg": "sha512"}, ["sha512", "sha256"]),
    ({"encrypt_hash_alg": "whirlpool"}, ["whirlpool", "sha256"]),
    ({"encrypt_iter_time": 0}, ["encrypt.iter-time=0", "1 to 60000"]),
    ({"encrypt_iter_time": 60001}, ["encrypt.iter-time=60001"]),
    ({"encrypt_key_secret": "s"}, ["encrypt.key-secret=s", "passphrase_file=FILE"]),
    ({"passphrase_file": None}, ["no passphrase was given", "passphrase_file=FILE"]),
    ({"secret": ""}, ["the passphrase is empty"]),
    ({"secret": "x" * 8193}, ["more than 8192 bytes"]),
    ({"encrypt_format": None}, ["encrypt.format: is missing"]),
    ({"preallocation": "metadata"}, ["preallocation", "noise"]),
    ({"data_file": "d", "data_file_raw": "on"}, ["data_file_raw", "encrypt.format"]),
    ({"format": "raw"}, ["encrypt.format", "a raw image has none"]),
]


@pytest.mark.parametrize("properties,words", REFUSED, ids=lambda p: "-".join(p))
def test_refused(properties, words, tmp_path):
    if "encrypt_format" in properties:
        properties = {"encrypt.format": properties["encrypt_format"]}
    result = create(tmp_path / "new.qcow2", check=False, **properties)
    assert result.status == 1 and result.errors.count("\n") == 1, result
    for word in words:
        assert word in result.errors, result.errors
    assert os.listdir(tmp_path) == ["p"]


def test_newline_is_told(tmp_path):
    image = EncryptedImage.existing(tmp_path / "new.qcow2", "words\n")
    result = create(image.path, secret="words\n")
    assert result.errors.endswith("the passphrase ends in a newline, which counts\n")
    assert luks_opens(cut_out(image.path), "words\n") and not luks_opens(cut_out(image.path), "words")


def command(path, *more):
    return [env.qimg(), "create", "-o", "encrypt.format=luks,encrypt.iter-time=1" +
            "".join(more), path, "1M"]


def test_typed(tmp_path):
    """Twice, until both are the same; the file is named, and nothing that was typed is shown."""
    path = tmp_path / "new.qcow2"
    shown, status = typed(command(path), b"secret\n", b"secre\n", b"secret\n", b"secret\n")
    assert status == 0 and "They differ" in shown and "new.qcow2" in shown, shown
    assert "secre\n" not in shown and "secret" not in shown
    assert luks_opens(cut_out(path), "secret")


@pytest.mark.parametrize("lines", [(b"\3",), (b"a\n", b"\3", b"\3"), (b"\n", b"\n"),
                                   (b"a\n", b"b\n") * 3])
def test_nothing_typed(lines, tmp_path):
    shown, status = typed(command(tmp_path / "new.qcow2"), *lines)
    assert status == 1 and os.listdir(tmp_path) == [], shown


def test_interrupted(tmp_path):
    """A signal ends the derivation of the key at once; nothing is left."""
    (tmp_path / "p").write_text("words")
    process = subprocess.Popen([env.qimg(), "create", "-o", "encrypt.format=luks,passphrase_file=p,"
                                "encrypt.iter-time=60000", "new.qcow2", "1M"], cwd=tmp_path)
    try:
        stat = f"/proc/{process.pid}/stat"
        with procs.Watchdog(30, process.kill):
            while True:  # until it has computed for some time
                with open(stat, encoding="ascii") as file:
                    if int(file.read().rpartition(")")[2].split()[11]) >= 10:
                        break
            process.send_signal(signal.SIGINT)
            assert process.wait() == -signal.SIGINT
    finally:
        procs.end_process(process)
    assert os.listdir(tmp_path) == ["p"]


def test_full_disk(tmp_path):
    """A failure while it is written leaves no file."""
    limited = 'trap "" XFSZ; ulimit -f 2000; exec "$@"'
    result = procs.run("sh", "-c", limited, "sh", env.qimg(), "create", "-q", "-o",
                       "encrypt.format=luks,encrypt.iter-time=1,passphrase_fd=0",
                       tmp_path / "new.qcow2", "1G", stdin=b"words", check=False)
    assert result.status == 1 and "File too large" in result.errors, result
    assert os.listdir(tmp_path) == []


def test_json_has_no_secret(tmp_path):
    create(tmp_path / "new.qcow2", secret="a-secret")
    for options in ((), ("--output=json",)):
        text = procs.run(env.qimg(), "info", *options, tmp_path / "new.qcow2").text
        assert "a-secret" not in text
    json.loads(text)
