# SPDX-License-Identifier: GPL-2.0-or-later
"""Random images: features, chain and a sequence of operations drawn from a printed seed; QEMU and
a byte-array model are the references. QCOWFS_TEST_SEED repeats a run, QCOWFS_TEST_RANDOM_IMAGES
sets their number."""

import os

from qtest import pattern, qemu
from qtest.checks import LastChecks, MatrixChecks, ModelChecks
from qtest.matrix import Case, Model

COUNT = int(os.environ.get("QCOWFS_TEST_RANDOM_IMAGES", "48"))


def _draw_options(rng):
    compat = rng.choice(["0.10", "1.1", "1.1", "1.1"])
    cluster = 1 << rng.choice([9, 9, 10, 12, 12, 14, 16, 16, 16, 18, 21])
    options = {"compat": compat, "cluster_size": cluster}
    if compat == "1.1":
        options["refcount_bits"] = rng.choice([8, 16, 16, 32, 64])
        options["lazy_refcounts"] = rng.choice(["on", "off"])
        options["compression_type"] = rng.choice(["zlib", "zstd"])
        if cluster >= 1 << 14 and rng.random() < 0.5:
            options["extended_l2"] = "on"
    if rng.random() < 0.25:
        options["preallocation"] = "metadata"
    return options, cluster


def _draw_backing(directory, rng, size):
    """None, or (name, format, content) of a base with an independent size."""
    kind = rng.choice([None, "raw", "qcow2"])
    if kind is None:
        return None
    base_size = rng.choice([size, size // 2, size * 2, rng.randrange(1, size)])
    if kind == "qcow2":
        base_size = max(512, base_size // 512 * 512)
    pieces = [(at, min(rng.randrange(1, 80_000), base_size - at), "words", 77)
              for at in sorted(rng.randrange(0, base_size) for _ in range(5))]
    raw = qemu.make_raw(directory / "base.raw", base_size, *pieces)
    content = raw.read_bytes()
    if kind == "qcow2":
        compress = ["-c"] if rng.random() < 0.5 else []
        qemu.img("convert", *compress, "-f", "raw", "-O", "qcow2", "-o",
                 f"cluster_size={1 << rng.choice([9, 12, 16])}", "base.raw", "base.qcow2",
                 cwd=directory)
        raw.unlink()
        return "base.qcow2", "qcow2", content
    return "base.raw", "raw", content


class _Sequence:
    """Operations on both the image and the model."""

    def __init__(self, image, size, cluster, content, rng):
        self.image, self.size, self.cluster, self.rng = image, size, cluster, rng
        self.model = Model(bytearray(content[:size].ljust(size, b"\0")))
        self._undefined = bytearray(size)     # 1 where a discard has left it undefined
        self._batch = []

    def _set(self, start, data):
        self.model.content[start:start + len(data)] = data
        self._undefined[start:start + len(data)] = bytes(len(data))

    def _range(self):
        rng, sectors = self.rng, self.size // 512
        start = rng.randrange(0, sectors)
        if rng.random() < 0.4:
            start = start * 512 // self.cluster * self.cluster // 512
        length = rng.choice([1, 2, rng.randrange(1, 64), self.cluster // 512,
                             rng.randrange(1, 4) * self.cluster // 512])
        return start * 512, max(512, min(length, sectors - start, 4096) * 512)

    def flush(self):
        qemu.write(self.image, *self._batch)
        self._batch = []

    def step(self, salt):
        start, length = self._range()
        choice = self.rng.random()
        if choice < 0.5:
            kind = self.rng.choice(["words", "words", "noise", "mixed", "constant"])
            self._batch.append((start, length, kind, salt))
            self._set(start, pattern.KINDS[kind](start, length, salt))
            return
        self.flush()
        if choice < 0.65:
            qemu.io(self.image, f"write -z {start} {length}")
            self._set(start, bytes(length))
        elif choice < 0.75:
            qemu.io(self.image, f"write -z -u {start} {length}")
            self._set(start, bytes(length))
        elif choice < 0.87:
            qemu.io(self.image, f"discard {start} {length}")
            self._undefined[start:start + length] = b"\1" * length
        else:
            self._write_compressed(start, salt)

    def _write_compressed(self, start, salt):
        start = start // self.cluster * self.cluster
        length = min(self.cluster, self.size - start)
        data = pattern.mixed(start, length, salt)
        try:
            qemu.write(self.image, (start, length, "mixed", salt, "-c"))
        except AssertionError:
            return      # QEMU refuses to compress over an allocated cluster
        self._set(start, data)

    def finish(self):
        self.flush()
        at = 0
        while (start := self._undefined.find(1, at)) >= 0:
            end = self._undefined.find(0, start)
            at = end if end >= 0 else self.size
            self.model.open.append((start, at))
        return self.model


def _random_image(number):
    name = f"random{number:03}"

    def build(directory, rng):
        options, cluster = _draw_options(rng)
        size = rng.randrange(1, (4 << 20) // 512) * 512
        backing = _draw_backing(directory, rng, size)
        if backing:
            options.pop("preallocation", None)
        image = qemu.create(directory / f"{name}.qcow2", size, *(backing or (None, None))[:2],
                            **options)
        print(name, options, size, backing and (backing[:2], len(backing[2])))
        sequence = _Sequence(image, size, cluster, backing[2] if backing else b"", rng)
        for step in range(rng.randrange(5, 40)):
            sequence.step(step + 1)
            if rng.random() < 0.05 and options.get("refcount_bits", 16) > 1:
                sequence.flush()
                qemu.img("snapshot", "-c", f"s{step}", image.name, cwd=directory)
        return image, sequence.finish()

    return Case(name, build)


class TestRandomImages(MatrixChecks, ModelChecks, LastChecks):
    cases = [_random_image(number) for number in range(COUNT)]
