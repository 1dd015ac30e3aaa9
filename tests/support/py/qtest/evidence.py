# SPDX-License-Identifier: GPL-2.0-or-later
"""What must not change while an image is looked at: content and every time stamp of each
file of the chain."""

import hashlib
import os
from pathlib import Path

# Long ago: a read through a relatime mount would move such an atime.
OLD_S = 1_000_000_000


def file_digest(path):
    """SHA-256 of a file, read without moving its atime."""
    digest = hashlib.sha256()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    except PermissionError:
        fd = os.open(path, os.O_RDONLY)
    with os.fdopen(fd, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
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
        out[str(path)] = {"sha256": file_digest(path), "size": facts.st_size,
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
