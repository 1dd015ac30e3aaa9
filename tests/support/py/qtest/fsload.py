# SPDX-License-Identifier: GPL-2.0-or-later
"""A load for file systems of the host's kernel, with a model of the content of every file: random
writes, truncations, holes, renames, links, removals."""

import os
import threading
from hashlib import sha256
from pathlib import Path

from .writing import KEEP_SIZE, PUNCH_HOLE, fallocate

LARGEST_FILE = 400_000


class Load:
    """Works in its own directory, @top/@name; @names is the model: {name: content}."""

    def __init__(self, top, name, rng):
        self.top, self._rng = Path(top) / name, rng
        self.files, self._n_made = {}, 0

    def start(self):
        self.top.mkdir(exist_ok=True)
        return self

    def _any(self):
        return self._rng.choice(sorted(self.files))

    def _make(self):
        self._n_made += 1
        name = f"d{self._rng.randrange(3)}/file{self._n_made}"
        (self.top / name).parent.mkdir(exist_ok=True)
        data = self._rng.randbytes(self._rng.choice([0, 1, 5000, 70_000, LARGEST_FILE]))
        (self.top / name).write_bytes(data)
        self.files[name] = bytearray(data)

    def _write(self):
        name = self._any()
        at, data = self._rng.randrange(LARGEST_FILE), self._rng.randbytes(self._rng.randrange(1, 60_000))
        content = self.files[name]
        with open(self.top / name, "r+b", buffering=0) as file:
            assert os.pwrite(file.fileno(), data, at) == len(data)
            if self._rng.random() < 0.2:
                os.fsync(file.fileno())
        content.extend(bytes(max(0, at + len(data) - len(content))))
        content[at:at + len(data)] = data

    def _truncate(self):
        name, size = self._any(), self._rng.randrange(LARGEST_FILE)
        os.truncate(self.top / name, size)
        content = self.files[name]
        del content[size:]
        content.extend(bytes(size - len(content)))

    def _punch(self):
        name = self._any()
        content = self.files[name]
        at, length = self._rng.randrange(LARGEST_FILE), self._rng.randrange(1, 200_000)
        with open(self.top / name, "r+b", buffering=0) as file:
            fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, at, length)
        end = min(at + length, len(content))
        if at < end:
            content[at:end] = bytes(end - at)

    def _rename(self):
        old, new = self._any(), self._any()
        if self._rng.random() < 0.5:
            self._n_made += 1
            new = f"{os.path.dirname(new)}/moved{self._n_made}"
        os.rename(self.top / old, self.top / new)
        self.files[new] = self.files.pop(old)

    def _unlink(self):
        name = self._any()
        os.unlink(self.top / name)
        del self.files[name]

    def run(self, n_steps):
        steps = [self._make] * 3 + [self._write] * 6 + [self._truncate, self._punch, self._rename,
                                                         self._unlink]
        for _ in range(n_steps):
            step = self._rng.choice(steps) if self.files else self._make
            if len(self.files) > 25:
                step = self._unlink
            step()

    def verify(self, top=None):
        """Checks all files and no others, each by its hash. @top: the present place of the file
        system."""
        here = Path(top) / self.top.name if top else self.top
        found = {os.path.relpath(os.path.join(folder, name), here)
                 for folder, _, names in os.walk(here) for name in names}
        assert found == set(self.files)
        for name, content in self.files.items():
            got = sha256((here / name).read_bytes()).hexdigest()
            assert got == sha256(content).hexdigest(), f"{here / name} holds something else"


def run_together(loads, n_steps):
    """Each load in a thread."""
    failures = []

    def work(load):
        try:
            load.run(n_steps)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
