#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the seed corpus of the fuzz targets from images by qemu-img and qemu-io.

make-corpus.py [DIR]: writes DIR/<target>/<name> (default: corpus beside this file). The files are
part of the source; run it again only to add seeds. Files named crash-* are former findings and are
not touched."""
import os
import struct
import subprocess
import sys
import tempfile
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support", "py"))

OFFSET_MASK = 0x00FFFFFFFFFFFE00
MAX_IMAGE_BYTES = 24 * 1024


def run(*args):
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)


class Corpus:
    def __init__(self, root):
        self.root = root

    def put(self, target, name, data):
        folder = os.path.join(self.root, target)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)


def create(path, size, options, backing=None):
    args = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options)]
    if backing:
        args += ["-b", backing[0], "-F", backing[1]]
    run(*args, path, str(size))


def io(path, *commands, fmt="qcow2"):
    args = ["qemu-io", "-f", fmt]
    for command in commands:
        args += ["-c", command]
    run(*args, path)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def header(data):
    keys = ("version", "backing", "backing_size", "bits", "size", "crypt", "l1_size",
            "l1", "reftable", "reftable_clusters", "snapshots", "snapshot_offset")
    return dict(zip(keys, struct.unpack(">IQIIQIIQQIIQ", data[4:72])))


def streams(data):
    """The compressed streams named by the active L1 table of an image."""
    h = header(data)
    shift = 62 - (h["bits"] - 8)
    for i in range(h["l1_size"]):
        (l1,) = struct.unpack_from(">Q", data, h["l1"] + 8 * i)
        table = l1 & OFFSET_MASK
        for j in range((1 << h["bits"]) // 8 if table else 0):
            (word,) = struct.unpack_from(">Q", data, table + 8 * j)
            if word >> 62 & 1:
                host = word & ((1 << shift) - 1)
                sectors = (word >> shift & ((1 << (h["bits"] - 8)) - 1)) + 1
                yield data[host:host + sectors * 512 - host % 512]


def make_images(folder):
    """Small images of all kinds: name to bytes."""
    def p(name):
        return os.path.join(folder, name)

    some = ["write -P 1 0 700", "write -P 2 5k 3k", "write -z 9k 2k", "write -P 3 15k 512"]
    plain = {
        "v2": ["compat=0.10", "cluster_size=512"],
        "v3": ["cluster_size=512"],
        "v3-1k": ["cluster_size=1024"],
        "v3-lazy": ["cluster_size=512", "lazy_refcounts=on"],
        "v3-refcount1": ["cluster_size=512", "refcount_bits=1"],
        "v3-refcount64": ["cluster_size=512", "refcount_bits=64"],
        "v3-zstd": ["cluster_size=512", "compression_type=zstd"],
        "v3-metadata": ["cluster_size=512", "preallocation=metadata"],
    }
    for name, options in plain.items():
        create(p(name), 20000, options)
        run("qemu-img", "resize", "-q", "-f", "qcow2", p(name), "20480")
        io(p(name), *some[:2], *(some[2:3] if name != "v2" else []), some[3])
    create(p("empty"), 0, ["cluster_size=512"])
    create(p("huge"), 1 << 37, ["cluster_size=65536"])
    create(p("extended-empty"), 40960, ["cluster_size=16k", "extended_l2=on"])
    create(p("extended"), 40960, ["cluster_size=16k", "extended_l2=on"])
    io(p("extended"), "write -P 1 512 512", "write -z 2k 1k", "write -P 2 36k 1k")
    with open(p("source"), "wb") as f:
        f.write(b"abc" * 3000 + bytes(range(256)) * 20 + bytes(3000) + b"x" * 3360)
    for kind in ("zlib", "zstd"):
        for cluster in ("512", "4k"):
            run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", "-o",
                f"cluster_size={cluster},compression_type={kind}", p("source"),
                p(f"compressed-{kind}-{cluster}"))
    create(p("base.raw.qcow2"), 8192, ["cluster_size=512"])
    create(p("backing"), 20480, ["cluster_size=512"], ("base.raw.qcow2", "qcow2"))
    io(p("backing"), "write -P 7 3k 1k")
    create(p("snapshots"), 20480, ["cluster_size=512"])
    io(p("snapshots"), *some)
    for name in ("one", "two", "a name with spaces and ünicode"):
        run("qemu-img", "snapshot", "-c", name, p("snapshots"))
        io(p("snapshots"), f"write -P {len(name)} 2k 1k")
    create(p("datafile"), 20480, ["cluster_size=512", f"data_file={p('df.raw')}"])
    io(p("datafile"), "write -P 1 1k 1k")
    create(p("datafile-raw"), 20480, ["cluster_size=512", "data_file_raw=on",
                                      f"data_file={p('df2.raw')}"])
    create(p("bitmap"), 20480, ["cluster_size=512"])
    run("qemu-img", "bitmap", "--add", p("bitmap"), "bits")
    names = list(plain) + [
        "empty", "huge", "extended", "extended-empty", "compressed-zlib-512",
        "compressed-zlib-4k", "compressed-zstd-512", "compressed-zstd-4k", "backing",
        "snapshots", "datafile", "datafile-raw", "bitmap"]
    images = {name: read(p(name)) for name in names}
    # The machine's directory does not belong in the source.
    for name in ("datafile", "datafile-raw"):
        images[name] = images[name].replace(folder.encode(), b"." * len(folder))
    return images


def compact_extended(image):
    """An image with extended entries in 17 KiB: its one cluster besides the header is L1 table, L2
    table and data at once, which readers permit."""
    head = bytearray(image[:16384])
    struct.pack_into(">IQQ", head, 36, 1, 16384, 16384)
    words = [0x8000000000004000, 0x00000006FFFFFFF9, 0, 0xFFFFFFFF00000000,
             0x8000000000004000, 2, 0x4000000000004000, 0, 0x8000000000004000, 1 << 32 | 1]
    return bytes(head) + b"".join(struct.pack(">Q", w) for w in words)


def make_luks(folder):
    from qtest import qemu

    return read(qemu.create_encrypted(os.path.join(folder, "luks"), 65536))


def put_encrypted_scripts(corpus, images):
    """Encrypted images for fuzz-image-rw, which open with its passphrase. LUKS images are long."""
    for name, image in images.items():
        for script_name, script in list(SCRIPTS.items())[:1 if "luks" in name else 4]:
            corpus.put("fuzz-image-rw", f"{name}-{script_name}",
                       (b"\4" if "luks" in name else b"\0") + script + image)


def make_small_luks(folder):
    """An empty image up to the end of the first slot's key material, and the L1 table: those of the
    other slots are a hole."""
    from qtest import qemu

    image = read(qemu.create_encrypted(
        os.path.join(folder, "small-luks"), 262144, cluster_size=512, encrypt={
            "cipher-alg": "aes-128", "cipher-mode": "ecb", "iter-time": 1}))
    area = image.index(b"LUKS\xba\xbe")
    (material,) = struct.unpack_from(">I", image, area + 208 + 40)
    l1 = area + material * 512 + 64000
    return image[:40] + struct.pack(">Q", l1) + image[48:l1] + bytes(512)


def make_aes(image):
    """@image with the method AES; its data, which are not encrypted, decrypt to noise."""
    return image[:32] + struct.pack(">I", 1) + image[36:]


def put_luks_headers(corpus, image):
    """The header alone, with a second active slot, and with other ciphers."""
    at = image.index(b"LUKS\xba\xbe")
    head = image[at:at + 592]
    corpus.put("fuzz-luks-header", "xts", head)
    corpus.put("fuzz-luks-header", "two-slots",
               head[:256] + struct.pack(">II", 0x00AC71F3, 1000) + head[264:])
    for name, mode in (("cbc-essiv", b"cbc-essiv:sha256"), ("ecb", b"ecb")):
        corpus.put("fuzz-luks-header", name,
                   head[:40] + mode.ljust(32, b"\0") + head[72:108] + struct.pack(">I", 32)
                   + head[112:])


def spoiled(image):
    """Variants of one image with damage of each kind in its tables."""
    h = header(image)
    (l1,) = struct.unpack_from(">Q", image, h["l1"])
    table = l1 & OFFSET_MASK
    for name, at, word in (
            ("l1-unaligned", h["l1"], 0x8000000000000300),
            ("l1-far", h["l1"], 0x8000000000000000 | 1 << 40),
            ("l1-self", h["l1"], h["l1"]),
            ("l2-unaligned", table, 0x8000000000000800 if h["bits"] > 11
             else 0x8000000000000000 | 1 << 50),
            ("l2-header", table, 0x8000000000000000 | 1 << h["bits"]),
            ("l2-stream-far", table, 0x4000000000000000 | 1 << 45),
            ("l2-stream-long", table, 0x7E00000000000000),
            ("l2-zero", table, 0x8000000000000001)):
        yield name, image[:at] + struct.pack(">Q", word) + image[at + 8:]
    for bit in (0, 1, 5, 40):
        yield f"feature-{bit}", image[:72] + struct.pack(">Q", 1 << bit) + image[80:]


def chain(*images):
    return b"".join(struct.pack(">I", len(image)) + image for image in images)


# Twelve operations of three bytes each: what, where, how much.
SCRIPTS = {
    "fill": bytes(n % 256 for n in range(0, 36 * 7, 7)),
    "free": bytes([7, 0, 255, 0, 3, 90, 11, 0, 0, 8, 2, 80, 5, 7, 100, 0, 9, 64, 11, 0, 0,
                   6, 12, 33, 0, 1, 140, 7, 0, 200, 11, 0, 0, 1, 5, 20]),
    "resize": bytes([0, 1, 80, 10, 200, 90, 0, 250, 70, 10, 10, 3, 4, 9, 90, 10, 255, 255,
                     9, 200, 255, 10, 0, 200, 11, 0, 0, 10, 130, 1, 1, 0, 150, 4, 1, 1]),
    "snapshots": bytes([12, 0, 0, 0, 4, 90, 12, 30, 0, 1, 200, 20, 13, 0, 0, 15, 1, 0,
                        2, 2, 120, 14, 1, 0, 5, 0, 70, 15, 0, 0, 14, 0, 0, 12, 60, 0]),
}


def put_scripts(corpus, images, extended):
    """Images for fuzz-image-rw: a byte of choices, a script, the file. @extended is empty, with
    large clusters."""
    for number, (name, image) in enumerate(images.items()):
        if len(image) > MAX_IMAGE_BYTES * 3:
            continue
        for script_name, script in SCRIPTS.items():
            assert len(script) == 36
            corpus.put("fuzz-image-rw", f"{name}-{script_name}",
                       bytes([number % 4]) + script + image[:MAX_IMAGE_BYTES])
    # Its L1 table is the last that it has.
    for script_name, script in SCRIPTS.items():
        corpus.put("fuzz-image-rw", f"extended-{script_name}",
                   b"\1" + script + extended[:header(extended)["l1"] + 64])
    for name, image in spoiled(images["v3"]):
        corpus.put("fuzz-image-rw", name, b"\0" + SCRIPTS["fill"] + image)


# Of bitmaps: added, merged, cleared, disabled, recovered, removed, with changes in between.
BITMAPS_SCRIPT = bytes([11, 1, 0, 0, 1, 80, 11, 1, 6, 10, 200, 20, 0, 130, 90, 11, 3, 5, 11, 1, 3,
                        7, 4, 200, 12, 0, 0, 11, 3, 7, 15, 0, 0, 11, 3, 1])


def put_bitmaps(corpus, image):
    """The image with the bitmap "bits" for fuzz-image-rw: sound, and with each kind of damage."""
    at = image.index(b"\x23\x85\x28\x75") + 8
    (directory,) = struct.unpack_from(">Q", image, at + 16)
    (table,) = struct.unpack_from(">Q", image, directory)
    l1 = image[40:48]
    for name, place, value in (
            ("sound", 0, b""), ("in-use", directory + 15, b"\3"), ("flags", directory + 15, b"\6"),
            ("granularity", directory + 17, b"\x1f"), ("table-huge", directory + 8, b"\x08\0\0\0"),
            ("table-l1", directory, l1), ("table-directory", directory, struct.pack(">Q", directory)),
            ("table-far", directory, b"\0\1" + bytes(6)), ("bits-l1", table, l1),
            ("bits-table", table, struct.pack(">Q", table)), ("bits-ones", table, b"\0" * 7 + b"\1"),
            ("directory-l1", at + 16, l1), ("directory-long", at + 8, b"\0\0\0\0\3\xff\xfc\0"),
            ("many", at, b"\0\0\xff\xff"), ("stale", 88, bytes(8))):
        corpus.put("fuzz-image-rw", f"bitmap-{name}",
                   b"\0" + BITMAPS_SCRIPT + image[:place] + value + image[place + len(value):])


def put_checks(corpus, images):
    """Images for fuzz-qcow2-check: a byte for the kind of repair, then the file."""
    for name, image in images.items():
        if len(image) > MAX_IMAGE_BYTES * 3:
            continue
        for mode, mode_name in enumerate(("leaks", "all")):
            corpus.put("fuzz-qcow2-check", f"{name}-{mode_name}", bytes([mode]) + image[:MAX_IMAGE_BYTES])
    for name, image in spoiled(images["v3"]):
        corpus.put("fuzz-qcow2-check", name, b"\1" + image)
    image = images["v3"]
    for name, at, value in (("no-table", 48, bytes(12)), ("table-far", 48, b"\0\1" + bytes(6)),
                            ("no-counts", header(image)["reftable"], bytes(8)),
                            ("block-odd", header(image)["reftable"], b"\x55" * 8)):
        corpus.put("fuzz-qcow2-check", name, b"\1" + image[:at] + value + image[at + len(value):])


def put_partitions(corpus):
    """Disks for fuzz-partitions: the beginning, 256 KiB of zeros, the end."""
    def put(name, head, tail=b"", mends=0):
        corpus.put("fuzz-partitions", name, struct.pack("<BBH", mends, 4, len(head)) + head + tail)

    def table(*entries):
        return (b"".join(struct.pack("<BBBBBBBBII", 0, 0, 0, 0, kind, 0, 0, 0, first, count)
                         for kind, first, count in entries).ljust(64, b"\0") + b"\x55\xaa")

    def gpt(sector, n_sectors):
        """Header, entries; their copies, the other way round."""
        entries = b"".join(
            bytes.fromhex("af3dc60f838472478e793d69d8477de4") + bytes([i] * 16) +
            struct.pack("<QQQ", 34 + 2 * i, 35 + 2 * i, 1 << 63 | 1) +
            name.encode("utf-16-le").ljust(72, b"\0") for i, name in enumerate(("one", "zwei €", "")))
        entries = entries.ljust(512, b"\0")

        def header(here, other, at):
            def pack(crc):
                return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 1 << 16, 92, crc, 0, here, other,
                                   3, n_sectors - 4, bytes(16), at, 4, 128, zlib.crc32(entries))
            return pack(zlib.crc32(pack(0))).ljust(sector, b"\0")

        last = n_sectors - 1
        padded = entries.ljust(sector, b"\0")
        return header(1, last, 2) + padded, padded + header(last, 1, last - 1)

    link = bytes(446)
    for sector in (512, 4096):
        first, copy = gpt(sector, 5 + 4 * 65536 // sector)
        protective = (link + table((0xEE, 1, 9))).ljust(sector, b"\0")
        hybrid = (link + table((0xEE, 1, 9), (0x83, 34, 2))).ljust(sector, b"\0")
        for mends in (0, 1):
            put(f"gpt{sector}-{mends}", protective + first, copy, mends)
        put(f"gpt{sector}-copy", protective, bytes(2 * sector) + copy)
        put(f"gpt{sector}-hybrid", hybrid + first, copy)
    put("mbr", link + table((0x83, 4, 100), (7, 104, 10), (0xEF, 200, 9000)))
    put("logical", link + table((0x0F, 2, 100), (0x83, 120, 1)) + bytes(512) +
        link + table((0x83, 1, 1), (5, 2, 9)) + bytes(512) + link + table((0x82, 1, 1)))
    put("loop", link + table((5, 1, 100)) + link + table((5, 1, 1)) + link + table((0x85, 0, 1)))


def make_qed_images():
    """Small QED images by hand, since QEMU opens none with tables of one cluster: name to
    bytes. Header, L1 table, L2 table and two data clusters of 4 KiB each."""
    def image(*l2, features=0, header=(), l1=8192, name=b""):
        head = struct.pack("<4sIIIQQQQQII", b"QED", 4096, 1, 1, features, 0, 0, 4096, 40960,
                           64 if name else 0, len(name)) + name
        out = bytearray(head.ljust(4096, b"\0") + struct.pack("<Q", l1).ljust(4096, b"\0"))
        out += struct.pack(f"<{len(l2)}Q", *l2).ljust(4096, b"\0") if l1 else b""
        out += b"".join(bytes([n + 1]) * 4096 for n in range(len([e for e in l2 if e > 1])))
        for at, value in header:
            struct.pack_into("<Q", out, at, value)
        return bytes(out)

    sound = [12288, 0, 1, 16384]
    images = {
        "qed": image(*sound),
        "qed-empty": image(l1=0),
        "qed-backing": image(*sound, features=5, name=b"below.raw"),
        "qed-need-check": image(*sound, features=2),
        "qed-leak": image(*sound) + bytes(9000),
        "qed-cut": image(*sound)[:-4096],
        "qed-cut-cluster": image(*sound)[:-1000],
        "qed-cut-table": image(*sound)[:6000],
        "qed-feature": image(*sound, features=8),
        "qed-bits": image(*sound, header=((24, 1 << 63 | 5), (32, 3))),
        "qed-largest": image(*sound, header=((48, 512 * 512 * 4096),)),
    }
    for name, l1 in (("l1-unaligned", 8704), ("l1-far", 1 << 50), ("l1-self", 4096)):
        images[f"qed-{name}"] = image(*sound, l1=l1, features=2)
    images["qed-l1-twice"] = image(*sound, header=((4104, 8192),))
    for name, entry in (("unaligned", 12288 | 512), ("far", 1 << 62), ("header", 2048),
                        ("table", 8192), ("l1", 4096), ("shared", 16384), ("max", (1 << 64) - 1)):
        images[f"qed-l2-{name}"] = image(entry, *sound[1:], features=2)
    images["qed-l2-clean"] = image(1 << 62, *sound[1:])
    return images


def put_qed(corpus):
    for number, (name, image) in enumerate(make_qed_images().items()):
        corpus.put("fuzz-qed-header", name, image[:128])
        corpus.put("fuzz-image", name, image)
        corpus.put("fuzz-qed-check", name, bytes([number != 4]) + image)
        for script_name in ("fill", "free", "resize") if number < 4 else ("fill",):
            corpus.put("fuzz-image-rw", f"{name}-{script_name}",
                       bytes([number % 4]) + SCRIPTS[script_name] + image)


def make_qcow1(folder):
    """Images of qcow version 1: name to bytes."""
    from qtest.qcow1 import Qcow1Writer, stream_entry

    size = 40960
    out = {}
    for bits, l2_bits in ((9, 6), (12, 9), (16, 6)):
        image = Qcow1Writer(size + 700, bits, l2_bits, b"base" if bits == 9 else b"")
        cluster = 1 << bits
        for number in range(-(-size // cluster)):
            data = bytes([number]) * (cluster // 2) + bytes(range(256)) * (cluster // 512)
            if number % 3 == 0:
                image.add_compressed(number, data, table_unit=8)
            elif number % 3 == 1 and bits < 16:
                image.add_data(number, data, 512, 8)
        out[f"bits{bits}"] = bytes(image.bytes)
    create = ["qemu-img", "create", "-q", "-f", "qcow", os.path.join(folder, "q"), "20000"]
    run(*create)
    io(os.path.join(folder, "q"), "write -P 1 0 700", "write -P 2 5k 3k", fmt="qcow")
    out["qemu"] = read(os.path.join(folder, "q"))
    base = out["qemu"]
    (table,) = struct.unpack_from(">Q", base, 48)
    for name, at, word in (("l1-odd", 48, 4097), ("l1-far", 48, 1 << 62), ("l1-header", 48, 48),
                           ("l2-far", table, 1 << 62), ("l2-odd", table, 513),
                           ("l2-header", table, 512), ("stream", table, stream_entry(12, 48, 400)),
                           ("stream-empty", table, stream_entry(12, 48, 0)),
                           ("stream-far", table, (1 << 64) - 1)):
        out[name] = base[:at] + struct.pack(">Q", word) + base[at + 8:]
    out["aes"] = base[:36] + struct.pack(">I", 1) + base[40:]
    out["cut"] = base[:table + 1000]
    return out


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    corpus = Corpus(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "corpus"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        images = make_images(folder)
        luks = make_luks(folder)
        put_luks_headers(corpus, luks)
        images["luks"] = luks[:4096]
        small_luks = make_small_luks(folder)
        qcow1 = make_qcow1(folder)
    put_qed(corpus)
    extended = images.pop("extended-empty")
    images["extended-compact"] = compact_extended(images["extended"])
    for name, image in images.items():
        corpus.put("fuzz-qcow2-header", name, image[:768])
        if len(image) <= MAX_IMAGE_BYTES * 3:
            corpus.put("fuzz-image", name, image[:MAX_IMAGE_BYTES])
    for name, image in spoiled(images["v3"]):
        corpus.put("fuzz-image", name, image)
    corpus.put("fuzz-image", "cut", images["v3"][:3000])
    put_partitions(corpus)
    put_scripts(corpus, images, extended)
    put_encrypted_scripts(corpus, {"aes": make_aes(images["v3"]), "aes-snapshots": make_aes(images["snapshots"]),
                                   "small-luks": small_luks})
    put_bitmaps(corpus, images["bitmap"])
    put_checks(corpus, images)
    for name, image in qcow1.items():
        corpus.put("fuzz-qcow1", name, image[:1024])
        corpus.put("fuzz-qcow1-image", name, image)
    corpus.put("fuzz-chain", "qcow1", chain(images["backing"], qcow1["bits9"], images["v2"], b"raw" * 99))
    zlib_image = images["compressed-zlib-512"]
    corpus.put("fuzz-chain", "three", chain(images["backing"], images["v3"], zlib_image))
    corpus.put("fuzz-chain", "sizes", chain(images["backing"], images["v3-1k"],
                                            images["empty"], images["v3"]))
    corpus.put("fuzz-chain", "extended", chain(
        images["backing"], images["extended-compact"], images["compressed-zstd-4k"]))
    corpus.put("fuzz-chain", "raw", chain(images["backing"], images["v2"], b"raw" * 1000))
    corpus.put("fuzz-chain", "snapshots", chain(
        images["snapshots"], images["v2"], images["v3-zstd"]))
    data = images["snapshots"]
    corpus.put("fuzz-qcow2-snapshots", "three", data[header(data)["snapshot_offset"]:][:400])
    corpus.put("fuzz-qcow2-snapshots", "old",
               struct.pack(">QIHHIIQII", 4096, 1, 1, 2, 1, 2, 3, 4, 0) + b"1ab")
    corpus.put("fuzz-qcow2-snapshots", "longest",
               struct.pack(">QIHHIIQII", 4096, 1, 9, 9, 1, 2, 3, 4, 1024) + bytes(1050))
    words = [0x8000000000050000, 1, 0x8000000000070001, 0x4000000000080000,
             0x400000000008004F, 0x4A00000000054F1F, 0x50000, 0, 0xBF000000000501FE]
    bitmaps = [0, 2, 0x100000000, 0x6FFFFFFF9, 0xFFFFFFFF00000000, 0xFFFFFFFF, 1 << 31,
               0x8000000000000001, 0x200000002]
    for bits in (0, 5, 7, 12):
        for flags in range(8):
            corpus.put("fuzz-qcow2-tables", f"bits{bits + 9}-flags{flags}",
                       bytes([bits, flags, 0, 0, 0, 0, 0, 0xA0]) +
                       b"".join(struct.pack(">QQ", w, b) for w, b in zip(words, bitmaps)))
    extension = struct.pack(">IIQQ", 2, 0, 72, 0x1e0000)
    directory = (struct.pack(">QIIBBHI", 0x1c0000, 1, 2, 1, 16, 5, 0) + b"first" + bytes(3) +
                 struct.pack(">QIIBBHI", 0x1d0000, 4, 0, 1, 9, 13, 0) + b"second-bitmap" + bytes(3))
    for name, data in (("two", extension + directory + struct.pack(">QQQ", 0x1b0000, 1, 0)),
                       ("cut", extension + directory[:60]), ("none", extension),
                       ("extra", extension + struct.pack(">QIIBBHI", 0x1c0000, 1, 4, 1, 16, 1, 9)
                        + bytes(16) + struct.pack(">QQ", 2, 0x1b0001))):
        for bits in (0, 7):
            corpus.put("fuzz-qcow2-bitmaps", f"{name}-{bits + 9}", bytes([bits, 24]) + data)
    for order in range(7):
        for name, fill in (("zeros", b"\0"), ("ones", b"\xff"), ("mixed", b"\x5a\x01")):
            corpus.put("fuzz-qcow2-refcounts", f"order{order}-{name}",
                       struct.pack(">BQH", order, 0x8102030405060708, 77) +
                       fill * (64 // len(fill)))
    for kind in ("zlib", "zstd"):
        target = "fuzz-deflate" if kind == "zlib" else "fuzz-zstd"
        for cluster, selector in (("512", 0), ("4k", 3)):
            found = list(streams(images[f"compressed-{kind}-{cluster}"]))
            for i in (0, len(found) // 3, len(found) - 1):
                corpus.put(target, f"{cluster}-{i}", bytes([selector]) + found[i])
    for level in (0, 1, 9):
        packer = zlib.compressobj(level, zlib.DEFLATED, -15)
        stream = packer.compress(b"0123456789abcdef" * 256) + packer.flush()
        corpus.put("fuzz-deflate", f"level{level}", bytes([3]) + stream)
    names = [
        "base.qcow2", "/abs/base.qcow2", "../up", "file:name", "file:", "nbd:host:1",
        "a:b", "./a:b", "a/b:c", "", "json:", "json:{}", 'json:{"file":"ref"}',
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"b"}}',
        'json:{"driver":"raw","file.driver":"file","file.filename":"b"}',
        'json:{"driver":"file","filename":"b"}', 'json:{"filename":"b"}',
        'json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}',
        'json:{"driver":"qcow2","backing":null,"file":{"filename":"b"}}',
        'json:{"driver":1,"file":{"filename":[]}}', "json:" + "[" * 900,
        'json:{"filename":"\\u0000\\ud800"}', "name with ünicode \x1b[31m",
    ]
    for i, name in enumerate(names):
        corpus.put("fuzz-backing-name", f"name{i:02}", name.encode())


if __name__ == "__main__":
    main()
