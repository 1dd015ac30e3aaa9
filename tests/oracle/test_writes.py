# SPDX-License-Identifier: GPL-2.0-or-later
"""Random writes through the library to images of every kind (tests/model/model-writers.c):
afterwards qemu-img check finds nothing, qemu-img reads the model's content, and snapshots and
backing files have not changed. QCOWFS_TEST_SEED repeats a run, QCOWFS_TEST_WRITE_OPS sets the
number of operations of each."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from qtest import env, pattern, procs, qemu
from qtest.encryption import EncryptedImage
from qtest.qcow1 import Qcow1Writer
from qtest.recipes import compressible, sprinkle
from qtest.writing import small_tmpfs

MIB = 1 << 20
N_OPS = int(os.environ.get("QCOWFS_TEST_WRITE_OPS", "300"))
# Threads, and whether they write to the same bytes. All work on one image after another.
RUNS = [(1, False), (4, False), (4, True), (1, False)]


class Kind:
    """@build(directory, rng) makes directory/name. @resizes: the disk's size may change, @grows:
    but not shrink; @data_file: a file that must equal the disk in the end."""

    def __init__(self, name, build, image_format="qcow2", max_size=4 * MIB, resizes=True,
                 data_file=None, grows=False):
        self.name, self.build, self.image_format = name, build, image_format
        self.max_size, self.resizes, self.data_file = max_size, resizes, data_file
        self.grows = grows


# ---- the kinds --------------------------------------------------------------------------

def _disk(name, cluster=65536, size=None, content="sprinkle", max_size=None, resizes=True,
          snapshots=(), base=None, data_file=None, **options):
    """One image; @base makes the layers below it and gives the name and format of the next one."""
    size = (10 * MIB if cluster > MIB else 2 * MIB) if size is None else size

    def build(directory, rng):
        below = base(directory, rng) if base else (None, None)
        more = dict(options, cluster_size=cluster)
        if data_file:
            more["data_file"] = f"{name}.data"
        image = directory / name
        if content == "compressed":
            compressible(directory / "source", size, cluster, rng)
            joined = ",".join(f"{k}={v}" for k, v in more.items())
            qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", joined, "source", name,
                     cwd=directory)
            (directory / "source").unlink()
        else:
            qemu.create(image, size, *below, **more)
        if content == "sprinkle":
            sprinkle(image, size, cluster, rng)
        for salt, snapshot in enumerate(snapshots, 2):
            qemu.img("snapshot", "-c", snapshot, name, cwd=directory)
            qemu.write(image, (rng.randrange(size // 512) * 512, 512, "noise", salt))
        return image

    return Kind(name, build, max_size=max_size or max(4 * MIB, size * 3 // 2), resizes=resizes,
                data_file=f"{name}.data" if data_file == "raw" else None)


def _raw_base(size):
    def base(directory, rng):
        qemu.make_raw(directory / "base.img", size,
                      *[(at, min(90_000, size - at), "words", 2) for at in range(0, size, 200_000)])
        return "base.img", "raw"
    return base


def _qcow2_base(cluster=65536, size=2 * MIB, below=None, content="sprinkle", **options):
    def base(directory, rng):
        under = below(directory, rng) if below else (None, None)
        name = f"layer{len(list(directory.iterdir()))}"
        if content == "compressed":
            compressible(directory / "source", size, cluster, rng)
            qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster}",
                     "source", name, cwd=directory)
            (directory / "source").unlink()
            return name, "qcow2"
        qemu.create(directory / name, size, *under, cluster_size=cluster, **options)
        sprinkle(directory / name, size, cluster, rng, salt=5)
        return name, "qcow2"
    return base


def _encrypted(name, method, size=2 * MIB, base=None, snapshots=(), compressed=False, **options):
    """As _disk, with a passphrase; compressed clusters are stored plain."""
    def build(directory, rng):
        backing, backing_format = base(directory, rng) if base else (None, "qcow2")
        data_file = {"data_file": f"{name}.data"} if options.get("data_file") else {}
        image = EncryptedImage(directory / name, size, method, backing=backing,
                               backing_format=backing_format, **{**options, **data_file})
        image.passphrase_file()
        if compressed:
            image.io("write -c -P 0x77 0 1M")
        for salt in range(len(snapshots) + 1):
            commands = [f"write -P {rng.randrange(1, 256)} {rng.randrange(size // 512 - 200) * 512}"
                        f" {rng.randrange(1, 200) * 512}" for _ in range(8)]
            image.io(*commands, "write -z 70k 100k", "discard 1M 70k")
            for snapshot in snapshots[salt:salt + 1]:
                image.snapshot(snapshot)
        return image

    return Kind(name, build, resizes=not (snapshots and options.get("compat") == "0.10"))


# QEMU opens no image whose tables have one cluster.
def _qed(name, cluster=65536, table=4, size=2 * MIB, content="sprinkle", base=None):
    def build(directory, rng):
        below = base(directory, rng) if base else (None, None)
        image = directory / name
        qemu.create(image, size, *below, image_format="qed", cluster_size=cluster, table_size=table)
        if content:
            sprinkle(image, size, cluster, rng, image_format="qed")
        return image

    return Kind(name, build, "qed", max_size=max(4 * MIB, size * 3 // 2), resizes=False, grows=True)


def _qed_base(directory, rng):
    qemu.create(directory / "base.qed", 3 * MIB, image_format="qed", cluster_size=4096)
    sprinkle(directory / "base.qed", 3 * MIB, 4096, rng, salt=6, image_format="qed")
    return "base.qed", "qed"


def _qcow1_base(size=2 * MIB, below=None):
    def base(directory, rng):
        under, _ = below(directory, rng) if below else (None, None)
        image = Qcow1Writer(size, 10, 7, under.encode() if under else b"")
        for number in range(0, size >> 10, 3):
            data = pattern.words(number << 10, 1 << 10, 6)
            if number % 2 or not image.add_compressed(number, data):
                image.add_data(number, data)
        image.save(directory / "old.qcow")
        return "old.qcow", "qcow"
    return base


def _raw(name, size):
    def build(directory, rng):
        return qemu.make_raw(directory / name, size, (0, size // 3, "words", 1),
                             (size // 2, size // 4, "noise", 1))
    return Kind(name, build, "raw")


KINDS = [_disk(f"v{version}-cs{cluster}", cluster, compat=compat)
         for version, compat in ((2, "0.10"), (3, "1.1")) for cluster in (512, 4096, 65536, 2 * MIB)]
KINDS += [_disk(f"rb{bits}-cs{cluster}", cluster, refcount_bits=bits)
          for bits, cluster in ((1, 512), (2, 4096), (4, 512), (8, 65536), (32, 4096), (64, 512))]
KINDS += [
    _disk("el2-cs16384", 16384, extended_l2="on"),
    _disk("el2-cs65536", extended_l2="on"),
    _disk("el2-empty", extended_l2="on", content=None),
    _disk("zlib-v2", compat="0.10", content="compressed"),
    _disk("zlib-cs4096", 4096, content="compressed"),
    _disk("zlib-rb1", 4096, content="compressed", refcount_bits=1),
    _disk("zstd", content="compressed", compression_type="zstd"),
    _disk("zstd-cs512", 512, content="compressed", compression_type="zstd"),
    _disk("zlib-el2", content="compressed", extended_l2="on"),
    _disk("raw-base-short", base=_raw_base(MIB)),
    _disk("raw-base-long", 4096, base=_raw_base(3 * MIB)),
    _disk("raw-base-odd", base=_raw_base(1_500_001)),
    _disk("raw-base-odd-v2", 512, base=_raw_base(700_001), compat="0.10"),
    _disk("raw-base-el2", base=_raw_base(1_500_001), extended_l2="on"),
    _disk("qcow2-base", base=_qcow2_base()),
    _disk("qcow1-base", base=_qcow1_base()),
    _disk("qcow1-base-over-raw", 4096, base=_qcow1_base(3 * MIB, _raw_base(900_001))),
    _disk("qcow2-base-untouched", base=_qcow2_base(size=5 * MIB), content=None),
    _disk("coarse-on-fine", base=_qcow2_base(512)),
    _disk("fine-on-coarse", 512, base=_qcow2_base(2 * MIB, 4 * MIB)),
    _disk("compressed-base", base=_qcow2_base(content="compressed"), content=None),
    _disk("depth3", 4096, base=_qcow2_base(65536, MIB, below=_raw_base(900_001))),
    _disk("depth4-el2", 16384, extended_l2="on",
          base=_qcow2_base(65536, 3 * MIB, extended_l2="on",
                           below=_qcow2_base(4096, MIB, below=_raw_base(4 * MIB)))),
    _disk("snapshots", snapshots=("one", "two")),
    _disk("snapshots-cs512", 512, snapshots=("one", "two", "three")),
    # Refcounts at the maximum of their width.
    _disk("snapshots-rb2", 4096, snapshots=("one", "two"), refcount_bits=2),
    # QEMU does not resize these either.
    _disk("snapshots-v2", snapshots=("one", "two"), compat="0.10", resizes=False),
    _disk("snapshots-el2", 16384, snapshots=("one", "two"), extended_l2="on"),
    _disk("snapshots-compressed", 4096, content="compressed", snapshots=("one", "two")),
    _disk("snapshots-base", snapshots=("one",), base=_raw_base(1_500_001)),
    _disk("data-file", data_file="plain"),
    _disk("data-file-cs512", 512, data_file="plain"),
    _disk("data-file-el2", data_file="plain", extended_l2="on"),
    _disk("data-file-base", data_file="plain", base=_raw_base(1_500_001)),
    _disk("data-file-raw", data_file="raw", data_file_raw="on"),
    _disk("data-file-raw-cs512", 512, data_file="raw", data_file_raw="on"),
    _disk("data-file-raw-el2", data_file="raw", data_file_raw="on", extended_l2="on"),
    _disk("metadata", preallocation="metadata"),
    _disk("metadata-cs512", 512, preallocation="metadata"),
    _disk("metadata-el2", preallocation="metadata", extended_l2="on"),
    _disk("falloc", preallocation="falloc"),
    _disk("lazy", lazy_refcounts="on"),
    # Refcount table and L1 table must grow many times over.
    _disk("tiny-cs512", 512, size=0, content=None, max_size=12 * MIB),
    _disk("tiny-rb64", 512, size=512, content=None, max_size=12 * MIB, refcount_bits=64),
    _disk("tiny-v2", 512, size=512, content=None, max_size=12 * MIB, compat="0.10"),
    _qed("qed"),
    _qed("qed-cs4096-ts2", 4096, 2),
    _qed("qed-cs4096-ts16", 4096, 16),
    _qed("qed-cs2097152-ts2", 2 * MIB, 2, size=10 * MIB),
    _qed("qed-empty", content=None),
    _qed("qed-raw-base-odd", 8192, 2, base=_raw_base(1_500_001)),
    _qed("qed-raw-base-long", 16384, 8, base=_raw_base(5 * MIB)),
    _qed("qed-qcow2-base", base=_qcow2_base(4096)),
    _qed("qed-qed-base", content=None, base=_qed_base),
    _disk("qcow2-on-qed", base=_qed_base),
    _raw("raw", 2 * MIB),
    _raw("raw-odd", 1_234_567),
    _encrypted("luks", "luks"),
    _encrypted("luks-v2-cs4096", "luks", compat="0.10", cluster_size=4096),
    _encrypted("luks-cs512", "luks", cluster_size=512),
    _encrypted("luks-cs2097152", "luks", cluster_size=2 * MIB),
    _encrypted("luks-el2-cs16384", "luks", extended_l2="on", cluster_size=16384),
    _encrypted("luks-snapshots-compressed", "luks", snapshots=("one", "two"), compressed=True),
    _encrypted("luks-snapshots-el2", "luks", snapshots=("one",), extended_l2="on"),
    _encrypted("luks-data-file", "luks", data_file="plain"),
    _encrypted("luks-data-file-raw-cs4096", "luks", data_file="raw", data_file_raw="on",
               cluster_size=4096),
    _encrypted("luks-metadata", "luks", preallocation="metadata"),
    _encrypted("luks-raw-base-odd", "luks", base=_raw_base(1_500_001)),
    _encrypted("luks-cbc-essiv", "luks", encrypt={"cipher-mode": "cbc", "ivgen-alg": "essiv",
                                                  "ivgen-hash-alg": "sha256"}),
    _encrypted("luks-192-cs4096", "luks", encrypt={"cipher-alg": "aes-192"}, cluster_size=4096),
    _encrypted("aes-v2-snapshots", "aes", snapshots=("one", "two"), compat="0.10"),
    _encrypted("aes-el2-compressed", "aes", extended_l2="on", compressed=True),
    _encrypted("aes-snapshots-cs4096", "aes", snapshots=("one", "two"), cluster_size=4096),
    _encrypted("aes-data-file-el2", "aes", data_file="plain", extended_l2="on"),
    _encrypted("aes-qcow2-base", "aes", base=_qcow2_base(4096)),
]


# ---- running ----------------------------------------------------------------------------

def _program():
    path = Path(env.qimg()).resolve().parents[1] / "tests" / "model" / "model-writers"
    if not path.exists():
        pytest.skip(f"{path} was not built")
    return path


def _draw_options(kind, rng):
    options = [rng.choice([[], [], ["l2_cache=64K"], ["data_cache=0"],
                           ["l2_cache=64K", "threads=2"]])]
    options.append(rng.choice([[], [], [], ["discard=zero"], ["discard=ignore"]]))
    options.append(rng.choice([[], [], [], ["nogrowable"]]))
    options.append([f"format={kind.image_format}"])
    return [f"--option={o}" for some in options for o in some]


class Subject:
    """An image, and the files that must stay as they are while its disk changes."""

    def __init__(self, kind, directory, rng):
        self.kind, self.directory, self.rng = kind, directory, rng
        built = kind.build(directory, rng)
        self.encrypted = built if isinstance(built, EncryptedImage) else None
        self.image = built.path if self.encrypted else built
        self.dump = directory.parent / "model"
        own = {self.image.name, f"{self.image.name}.data"}
        self.others = [path for path in directory.iterdir() if path.name not in own]
        self.digests = [sha256(path.read_bytes()).digest() for path in self.others]
        self.snapshots = {name: self._snapshot(name) for name in self._names()}

    def _info(self):
        return qemu.info_json(self.image, self.kind.image_format)

    def _names(self):
        return [snapshot["name"] for snapshot in self._info().get("snapshots", [])]

    def _snapshot(self, name):
        out = self.directory.parent / "snapshot"
        if self.encrypted:
            return self.encrypted.content(name, out)
        return qemu.to_raw(self.image, out, name).read_bytes()

    def write(self, threads, overlaps, n_ops, *more):
        argv = [_program(), f"--seed={self.rng.getrandbits(32)}", f"--ops={n_ops}",
                f"--threads={threads}", f"--max-size={self.kind.max_size}",
                f"--dump={self.dump}", *more, *_draw_options(self.kind, self.rng)]
        if self.encrypted:
            argv.append(f"--option=passphrase_file={self.directory / 'passphrase'}")
        if overlaps:
            argv.append("--overlap")
        is_cow = any("cow=" in option for option in more)       # the overlay's format counts
        if self.kind.grows and not is_cow:
            argv.append("--grow")
        elif self.kind.resizes or self.kind.grows:
            argv.append("--resize")
        result = procs.run(*argv, self.image, limit_s=30 + n_ops / 20, check=False)
        print(result)
        assert result.status == 0, result.errors
        return result

    def check(self, may_leak=False):
        """QEMU finds the image sound, and in it the model's content."""
        if self.kind.image_format != "raw":
            found = (self.encrypted.check() if self.encrypted else
                     qemu.img("check", "-f", self.kind.image_format, self.image.name,
                              cwd=self.directory, check=False))
            assert found.status in ((0, 3) if may_leak else (0,)), str(found)
        if self.kind.image_format == "qed":
            assert self.image.read_bytes()[16] & 2 == 0, "NEED_CHECK is set after the close"
        if self.kind.image_format == "qcow2":
            data = self._info()["format-specific"]["data"]
            assert not data.get("corrupt"), data
        model = self.dump.read_bytes()
        model += bytes(-len(model) % 512)       # QEMU counts in sectors
        out = self.directory.parent / "raw"
        found = (self.encrypted.content(out=out) if self.encrypted else
                 qemu.to_raw(self.image, out, image_format=self.kind.image_format).read_bytes())
        pattern.assert_same(found, model, "qemu-img convert and the model")
        # A write that finds no room for its entry may have reached the data file.
        if self.kind.data_file and not may_leak:
            data = (self.directory / self.kind.data_file).read_bytes()
            pattern.assert_same(data, model, "the raw data file and the model")
        for path, digest in zip(self.others, self.digests):
            assert sha256(path.read_bytes()).digest() == digest, f"{path.name} has changed"
        assert self._names() == list(self.snapshots)
        for name, was in self.snapshots.items():
            now = self._snapshot(name)
            both = min(len(was), len(now))      # it is shown in the disk's present size
            pattern.assert_same(now[:both], was[:both], f"snapshot {name}")


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_writes(kind, tmp_path, rng):
    directory = tmp_path / "images"
    directory.mkdir()
    subject = Subject(kind, directory, rng)
    before = sha256(subject.image.read_bytes()).digest()
    subject.write(1, False, 0)
    subject.check()
    assert sha256(subject.image.read_bytes()).digest() == before, "opened, never written to"
    for threads, overlaps in RUNS:
        subject.write(threads, overlaps, N_OPS)
        subject.check()


@pytest.mark.parametrize("kind", [k for k in KINDS if k.name in (
    "v3-cs4096", "el2-cs65536", "zlib-cs4096", "raw-base-odd", "snapshots", "data-file", "raw-odd", "qed")],
    ids=lambda kind: kind.name)
def test_overlay_that_stays(kind, tmp_path, rng):
    """cow=FILE: all writes go to FILE, repeatedly; the image stays as it is."""
    directory = tmp_path / "images"
    directory.mkdir()
    subject = Subject(kind, directory, rng)
    files = [*subject.others, subject.image, *directory.glob("*.data")]
    digests = [sha256(path.read_bytes()).digest() for path in files]
    overlay = directory / "overlay"
    for threads, overlaps in RUNS[:3]:
        subject.write(threads, overlaps, N_OPS, f"--option=cow={overlay}")
        qemu.img("check", "-f", "qcow2", overlay.name, cwd=directory)
        model = subject.dump.read_bytes()
        pattern.assert_same(qemu.to_raw(overlay, tmp_path / "raw").read_bytes(),
                            model + bytes(-len(model) % 512), "the overlay and the model")
        assert [sha256(path.read_bytes()).digest() for path in files] == digests


def test_lazy_refcounts_stay(tmp_path, rng):
    """The option is kept, but the image is clean."""
    kind = next(k for k in KINDS if k.name == "lazy")
    directory = tmp_path / "images"
    directory.mkdir()
    subject = Subject(kind, directory, rng)
    subject.write(1, False, 100)
    info = qemu.info_json(subject.image)
    assert info["format-specific"]["data"]["lazy-refcounts"] is True
    assert info["dirty-flag"] is False


FULL = ["v2-cs4096", "v3-cs512", "v3-cs65536", "el2-cs16384", "zlib-cs4096", "raw-base-odd",
        "snapshots", "data-file", "data-file-raw-cs512", "metadata", "tiny-cs512", "qed", "qed-raw-base-odd", "raw",
        "luks-snapshots-el2", "aes-data-file-el2"]
FULL = [kind for kind in KINDS if kind.name in FULL]


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", FULL, ids=lambda kind: kind.name)
def test_full_file_system(kind, tmp_path, rng):
    """ENOSPC: unwritten parts are as before, the image is sound, and continues when there is space
    again."""
    env.need_root("a file system of its own")
    directory = tmp_path / "images"
    directory.mkdir()
    subject = Subject(kind, directory, rng)
    used = sum(path.stat().st_blocks for path in directory.iterdir()) * 512
    moved = tmp_path / "moved"
    directory.rename(moved)
    with small_tmpfs(directory, used + rng.choice([64, 512, 1024]) * 1024):
        for path in moved.iterdir():
            procs.run("cp", "--sparse=always", path, directory)
        shutil.rmtree(moved)
        for threads in (1, 4, 1):
            subject.write(threads, False, N_OPS, "--lacks-space")
            subject.check(may_leak=True)
        procs.run("mount", "-o", "remount,size=64M", directory)
        subject.write(4, False, N_OPS)
        subject.check(may_leak=True)
