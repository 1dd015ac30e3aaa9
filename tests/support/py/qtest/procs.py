# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs with a time limit, and inspects running ones: nothing here ends a process that was
not given by its pid."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import env

SANITIZER_MARKS = (
    "ERROR: AddressSanitizer",
    "ERROR: LeakSanitizer",
    "WARNING: ThreadSanitizer",
    "MemorySanitizer: ",
    "runtime error: ",
)


def sanitizer_report(text):
    """The first line of a sanitizer's report in @text, or None."""
    for line in text.splitlines():
        if any(mark in line for mark in SANITIZER_MARKS):
            return line
    return None


class Result:
    def __init__(self, argv, status, stdout, stderr, seconds):
        self.argv, self.status, self.seconds = argv, status, seconds
        self.stdout, self.stderr = stdout, stderr

    @property
    def text(self):
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def errors(self):
        return self.stderr.decode("utf-8", "surrogateescape")

    def __str__(self):
        argv = " ".join(os.fsdecode(a) for a in self.argv)
        return (f"$ {argv}\nexit status {self.status}, {self.seconds:.2f} s\n"
                f"stdout: {self.text[:2000]}\nstderr: {self.errors[:4000]}")


def run(*argv, limit_s=30, check=True, cwd=None, env_add=None, stdin=None, pass_fds=()):
    """Runs a program to its end. Past the limit its stacks are printed and it is killed.
    With @check a status other than 0 is a failure of the test, with both outputs shown."""
    argv = [os.fspath(a) if isinstance(a, os.PathLike) else a for a in argv]
    tool = env.find_tool(os.fsdecode(argv[0])) or argv[0]
    full_env = dict(os.environ, LC_ALL="C.UTF-8", **(env_add or {}))
    start = time.monotonic()
    process = subprocess.Popen([tool, *argv[1:]], cwd=cwd, env=full_env, pass_fds=pass_fds,
                               stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(stdin, timeout=limit_s * env.slow())
    except subprocess.TimeoutExpired:
        dump_stacks(process.pid)
        process.kill()
        out, err = process.communicate()
        result = Result(argv, "none: killed at its time limit", out, err, time.monotonic() - start)
        raise AssertionError(f"time limit of {limit_s} s passed\n{result}") from None
    except BaseException:
        process.kill()
        process.wait()
        raise
    result = Result(argv, process.returncode, out, err, time.monotonic() - start)
    report = sanitizer_report(result.errors)
    assert report is None, f"sanitizer: {report}\n{result}"
    assert not check or result.status == 0, str(result)
    return result


def dump_stacks(pid):
    """Prints the stacks of the threads of @pid: by gdb, or from the kernel."""
    print(f"--- stacks of process {pid} ---", file=sys.stderr)
    if env.find_tool("gdb"):
        try:
            out = subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-ex",
                                  "thread apply all bt 30"], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
            print(out.stdout.decode(errors="replace")[-20000:], file=sys.stderr)
            return
        except subprocess.TimeoutExpired:
            print("gdb did not answer", file=sys.stderr)
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        for name in ("comm", "wchan", "stack"):
            try:
                print(task.name, name, (task / name).read_text().strip(), file=sys.stderr)
            except OSError:
                pass


class Watchdog:
    """Calls back when a block takes too long. The block may hang in a system call on the mount,
    which no exception can end: the callback must end the server."""

    def __init__(self, seconds, on_expiry):
        self.expired = False
        self._on_expiry = on_expiry
        self._timer = threading.Timer(seconds * env.slow(), self._expire)
        self._timer.daemon = True

    def _expire(self):
        self.expired = True
        self._on_expiry()

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *_):
        self._timer.cancel()


def wait_until(condition, what, limit_s=10, step_s=0.005):
    """Polls: for states of the kernel and of other processes that nothing announces."""
    end = time.monotonic() + limit_s * env.slow()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(step_s)


def adopt_orphans():
    """Makes this process the parent of daemons whose parent has gone, so that their exit status is
    available and none is left behind."""
    PR_SET_CHILD_SUBREAPER = 36
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def children(parent=None):
    """The pids whose parent is this process, or @parent."""
    parent = parent or os.getpid()
    mine = set()
    # No glob: it fails if a process ends meanwhile.
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            mine.add(int(pid))
    return mine


def name(pid):
    """The process's own name; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def reap(pid, limit_s=10):
    """Waits for the end of a child that is no Popen; returns its status, None if it is no child
    (any more)."""
    def ended():
        try:
            return os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return (pid, None)

    done = wait_until(lambda: (result := ended())[0] and result, f"end of process {pid}", limit_s)
    return None if done[1] is None else os.waitstatus_to_exitcode(done[1])


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def peak_rss_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM for {pid}")


def end_process(process, limit_s=10):
    """Ends a Popen by SIGTERM, and by SIGKILL if that does not help."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
