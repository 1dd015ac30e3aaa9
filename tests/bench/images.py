# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the disks of the benchmark: each as an image and as the same raw file.

qemu-img makes all images. A family is a disk read by one or more rows; it is built when its first
row runs and removed after its last one."""

import contextlib
import dataclasses
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable

from content import BLOCK_BYTES, ZERO_BLOCK, noise, stale, text
from loop_mount import MKFS_EXT4
from qcow2_tables import Qcow2Tables

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
CLUSTER_BYTES = 64 * KIB  # qemu-img's default, used by nearly all images
CLUSTER_BLOCKS = CLUSTER_BYTES // BLOCK_BYTES
L2_REACH_BYTES = CLUSTER_BYTES // 8 * CLUSTER_BYTES  # mapped by one L2 table
_EXTENT_BYTES = 512 * KIB


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of the disks."""
    plain_bytes: int
    text_bytes: int
    n_extents: int       # of 512 KiB each, scattered over the sparse disk
    large_bytes: int     # disk with every L2 table, one for each 512 MiB
    chain_bytes: int
    ext4_bytes: int
    n_files: int         # in the archive to be extracted
    free_bytes: int      # maximal need of all this on the tmpfs
    disk_plain_bytes: int  # instead of plain_bytes, in rows on a disk
    disk_free_bytes: int   # their maximal need there

    def on_disk(self):
        return dataclasses.replace(self, plain_bytes=self.disk_plain_bytes)


FULL = Scale(plain_bytes=GIB, text_bytes=128 * MIB, n_extents=2048, large_bytes=TIB,
             chain_bytes=256 * MIB, ext4_bytes=512 * MIB, n_files=4000,
             free_bytes=6 * GIB, disk_plain_bytes=512 * MIB, disk_free_bytes=4 * GIB)
QUICK = Scale(plain_bytes=32 * MIB, text_bytes=16 * MIB, n_extents=64,
              large_bytes=64 * GIB, chain_bytes=16 * MIB, ext4_bytes=64 * MIB,
              n_files=200, free_bytes=512 * MIB, disk_plain_bytes=32 * MIB,
              disk_free_bytes=GIB)
SPARSE_BYTES = TIB
HUGE_BYTES = 16 * TIB


@dataclasses.dataclass
class Disk:
    """One disk in both its forms, and its expected bytes."""
    directory: str
    raw: str                         # the plain file
    image: str                       # the image; the top one of a chain
    size_bytes: int
    block: Callable[[int], bytes]    # index of a 4 KiB block → its content
    data_block: Callable[[random.Random], int]  # chooses an index with data
    format: str = "qcow2"            # of the image
    passphrase: str = ""             # the file with that of the image, if it is encrypted
    checkpoints: list[int] = dataclasses.field(default_factory=list)  # always verified
    records: str = ""                # compressed clusters for bench-inflate-speed
    codec: str = ""
    archive: str = ""                # to be extracted into the disk by its row
    n_extents: int = 0
    data_bytes: int = 0

    def sample_blocks(self, rng, n_blocks):
        """Indices to verify: three of four have data, the others are anywhere."""
        n_anywhere = n_blocks // 4
        blocks = self.checkpoints + [0, self.size_bytes // BLOCK_BYTES - 1]
        blocks += [self.data_block(rng) for _ in range(n_blocks - n_anywhere)]
        blocks += [rng.randrange(self.size_bytes // BLOCK_BYTES)
                   for _ in range(n_anywhere)]
        rng.shuffle(blocks)
        return blocks

    @contextlib.contextmanager
    def copy(self, as_image):
        """This disk with a writable copy of its image, or of its raw file, which is removed when
        the body ends. The image is beside the original, whose backing file it shares."""
        form = "image" if as_image else "raw"
        path = os.path.join(self.directory, f"copy.{form}")
        try:
            subprocess.run(["cp", "--sparse=auto", getattr(self, form), path],
                           stdin=subprocess.DEVNULL, check=True)
            yield dataclasses.replace(self, **{form: path})
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def remove(self):
        shutil.rmtree(self.directory)


def _qemu_img(*args):
    result = subprocess.run(["qemu-img", *args], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"qemu-img {args[0]}: {result.stderr.strip()}")


def _write_sparse(path, size_bytes, runs, block):
    """Writes a raw file with data in `runs` (pairs of block index and count)."""
    with open(path, "wb") as file:
        file.truncate(size_bytes)
        for first_block, n_blocks in runs:
            file.seek(first_block * BLOCK_BYTES)
            for block_index in range(first_block, first_block + n_blocks):
                file.write(block(block_index))


def _flat_disk(directory, size_bytes, block):
    """A disk full of data, as a raw file; its image is still to be made."""
    n_blocks = size_bytes // BLOCK_BYTES
    disk = Disk(directory, raw=os.path.join(directory, "plain.raw"),
                image=os.path.join(directory, "disk.image"), size_bytes=size_bytes,
                block=block, data_block=lambda rng: rng.randrange(n_blocks),
                n_extents=1, data_bytes=size_bytes)
    _write_sparse(disk.raw, size_bytes, [(0, n_blocks)], block)
    return disk


def build_plain(directory, scale, image_format="qcow2"):
    disk = _flat_disk(directory, scale.plain_bytes, noise)
    disk.format = image_format
    _qemu_img("convert", "-f", "raw", "-O", disk.format, disk.raw, disk.image)
    return disk


def build_luks(directory, scale):
    """AES-256-XTS, as qemu-img makes it."""
    disk = _flat_disk(directory, scale.plain_bytes, noise)
    disk.passphrase = os.path.join(directory, "passphrase")
    with open(disk.passphrase, "w", encoding="utf-8") as file:
        file.write("words")
    _qemu_img("convert", "--object", f"secret,id=s,file={disk.passphrase}", "-f", "raw", "-O",
              disk.format, "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100",
              disk.raw, disk.image)
    return disk


def _build_with_bitmaps(directory, scale, n_bitmaps):
    disk = build_plain(directory, scale)
    for i in range(n_bitmaps):
        _qemu_img("bitmap", "--add", "-f", disk.format, disk.image, f"bitmap{i}")
    return disk


def build_bitmap(directory, scale):
    return _build_with_bitmaps(directory, scale, 1)


def build_bitmaps(directory, scale):
    return _build_with_bitmaps(directory, scale, 8)


def build_plain_qed(directory, scale):
    return build_plain(directory, scale, "qed")


def build_empty(directory, scale, image_format="qcow2"):
    """A disk that was never written to."""
    n_blocks = scale.plain_bytes // BLOCK_BYTES
    disk = Disk(directory, raw=os.path.join(directory, "plain.raw"),
                image=os.path.join(directory, "disk.image"),
                format=image_format, size_bytes=scale.plain_bytes,
                block=lambda _index: ZERO_BLOCK,
                data_block=lambda rng: rng.randrange(n_blocks))
    _write_sparse(disk.raw, disk.size_bytes, [], disk.block)
    _qemu_img("create", "-q", "-f", disk.format, disk.image, str(disk.size_bytes))
    return disk


def build_empty_qed(directory, scale):
    return build_empty(directory, scale, "qed")


def build_overlay(directory, scale, size_bytes=None):
    """An empty overlay over a full backing file."""
    disk = _flat_disk(directory, size_bytes or scale.plain_bytes, noise)
    base = os.path.join(directory, "base.qcow2")
    _qemu_img("convert", "-f", "raw", "-O", "qcow2", disk.raw, base)
    _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", os.path.basename(base),
              disk.image)
    return disk


def _write_archive(path, n_files):
    """A tar archive like that of a source tree: small files in many directories."""
    rng = random.Random(4)
    with tarfile.open(path, "w") as archive:
        for file_index in range(n_files):
            n_bytes = min(int(rng.lognormvariate(8.5, 1.2)), 256 * KIB)  # some 10 KiB
            n_blocks = -(-n_bytes // BLOCK_BYTES)
            content = b"".join(text(file_index + i) for i in range(n_blocks))[:n_bytes]
            member = tarfile.TarInfo(f"tree/{file_index // 400}/{file_index // 20}/"
                                     f"file{file_index}.c")
            member.size = n_bytes
            archive.addfile(member, io.BytesIO(content))


def build_overlay_for_ext4(directory, scale):
    """The same, and an archive to be extracted into an ext4 made there."""
    disk = build_overlay(directory, scale, scale.ext4_bytes)
    disk.archive = os.path.join(directory, "tree.tar")
    _write_archive(disk.archive, scale.n_files)
    return disk


def build_ext4(directory, scale):
    """An empty ext4, and an archive to be extracted there."""
    raw = os.path.join(directory, "plain.raw")
    with open(raw, "wb") as file:
        file.truncate(scale.ext4_bytes)
    subprocess.run([*MKFS_EXT4, raw], stdin=subprocess.DEVNULL, check=True)
    with open(raw, "rb") as file:
        content = file.read()
    n_blocks = scale.ext4_bytes // BLOCK_BYTES
    disk = Disk(directory, raw=raw, image=os.path.join(directory, "disk.image"),
                size_bytes=scale.ext4_bytes,
                block=lambda index: content[index * BLOCK_BYTES:(index + 1) * BLOCK_BYTES],
                data_block=lambda rng: rng.randrange(n_blocks),
                archive=os.path.join(directory, "tree.tar"))
    _qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, disk.image)
    _write_archive(disk.archive, scale.n_files)
    return disk


def image_damage(disk):
    """The faults that qemu-img check finds in the disk's image, or None."""
    image = ["-f", disk.format, disk.image]
    if disk.passphrase:
        image = ["--object", f"secret,id=s,file={disk.passphrase}", "--image-opts",
                 f"driver={disk.format},file.filename={disk.image},encrypt.key-secret=s"]
    result = subprocess.run(["qemu-img", "check", *image],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    if result.returncode == 0:
        return None
    lines = result.stdout.strip().splitlines()
    return f"qemu-img check ({result.returncode}): {lines[0] if lines else 'no text'}"


def _build_compressed(directory, scale, codec):
    disk = _flat_disk(directory, scale.text_bytes, text)
    _qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2",
              "-o", f"compression_type={codec}", disk.raw, disk.image)
    disk.codec = codec
    disk.records = os.path.join(directory, "records")
    with Qcow2Tables(disk.image) as tables, open(disk.records, "wb") as records:
        for cluster in tables.compressed_clusters():
            records.write(struct.pack("<I", len(cluster)) + cluster)
    return disk


def build_zlib(directory, scale):
    return _build_compressed(directory, scale, "zlib")


def build_zstd(directory, scale):
    return _build_compressed(directory, scale, "zstd")


def _scattered_disk(directory, size_bytes, n_runs, n_run_blocks):
    """A sparse disk with n_runs runs of data, one in each part of equal size, as a raw file; its
    image is still to be made. Also returns the runs."""
    rng = random.Random(2)
    n_part_blocks = size_bytes // n_runs // BLOCK_BYTES
    n_places = n_part_blocks // CLUSTER_BLOCKS - -(-n_run_blocks // CLUSTER_BLOCKS)
    starts = [part * n_part_blocks + rng.randrange(1, n_places) * CLUSTER_BLOCKS
              for part in range(n_runs)]

    def block(block_index):
        in_run = block_index - starts[block_index // n_part_blocks]
        return noise(block_index) if 0 <= in_run < n_run_blocks else ZERO_BLOCK

    disk = Disk(directory, raw=os.path.join(directory, "plain.raw"),
                image=os.path.join(directory, "disk.image"), size_bytes=size_bytes,
                block=block, n_extents=n_runs,
                data_bytes=n_runs * n_run_blocks * BLOCK_BYTES,
                data_block=lambda rng: rng.choice(starts) + rng.randrange(n_run_blocks))
    runs = [(start, n_run_blocks) for start in starts]
    _write_sparse(disk.raw, size_bytes, runs, block)
    return disk, runs


def build_sparse(directory, scale):
    disk, _ = _scattered_disk(directory, SPARSE_BYTES, scale.n_extents,
                              _EXTENT_BYTES // BLOCK_BYTES)
    _qemu_img("convert", "-f", "raw", "-O", "qcow2", disk.raw, disk.image)
    return disk


def build_huge(directory, _scale):
    """16 TiB with almost no data: only the size costs."""
    disk, _ = _scattered_disk(directory, HUGE_BYTES, 16, CLUSTER_BLOCKS)
    _qemu_img("convert", "-f", "raw", "-O", "qcow2", disk.raw, disk.image)
    return disk


def build_large(directory, scale):
    """A disk with every cluster allocated, and so with every L2 table; the data are holes of the
    tmpfs, except one block per L2 table. That block is written straight to its place in the
    image; no metadata changes."""
    n_tables = scale.large_bytes // L2_REACH_BYTES
    disk, runs = _scattered_disk(directory, scale.large_bytes, n_tables, 1)
    _qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", disk.image,
              str(scale.large_bytes))
    with Qcow2Tables(disk.image) as tables, open(disk.image, "r+b") as image:
        for block_index, _ in runs:
            image.seek(tables.host_offset(block_index * BLOCK_BYTES))
            image.write(disk.block(block_index))
    return disk


def build_chain(directory, scale, depth):
    """A disk whose clusters are scattered over `depth` backing files and the image on top. Each
    cluster is in one layer, with a stale copy in the layer below it."""
    disk = _flat_disk(directory, scale.chain_bytes, noise)
    n_clusters = scale.chain_bytes // CLUSTER_BYTES
    rng = random.Random(3)
    layer_of = [rng.randrange(depth + 1) for _ in range(n_clusters)]
    below = None
    for layer in range(depth + 1):
        part = os.path.join(directory, "part.raw")
        with open(part, "wb") as file:
            file.truncate(scale.chain_bytes)
            for cluster, owner in enumerate(layer_of):
                if owner not in (layer, layer + 1):
                    continue
                block = noise if owner == layer else stale
                first = cluster * CLUSTER_BLOCKS
                file.seek(cluster * CLUSTER_BYTES)
                file.writelines(map(block, range(first, first + CLUSTER_BLOCKS)))
        image = disk.image if layer == depth else os.path.join(directory,
                                                               f"layer{layer}.qcow2")
        _qemu_img("convert", "-f", "raw", "-O", "qcow2", part, image)
        if below is not None:
            _qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2",
                      "-b", os.path.basename(below), image)
        below = image
        os.unlink(part)
        if layer in layer_of:
            disk.checkpoints.append(layer_of.index(layer) * CLUSTER_BLOCKS)
    return disk


def build_chain_1(directory, scale):
    return build_chain(directory, scale, 1)


def build_chain_16(directory, scale):
    return build_chain(directory, scale, 16)


def build_chain_64(directory, scale):
    return build_chain(directory, scale, 64)
