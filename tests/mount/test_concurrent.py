# SPDX-License-Identifier: GPL-2.0-or-later
"""Many readers at once, many images at once, ends in the middle of reading: correct bytes or
errors, bounded memory, no hang."""

import errno
import hashlib
import mmap
import os
import random
import subprocess
import threading

import pytest

from qtest import env, pattern, procs, qemu
from qtest.checks import drop_cached, read_all
from qtest.mount import Mount

MIB = 1 << 20


@pytest.fixture
def busy(tmp_path):
    """A chain with data, compressed and zero clusters in each layer, and its content."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = qemu.make_raw(folder / "source", 8 * MIB, (0, 3 * MIB, "mixed", 1), (5 * MIB, MIB, "words", 1))
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", source, folder / "base.qcow2")
    source.unlink()
    image = qemu.create(folder / "top.qcow2", 8 * MIB, "base.qcow2", "qcow2", cluster_size=4096)
    qemu.write(image, *[(n * 200 * 1024, 8192, "words", 2) for n in range(40)])
    qemu.io(image, f"write -z {MIB} 65536", f"write -z {2 * MIB + 512} 1024")
    return image, qemu.to_raw(image, tmp_path / "expected").read_bytes()


def test_fifty_processes(busy, mnt):
    image, content = busy
    wanted = hashlib.sha256(content).hexdigest()
    with Mount(image, mnt) as mount:
        path = str(mount.raw(image))
        commands = [["sha256sum", path] if n % 2 else
                    ["sh", "-c", f"dd if='{path}' iflag=direct bs={1 << (12 + n % 9)} status=none | sha256sum"]
                    for n in range(50)]
        running = [subprocess.Popen(c, stdout=subprocess.PIPE) for c in commands]
        try:
            for process in running:
                out = process.communicate(timeout=50 * env.slow())[0]
                assert process.returncode == 0 and out.split()[0].decode() == wanted
        finally:
            for process in running:
                procs.end_process(process)


@pytest.mark.parametrize("options", [[], ["-s"], ["-o", "threads=16"], ["-o", "data_cache=0"],
                                     ["-o", "l2_cache=64K,data_cache=64K"]])
def test_fifty_threads(options, busy, mnt, rng):
    """Random reads of all lengths; with caches so small that everything is evicted at once."""
    image, content = busy
    failures, seeds = [], [rng.getrandbits(32) for _ in range(50)]
    with Mount(image, mnt, *options) as mount:
        path = mount.raw(image)
        drop_cached(path)

        def work(seed):
            mine = random.Random(seed)
            flags = os.O_DIRECT if seed % 2 else 0
            fd = os.open(path, os.O_RDONLY | flags)
            try:
                buffer = mmap.mmap(-1, 256 * 1024)
                for _ in range(20):
                    start = mine.randrange(len(content)) // 512 * 512
                    length = mine.randrange(1, 512) * 512
                    n = os.preadv(fd, [memoryview(buffer)[:length]], start)
                    assert n == min(length, len(content) - start)
                    pattern.assert_same(buffer[:n], content[start:start + n], f"seed {seed}", start)
            except BaseException as error:
                failures.append(error)
            finally:
                os.close(fd)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def test_everything_in_the_tree_at_once(busy, mnt):
    """Texts, layers, walks and reads side by side."""
    image, content = busy
    failures = []
    with Mount(image, mnt) as mount:
        jobs = [lambda: read_all(mount.raw(image)) == content,
                lambda: len(mount.facts("top", "map.json").read_bytes()) > 100,
                lambda: len(mount.facts("stats.json").read_bytes()) > 2,
                lambda: len(read_all(mount.facts("top", "layers", "1.raw"))) == 8 * MIB,
                lambda: len(os.listdir(mnt)) == 3,
                lambda: os.stat(mount.raw(image)).st_size == len(content)]

        def work(job):
            try:
                for _ in range(10):
                    assert job()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(job,)) for job in jobs * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("how", ["signal", "lazy unmount"])
def test_end_while_reading(how, busy, mnt):
    """Readers get their bytes or an error; the server ends properly."""
    image, content = busy
    failures, started = [], threading.Barrier(9)
    gone = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT, errno.ENODEV)
    with Mount(image, mnt) as mount:
        path = mount.raw(image)

        def work(number):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
            mine = random.Random(number)
            try:
                buffer = mmap.mmap(-1, 65536)
                started.wait(10)
                while not stop.is_set():
                    at = mine.randrange(len(content) // 65536) * 65536
                    os.preadv(fd, [buffer], at)
                    assert buffer[:] == content[at:at + 65536]
            except OSError as error:
                if error.errno not in gone:
                    failures.append(error)
            except BaseException as error:
                failures.append(error)
            finally:
                try:
                    os.close(fd)
                except OSError:
                    pass

        stop = threading.Event()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        started.wait(10)
        try:
            if how == "signal":
                mount.terminate()
            else:
                procs.run("fusermount3", "-uz", mnt)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not failures, failures[0]


def test_hundred_images(tmp_path, mnt):
    """One process, little memory, each with its own content."""
    images = []
    for number in range(100):
        image = qemu.create(tmp_path / f"image{number:03}.qcow2", 64 * MIB)
        images.append(image)
    qemu.write(images[0], (0, 65536, "words", 0))
    qemu.write(images[99], (63 * MIB, 65536, "words", 99))
    with Mount(images, mnt) as mount:
        for image in images:
            with open(mount.raw(image), "rb") as file:
                file.seek(32 * MIB)
                assert file.read(4096) == bytes(4096)
        with open(mount.raw(images[0]), "rb") as file:
            assert file.read(65536) == pattern.words(0, 65536, 0)
        with open(mount.raw(images[99]), "rb") as file:
            file.seek(63 * MIB)
            assert file.read(65536) == pattern.words(63 * MIB, 65536, 99)
        if env.sanitizer() is None:
            rss = procs.peak_rss_bytes(mount.pid)
            assert rss < 100 * MIB, f"{rss >> 20} MiB"


def test_memory_stays_within_the_caches(tmp_path, mnt):
    """Random reads over tables far larger than the cache for them."""
    if env.sanitizer():
        pytest.skip("a bound of memory")
    size = 64 << 30
    image = qemu.create(tmp_path / "disk.qcow2", size, cluster_size=4096)
    # 300 L2 tables of 4 KiB: more than the permitted cache.
    qemu.write(image, *[(n * (200 * MIB), 4096, "words", 3) for n in range(300)])
    with Mount(image, mnt, "-o", "l2_cache=64K,data_cache=1M") as mount:
        fd = os.open(mount.raw(image), os.O_RDONLY)
        try:
            for n in list(range(300)) * 2:
                at = n * (200 * MIB)
                assert os.pread(fd, 4096, at) == pattern.words(at, 4096, 3)
        finally:
            os.close(fd)
        rss = procs.peak_rss_bytes(mount.pid)
        assert rss < 60 * MIB, f"{rss >> 20} MiB"
