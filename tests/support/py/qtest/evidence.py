# SPDX-License-Identifier: GPL-2.0-or-later
"""Detects changes of an image that is only read: of content and every time stamp of each file of
the chain."""

import errno
import hashlib
import os
from pathlib import Path

# Long ago: a read through a relatime mount would move such an atime.
OLD_S = 1_000_000_000


def _open(path):
    """For reading, without moving the atime."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOATIME)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def file_digest(path):
    """SHA-256 of a file, read without moving its atime."""
    digest = hashlib.sha256()
    with os.fdopen(_open(path), "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _data_extents(fd):
    """(start, end) of all parts that are no holes."""
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:      # holes up to the end
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def _extents_digest(path):
    """SHA-256 of a file's data and their positions: its holes may be large."""
    digest = hashlib.sha256()
    with os.fdopen(_open(path), "rb", buffering=0) as file:
        for start, end in _data_extents(file.fileno()):
            digest.update(f"{start}-{end}:".encode())
            while start < end:
                chunk = os.pread(file.fileno(), min(1 << 20, end - start), start)
                digest.update(chunk)
                start += len(chunk)
    return digest.hexdigest()


def files_below(directory):
    return sorted(p for p in Path(directory).rglob("*") if p.is_file() and not p.is_symlink())


def age(paths):
    """Moves atime before mtime, so that relatime cannot hide a read."""
    for path in paths:
        os.utime(path, ns=(OLD_S * 10**9, os.stat(path).st_mtime_ns))


def state(paths):
    """{path: facts} of the files; take it again later and compare."""
    out = {}
    for path in paths:
        facts = os.stat(path)
        out[str(path)] = {"data": _extents_digest(path), "size": facts.st_size,
                          "blocks": facts.st_blocks, "inode": facts.st_ino,
                          "mode": facts.st_mode, "mtime": facts.st_mtime_ns,
                          "ctime": facts.st_ctime_ns, "atime": facts.st_atime_ns}
    return out


def assert_unchanged(before, after):
    assert before.keys() == after.keys(), "files came or went"
    changed = {path: [key for key in facts if facts[key] != after[path][key]]
               for path, facts in before.items() if facts != after[path]}
    assert not changed, f"changed by reading: {changed}"


class Unchanged:
    """Context manager: all files below a directory are the same afterwards."""

    def __init__(self, *paths):
        self._paths = [Path(p) for p in paths]

    def _files(self):
        out = []
        for path in self._paths:
            out += files_below(path) if path.is_dir() else [path]
        return out

    def __enter__(self):
        files = self._files()
        age(files)
        self._before = state(files)
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert_unchanged(self._before, state(self._files()))
