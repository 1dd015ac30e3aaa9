# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to fill an image so that every kind of cluster and border occurs in it."""

from . import qemu


def default_size(cluster):
    return max(1 << 20, 5 * cluster)


def sprinkle(path, size, cluster, rng, salt=1, compressed=False, image_format=None):
    """Whole clusters, runs, pieces inside clusters and over borders, the last bytes, zeros with
    and without unmapping, discards; most of the disk stays unallocated."""
    n = max(1, size // cluster)
    sector_size = size // 512 * 512
    if not sector_size:
        return
    pieces = [(0, min(cluster, sector_size), "words", salt)]

    def at(fraction):
        return int(n * fraction) * cluster

    def put(start, length, kind):
        start = start // 512 * 512
        length = min(length, sector_size - start) // 512 * 512
        if length > 0 and start >= 0:
            pieces.append((start, length, kind, salt))

    put(at(0.2), 3 * cluster, "words")
    put(at(0.3) + 512 * rng.randrange(0, max(1, cluster // 512)), 1024, "noise")
    put(at(0.5) - 512, 1024, "mixed")
    put(at(0.6), 2 * cluster, "constant")
    put(sector_size - 512, 512, "words")
    qemu.write(path, *pieces, image_format=image_format)

    commands = []

    def command(flags, start, length):
        start = start // 512 * 512
        length = min(length, sector_size - start) // 512 * 512
        if length > 0 and start >= 0:
            commands.append(f"{flags} {start} {length}")

    command("write -z", at(0.2) + cluster, cluster)         # zero, allocated below
    command("write -z -u", at(0.6), cluster)                # zero, unmapped
    command("write -z", at(0.8), 2 * cluster)               # zero on unallocated
    command("discard", at(0.6) + cluster, cluster)
    command("write -z", at(0.2) + 512, 512)                 # inside a cluster
    if commands:
        qemu.io(path, *commands, image_format=image_format)
    if compressed:
        start = at(0.9)
        qemu.write(path, (start, min(cluster, size - start) // 512 * 512, "words", salt + 1, "-c"))


def compressible(path, size, cluster, rng, kind="mixed", salt=1):
    """A raw source for `convert -c`: runs of @kind with untouched and constant stretches
    between them."""
    pieces, at = [], 0
    while at < size:
        length = min(size - at, cluster * rng.randrange(1, 4) - rng.choice([0, 0, 512, 1000]))
        if length <= 0:
            length = min(size - at, cluster)
        choice = rng.random()
        if choice < 0.6:
            pieces.append((at, length, kind, salt))
        elif choice < 0.75:
            pieces.append((at, length, "constant", salt + 1))
        at += length
    return qemu.make_raw(path, size, *pieces)
