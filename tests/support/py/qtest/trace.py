# SPDX-License-Identifier: GPL-2.0-or-later
"""A server's actions, observed from outside by strace: the sizes of its answers to the kernel, the
files that it opens. The server's own counters could agree with its own mistakes."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from . import env, procs

# A READ's answer: 16 bytes of header before the data. All other answers are shorter.
OUT_HEADER = 16
SMALLEST_DATA = 2048


class Answers:
    """Records the answers of a running server between enter and exit."""

    def __init__(self, pid, log):
        env.need_tools("strace")
        self._pid, self._log = pid, Path(log)
        self.sizes = []

    def __enter__(self):
        self._strace = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "0", "-e", "trace=write,writev,splice,pwritev,pwritev2",
             "-o", str(self._log), "-p", str(self._pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            procs.wait_until(lambda: self._strace.poll() is not None or self._is_attached(),
                             "strace to attach", 20)
            if self._strace.poll() is not None:
                pytest.skip("strace cannot attach: " + self._strace.stderr.read().decode())
        except BaseException:
            procs.end_process(self._strace)
            raise
        return self

    def _is_attached(self):
        for task in Path(f"/proc/{self._pid}/task").iterdir():
            text = (task / "status").read_text()
            if int(re.search(r"^TracerPid:\s*(\d+)", text, re.M)[1]) != self._strace.pid:
                return False
        return True

    def _settle(self):
        """The client has its data before strace has seen the server's call return: until then that
        thread is stopped, or about to be."""
        quiet, size, end = 0, -1, time.monotonic() + 20 * env.slow()
        while quiet < 5 and time.monotonic() < end:
            time.sleep(0.01)
            now = self._log.stat().st_size
            quiet, size = (quiet + 1 if now == size and self._is_asleep() else 0), now

    def _is_asleep(self):
        """Whether no thread of the server waits for strace."""
        return all(re.search(r"^State:\s*S", (task / "status").read_text(), re.M)
                   for task in Path(f"/proc/{self._pid}/task").iterdir())

    def __exit__(self, *_):
        self._settle()
        self._strace.send_signal(signal.SIGINT)
        self._strace.wait(10)
        self._strace.stderr.close()
        for line in self._log.read_text(errors="replace").splitlines():
            if "</dev/fuse>" not in line and "resumed" not in line:
                continue
            if match := re.search(r"\)\s+= (\d+)", line):
                self.sizes.append(int(match[1]))

    @property
    def data(self):
        """Bytes of each answer with data."""
        return [size - OUT_HEADER for size in self.sizes if size >= SMALLEST_DATA]


def opened_files(*argv, log, cwd=None):
    """Runs a program to its end; returns (result, paths that it opened for reading, or
    tried to), each resolved where possible. O_PATH opens read nothing and do not count."""
    env.need_tools("strace")
    # The leak checker is off under a tracer, since it is a tracer itself.
    sanitizer_options = os.environ.get("ASAN_OPTIONS", "")
    result = procs.run("strace", "-f", "-y", "-s", "4096", "-e", "trace=open,openat,openat2",
                       "-o", log, *argv, check=False, cwd=cwd,
                       env_add={"ASAN_OPTIONS": f"{sanitizer_options}:detect_leaks=0"})
    opened = set()
    for line in Path(log).read_text(errors="replace").splitlines():
        if "O_PATH" in line:
            continue
        if match := re.search(r'= \d+<([^>]*)>', line):
            opened.add(os.path.realpath(match[1]))
    return result, opened
