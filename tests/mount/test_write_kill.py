# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 of the server at random moments under load: leaks at worst, and no acknowledged write is
lost, since the host's page cache outlives the process."""

import json
import os
import threading
import time

import pytest

from qtest import env, pattern, procs, qemu, real_disk
from qtest.mount import Daemon, Mount, mounts_at, unmount
from qtest.writing import (KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, check, fallocate, opened,
                           pwrite)

MIB = 1 << 20
SIZE = 24 * MIB
BLOCK = 4096


class Writer(threading.Thread):
    """Writes to its own blocks until the server is gone. @done has the acknowledged writes; a
    block whose last change was not acknowledged may have the old or the new content."""

    def __init__(self, path, number, n_writers, seed_rng, content):
        super().__init__(daemon=True)
        self._path, self._number, self._n_writers = path, number, n_writers
        self._rng, self._content = seed_rng, content
        self.pending, self.error, self.n_changes = None, None, 0

    def run(self):
        try:
            fd = os.open(self._path, os.O_RDWR)
        except OSError:
            return
        try:
            while True:
                self._change(fd)
        except OSError:
            pass            # the server is gone
        except BaseException as error:
            self.error = error
        finally:
            try:
                os.close(fd)
            except OSError:
                pass

    def _change(self, fd):
        """The blocks alternate with those of the other writers, so that clusters are shared."""
        slot = self._rng.randrange(SIZE // BLOCK // self._n_writers)
        at = (slot * self._n_writers + self._number) * BLOCK
        kind = self._rng.randrange(10)
        new = bytes(BLOCK) if kind in (7, 8) else self._rng.randbytes(BLOCK)
        self.pending = at, new
        if kind == 7:
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, at, BLOCK)
        elif kind == 8:
            fallocate(fd, ZERO_RANGE | KEEP_SIZE, at, BLOCK)
        else:
            os.pwrite(fd, new, at)
        self._content[at:at + BLOCK] = new
        self.pending = None
        self.n_changes += 1
        if kind == 9:
            os.fsync(fd)


def work_until_killed(mount, image, content, rng, n_writers):
    writers = [Writer(mount.raw(image), n, n_writers, type(rng)(rng.getrandbits(32)), content)
               for n in range(n_writers)]
    for writer in writers:
        writer.start()
    goal = rng.randrange(1, 400)
    # Only a hang takes this long; and the wait must not take the writers' time.
    end = time.monotonic() + 60 * env.slow()
    while sum(writer.n_changes for writer in writers) < goal and time.monotonic() < end:
        assert any(writer.is_alive() for writer in writers)
        time.sleep(0.0005)
    mount.kill()
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive() and writer.error is None, writer.error
    assert sum(writer.n_changes for writer in writers) >= goal
    return [writer.pending for writer in writers if writer.pending]


def compare(image, content, pending, scratch, image_format="qcow2"):
    got = qemu.to_raw(image, scratch, image_format=image_format).read_bytes()
    scratch.unlink()
    for at, new in pending:     # either of the two, whole or in part
        block = got[at:at + BLOCK]
        old = bytes(content[at:at + BLOCK])
        assert all(byte in (a, b) for byte, a, b in zip(block, old, new)), \
            f"the block at {at} holds bytes that nobody wrote"
        content[at:at + BLOCK] = block
    pattern.assert_same(got, bytes(content), "after the kill")


@pytest.mark.limit(240)
@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"refcount_bits": 1},
                                     {"cluster_size": "128k", "extended_l2": "on"},
                                     {"backing": True}, {"lazy_refcounts": "on"}, {"raw": True}],
                         ids=["64k", "4k", "refcount 1", "el2", "backing", "lazy", "raw"])
def test_kill(options, tmp_path, mnt, rng):
    folder = tmp_path / "images"
    folder.mkdir()
    kill_again_and_again(dict(options), folder, "rw", tmp_path, mnt, rng,
                         n_kills=4 if env.sanitizer() else 8)


@pytest.mark.limit(240)
@pytest.mark.parametrize("options", [{"backing": True}, {"raw": True}], ids=["backing", "raw"])
def test_kill_past_the_page_cache(options, tmp_path, mnt, rng):
    with real_disk.directory_on_a_disk() as folder:
        kill_again_and_again(dict(options), folder, "rw,direct", tmp_path, mnt, rng, n_kills=3)


def kill_again_and_again(options, folder, mount_option, tmp_path, mnt, rng, n_kills):
    is_raw = options.pop("raw", False)
    image = folder / ("disk.img" if is_raw else "disk.qcow2")
    content = bytearray(SIZE)
    if is_raw:
        qemu.make_raw(image, SIZE)
    elif options.pop("backing", None):
        qemu.make_raw(folder / "base.img", SIZE, (0, 8 * MIB, "words", 1))
        content[:8 * MIB] = pattern.words(0, 8 * MIB, 1)
        qemu.create(image, SIZE, "base.img", "raw", **options)
    else:
        qemu.create(image, SIZE, **options)
    try:
        for number in range(n_kills):
            kind = Daemon if number % 2 else Mount
            # From the second round on over the stale mount left by the kill.
            with kind(image, mnt, "-o", mount_option) as mount:
                assert len(mounts_at(mnt)) == 1
                pending = work_until_killed(mount, image, content, rng, 4)
            if not is_raw:
                check(image, leaks_allowed=True)
            compare(image, content, pending, tmp_path / "out", "raw" if is_raw else "qcow2")
    finally:
        while mounts_at(mnt):
            unmount(mnt, lazy=True)
    if not is_raw:
        qemu.img("check", "-r", "leaks", image, check=False)
        check(image)


def test_kill_during_growth(tmp_path, mnt, rng):
    """A disk that grows all the time: acknowledged writes are within the size found."""
    image = qemu.create(tmp_path / "disk.qcow2", 0, cluster_size=4096)
    for _ in range(5):
        written, stop = [], threading.Event()

        def grow():
            try:
                with opened(mount.raw(image)) as fd:
                    end = os.fstat(fd).st_size
                    while True:
                        data = pattern.noise(end, 8192, 5)
                        os.pwrite(fd, data, end)
                        end += 8192
                        written.append(end)
            except OSError:
                stop.set()

        with Mount(image, mnt, "-o", "rw") as mount:
            thread = threading.Thread(target=grow, daemon=True)
            thread.start()
            goal = rng.randrange(1, 200)
            procs.wait_until(lambda: len(written) >= goal or stop.is_set(), "growth")
            mount.kill()
            thread.join(20)
            assert not thread.is_alive()
            unmount(mnt, lazy=True)
        check(image, leaks_allowed=True)
        size = qemu.info_json(image)["virtual-size"]
        assert size >= written[-1]
        got = qemu.to_raw(image, tmp_path / "out").read_bytes()
        pattern.assert_same(got[:written[-1]], pattern.noise(0, written[-1], 5), "what was written")
        # A write that was not acknowledged: its bytes or zeros.
        qemu.img("resize", "--shrink", image, str(written[-1]))


@pytest.mark.parametrize("kind", ["plain", "snapshot and bitmap"])
def test_kills_do_not_add_up(kind, tmp_path, mnt):
    """The next writing process reuses the reserve of the previous one."""
    folder = tmp_path / "images"
    folder.mkdir()
    image = qemu.create(folder / "disk.qcow2", 64 * MIB)
    if kind != "plain":
        qemu.write(image, (0, MIB, "words", 1))
        qemu.img("snapshot", "-c", "before", image)
        qemu.img("bitmap", "--add", image, "b0")
        qemu.write(image, (MIB // 2, MIB, "words", 2))
    before = image.read_bytes()
    bitmaps = qemu.info_json(image)["format-specific"]["data"].get("bitmaps")

    def leaked():
        result = qemu.img("check", "-f", "qcow2", "--output=json", image, check=False)
        assert result.status in (0, 3), result
        return json.loads(result.stdout).get("leaks", 0)

    for number in range(10):
        with Mount(image, mnt, "-o", "rw") as mount:
            with opened(mount.raw(image)) as fd:
                pwrite(fd, bytes([number + 1]) * BLOCK, (4 + 2 * number) * MIB)
            mount.kill()
            unmount(mnt, lazy=True)
        if number == 0:
            n_first = leaked()
            assert n_first > 0
        assert leaked() <= n_first + 2      # less of its reserve was written
    with Mount(image, mnt, "-o", "rw") as mount:
        with opened(mount.raw(image)) as fd:
            pwrite(fd, b"x" * BLOCK, 40 * MIB)
    if bitmaps:     # the killed process left it in use, and none of its clusters was freed
        now = qemu.info_json(image)["format-specific"]["data"]["bitmaps"]
        assert [{**bitmap, "flags": ["auto"]} for bitmap in now] == bitmaps
    assert leaked() == 0
    assert image.stat().st_size <= len(before) + 40 * 65536
    content = qemu.to_raw(image, tmp_path / "out").read_bytes()
    for number in range(10):
        at = (4 + 2 * number) * MIB
        assert content[at:at + BLOCK] == bytes([number + 1]) * BLOCK
    if kind != "plain":
        qemu.img("bitmap", "--remove", image, "b0")
        qemu.img("snapshot", "-a", "before", image)
        check(image)
