# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg amend: key slots are added, changed and erased so that QEMU and cryptsetup agree, and no
change is made that would lock the user out. Spec: encryption section 5."""

import pytest

from qtest import env, procs, qemu
from qtest.encryption import EncryptedImage, cut_out, luks_format, luks_opens, typed

MIB = 1 << 20
WORDS = {"a": "words", "b": "other words", "c": "third"}


@pytest.fixture
def image(tmp_path):
    for name, words in WORDS.items():
        (tmp_path / name).write_text(words)
    procs.run(env.qimg(), "create", "-q", "-o",
              "encrypt.format=luks,encrypt.iter-time=1,passphrase_file=a", "disk.qcow2", "1M",
              cwd=tmp_path)
    return EncryptedImage.existing(tmp_path / "disk.qcow2")


def amend(image, *options, check=True, force=False):
    return procs.run(env.qimg(), "amend", *(["--force"] if force else []), "-o", ",".join(options),
                     image.path.name, cwd=image.path.parent, check=check)


ADD = ("encrypt.state=active", "encrypt.iter-time=1")
ERASE = "encrypt.state=inactive"


def slots_of(image):
    """The file of words that opens each slot, by cryptsetup."""
    area = cut_out(image.path)
    facts = qemu.info_json(image.path)["format-specific"]["data"]["encrypt"]["slots"]
    found = {}
    for number, slot in enumerate(facts):
        if slot["active"]:
            found[number] = "".join(name for name, words in WORDS.items()
                                    if luks_opens(area, words, number))
    return found


def test_add_change_erase(image):
    image.io("write -P 7 0 1M")
    result = amend(image, *ADD, "passphrase_file=a", "new_passphrase_file=b")
    assert result.text == "disk.qcow2: key slot 1: active\n"
    assert slots_of(image) == {0: "a", 1: "b"}
    amend(image, *ADD, "passphrase_file=b", "new_passphrase_file=c", "encrypt.keyslot=6")
    assert slots_of(image) == {0: "a", 1: "b", 6: "c"}
    result = amend(image, *ADD, "passphrase_file=c", "old_passphrase_file=b",
                   "new_passphrase_file=a")
    assert result.text == "disk.qcow2: key slot 2: active\ndisk.qcow2: key slot 1: erased\n"
    assert slots_of(image) == {0: "a", 2: "a", 6: "c"}
    amend(image, ERASE, "old_passphrase_file=a")
    assert slots_of(image) == {6: "c"}
    for secret, opens in (("third", True), ("words", False)):
        image.secret = secret
        options = ["-o", f"passphrase_file={image.passphrase_file()}"]
        result = procs.run(env.qimg(), "copy-out", "--force", *options, image.path,
                           image.path.parent / "out", check=False)
        assert (result.status == 0) == opens
    image.secret = "third"
    assert image.content() == b"\7" * MIB
    assert procs.run(env.qimg(), "check", image.path).status == 0


def test_with_qemu_in_turn(image):
    """QEMU changes slots made here, and the other way round."""
    qemu.amend(image, "encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=5", "other words")
    amend(image, ERASE, "encrypt.keyslot=0", "passphrase_file=b")
    assert slots_of(image) == {5: "b"}
    amend(image, *ADD, "passphrase_file=b", "new_passphrase_file=c")
    image.secret = "third"
    qemu.amend(image, "encrypt.state=inactive,encrypt.keyslot=5")
    assert slots_of(image) == {0: "c"}


def test_volume(tmp_path, image):
    """A LUKS volume by cryptsetup, whose data stay."""
    path = tmp_path / "disk.luks"
    path.write_bytes(bytes(4 * MIB))
    luks_format(path)
    volume = EncryptedImage.existing(path)
    payload = path.read_bytes()[2 * MIB:]
    amend(volume, *ADD, "format=luks", "passphrase_file=a", "new_passphrase_file=b")
    amend(volume, ERASE, "format=luks", "old_passphrase_file=a")
    assert luks_opens(path, "other words") and not luks_opens(path, "words")
    assert path.read_bytes()[2 * MIB:] == payload


REFUSED = [
    ([*ADD, "passphrase_file=b", "new_passphrase_file=b"], ["no key slot opens"]),
    ([*ADD, "new_passphrase_file=b"], ["no passphrase was given"]),
    ([*ADD, "passphrase_file=a"], ["new_passphrase_file: no passphrase was given"]),
    ([*ADD, "passphrase_file=a", "new_passphrase_file=/dev/null"], ["is empty"]),
    ([*ADD, "passphrase_file=a", "new_passphrase_file=b", "encrypt.keyslot=0"],
     ["key slot 0: is active", "erase it first"]),
    ([*ADD, "passphrase_file=a", "new_passphrase_file=b", "encrypt.keyslot=8"], ["0 to 7"]),
    ([*ADD, "passphrase_file=a", "new_passphrase_file=b", "old_passphrase_file=c"],
     ["no key slot opens with the old"]),
    ([*ADD, "passphrase_file=a", "new_passphrase_file=b", "encrypt.key-secret=s"],
     ["passphrase_file=FILE"]),
    ([*ADD, "passphrase_file=a", "encrypt.new-secret=s"], ["new_passphrase_file=FILE"]),
    ([ERASE, "encrypt.keyslot=0", "passphrase_file=a"], ["no key slot would be left", "force"]),
    ([ERASE, "old_passphrase_file=a"], ["no key slot would be left", "forever"]),
    ([ERASE, "old_passphrase_file=b"], ["no key slot opens with the old"]),
    ([ERASE, "encrypt.keyslot=3", "passphrase_file=a"], ["key slot 3: is not active"]),
    ([ERASE], ["encrypt.keyslot=N", "old_passphrase_file=FILE"]),
    ([ERASE, "encrypt.keyslot=0", "old_passphrase_file=a"], ["not both"]),
    ([ERASE, "encrypt.keyslot=0", "new_passphrase_file=b"], ["means nothing"]),
    (["passphrase_file=a"], ["encrypt.state: is missing"]),
    (["size=1G"], ["size: is no property that can be changed"]),
    ([*ADD, "passphrase_file=a", "new_passphrase_file=b", "max_iterations=1000"], ["minutes"]),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refused(number, image):
    """With one line; the image stays, byte for byte."""
    options, words = REFUSED[number]
    before = image.path.read_bytes()
    result = amend(image, *options, check=False)
    assert result.status == 1 and result.errors.count("\n") == 1, result
    for word in words:
        assert word in result.errors, result.errors
    assert image.path.read_bytes() == before


def test_erase_needs_another_passphrase(image):
    """By number: one that opens another slot, or force."""
    amend(image, *ADD, "passphrase_file=a", "new_passphrase_file=b")
    for options in ([], ["passphrase_file=a"], ["passphrase_file=c"]):
        result = amend(image, ERASE, "encrypt.keyslot=0", *options, check=False)
        assert result.status == 1 and "no other key slot is known" in result.errors, result
    assert slots_of(image) == {0: "a", 1: "b"}
    amend(image, ERASE, "encrypt.keyslot=0", force=True)
    amend(image, ERASE, "encrypt.keyslot=1", force=True)
    assert slots_of(image) == {}


@pytest.mark.parametrize("kind", ["plain", "aes", "damaged"])
def test_images_without_slots(kind, tmp_path, image):
    words = {"plain": "is not encrypted", "aes": "has no key slots", "damaged": "is damaged"}[kind]
    if kind == "plain":
        image.path.unlink()
        qemu.create(image.path, MIB)
    elif kind == "aes":
        image.path.unlink()
        EncryptedImage(image.path, MIB, "aes")
    else:
        offset = image.path.read_bytes().index(b"LUKS\xba\xbe")
        with open(image.path, "r+b") as file:
            file.seek(offset + 252)
            file.write(b"\0\0\0\1")  # stripes of slot 0
    before = image.path.read_bytes()
    result = amend(image, *ADD, "passphrase_file=a", "new_passphrase_file=b", check=False)
    assert result.status == 1 and words in result.errors, result
    assert image.path.read_bytes() == before


def test_all_slots(image):
    for _ in range(7):
        amend(image, *ADD, "passphrase_file=a", "new_passphrase_file=b")
    result = amend(image, *ADD, "passphrase_file=a", "new_passphrase_file=b", check=False)
    assert result.status == 1 and "all 8 are active" in result.errors


def test_in_use(image):
    with qemu.held(image.source(), *image.objects(), "--image-opts"):
        result = amend(image, *ADD, "passphrase_file=a", "new_passphrase_file=b", check=False)
    assert result.status == 1 and "disk.qcow2" in result.errors
    assert slots_of(image) == {0: "a"}


def test_typed(image):
    """The present passphrase, then the new one twice; none is shown."""
    shown, status = typed([env.qimg(), "amend", "-o", ",".join(ADD), image.path],
                          b"words\n", b"third\n", b"third\n")
    assert status == 0 and "New passphrase of " in shown, shown
    assert "words" not in shown and "third" not in shown
    assert slots_of(image) == {0: "a", 1: "c"}
