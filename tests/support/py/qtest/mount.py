# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts and ends mounts. A Mount never outlives its block: after any test the mount point is
unmounted and the server reaped by its pid; a status other than 0 or a sanitizer's report fails
the test."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import env, procs

# Present mounts, for the watchdog and for the end of the session.
LIVE = []

ONE_LINE = re.compile(r"\Aqcowfs: (?P<file>.+?): (?P<what>.+) \((?P<cure>.+)\)\n\Z")


def stem(image):
    """The name of an image in the tree. Spec: design, "The tree"."""
    name = Path(image).name
    for suffix in (".qcow2", ".qcow", ".qed", ".img", ".raw"):
        if name.endswith(suffix):
            return name[:-len(suffix)]
    return name


def mounts_at(mountpoint):
    """(mount ID, type, source, options) of each mount on a path, the topmost last."""
    mountpoint = os.path.abspath(os.fsencode(mountpoint))
    # The last part is not resolved: a dead FUSE mount answers no lstat.
    wanted = os.path.join(os.path.realpath(os.path.dirname(mountpoint)),
                          os.path.basename(mountpoint))
    out = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        place = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), fields[4])
        if place == wanted:
            kind, source, options = (os.fsdecode(x) for x in right.split(b" ")[:3])
            out.append((int(fields[0]), kind, source,
                        os.fsdecode(fields[5]) + "," + options))
    return out


def unmount(mountpoint, lazy=False, check=True):
    return procs.run("fusermount3", "-uz" if lazy else "-u", str(mountpoint), check=check)


class Mount:
    """`qcowfs -f OPTIONS IMAGE... MOUNTPOINT` from enter to exit.

    @wrapper: a command line to put before the program (a tracer).
    @expect_status: the expected exit status of the server."""

    def __init__(self, images, mountpoint, *options, wrapper=(), expect_status=0, cwd=None,
                 limit_s=20):
        if isinstance(images, (str, Path)):
            images = [images]
        self.images = [os.fspath(i) for i in images]
        self.mountpoint = Path(mountpoint)
        self.options = list(options)
        self.expect_status = expect_status
        self.process = None
        self._wrapper, self._cwd, self._limit_s = list(wrapper), cwd, limit_s
        self._log = None
        self._closed = False

    # ---- life -------------------------------------------------------------------------

    def __enter__(self):
        env.need_fuse()
        program = env.qcowfs()
        self._make_mountpoint()
        log_path = self.mountpoint.parent / f".{self.mountpoint.name}.{os.getpid()}.stderr"
        self._log = open(log_path, "w+b")
        before = mounts_at(self.mountpoint)
        argv = [*self._wrapper, program, "-f", *self.options, *self.images, str(self.mountpoint)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._log,
                                        stderr=self._log, cwd=self._cwd,
                                        env=dict(os.environ, LC_ALL="C.UTF-8"))
        LIVE.append(self)
        try:
            procs.wait_until(lambda: self.process.poll() is not None
                             or self._is_new(mounts_at(self.mountpoint), before)
                             or self._replaces(before),
                             f"mount of {self.images[:3]}", self._limit_s)
            assert self.process.poll() is None, (
                f"the server ended with {self.process.returncode} instead of mounting\n"
                f"{self.stderr()}")
            # The first answer: the server has taken the kernel's INIT.
            with procs.Watchdog(self._limit_s, self.abort):
                os.stat(self.mountpoint)
        except BaseException:
            self._clean_up()
            raise
        return self

    def _make_mountpoint(self):
        try:
            if not self.mountpoint.exists():
                self.mountpoint.mkdir(parents=True)
        except OSError as error:
            if error.errno != errno.ENOTCONN:       # a dead mount is there
                raise

    @staticmethod
    def _is_new(now, before):
        """A stale mount may have gone in between, and the kernel reuses its ID: then the new one
        answers."""
        if not now or len(now) > len(before):
            return bool(now)
        return now[-1][0] != before[-1][0] or now[-1][2] != before[-1][2]

    def _replaces(self, before):
        try:
            # In this order: the directory itself answers, too, between the two mounts.
            return bool(before) and bool(os.statvfs(self.mountpoint)) \
                and bool(mounts_at(self.mountpoint))
        except OSError:
            return False

    def __exit__(self, kind, *_):
        self.close()

    def close(self):
        """Unmounts, reaps, and checks the server's end. May be called twice."""
        if self._closed:
            return
        try:
            self._unmount()
            self._wait()
            self._check_end()
        finally:
            self._clean_up()

    def terminate(self, number=signal.SIGTERM):
        """Ends the server by a signal instead of an unmount, then checks as close() does."""
        os.kill(self.pid, number)
        try:
            self._wait()
            assert not mounts_at(self.mountpoint), "still mounted after the server's end"
            self._check_end()
        finally:
            self._clean_up()

    def kill(self):
        """SIGKILL; leaves the dead mount in place for the test, which must not use close."""
        self._kill_and_reap()
        self.forget()

    def forget(self):
        self._closed = True
        if self in LIVE:
            LIVE.remove(self)

    def abort(self):
        """For a watchdog: prints the stacks and ends the server, which ends every waiting system
        call."""
        if self.process and self.process.poll() is None:
            procs.dump_stacks(self.pid)
            print(self.stderr()[-4000:], file=sys.stderr)
            self._kill_server()

    def _kill_server(self):
        for pid in {self.pid, self.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _kill_and_reap(self):
        """The unmounting process ends by itself then, as a child of ours."""
        helpers = procs.children(self.pid)
        self._kill_server()
        self.process.wait(10)
        for pid in helpers:
            procs.reap(pid)

    def _unmount(self):
        # A program of the host may still have a file open for a moment (a loop device that
        # detaches on its own time): busy is an error of the test only if it lasts.
        end = time.monotonic() + 5 * env.slow()
        while True:
            result = unmount(self.mountpoint, check=False)
            if result.status == 0 or self.process.poll() is not None:
                return
            assert time.monotonic() < end, f"cannot unmount\n{result}"
            time.sleep(0.02)

    def _wait(self):
        try:
            self.process.wait(15 * env.slow())
        except subprocess.TimeoutExpired:
            self.abort()
            raise AssertionError("the server did not end after the unmount") from None

    def _check_end(self):
        text = self.stderr()
        report = procs.sanitizer_report(text)
        assert report is None, f"sanitizer: {report}\n{text}"
        assert self.process.returncode == self.expect_status, (
            f"exit status {self.process.returncode}, not {self.expect_status}\n{text}")

    def _clean_up(self):
        if self.process.poll() is None:
            self._kill_and_reap()
        while mounts_at(self.mountpoint):
            if unmount(self.mountpoint, lazy=True, check=False).status != 0:
                break
        self._final_text = self.stderr()
        if self._log and not self._log.closed:
            path = self._log.name
            self._log.close()
            os.unlink(path)
        self.forget()

    # ---- inspecting it ----

    @property
    def pid(self):
        """The server's pid, also below a wrapper that started it."""
        if not self._wrapper:
            return self.process.pid
        kids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return int(kids.read_text().split()[0])
        except (OSError, IndexError):
            return self.process.pid

    def stderr(self):
        if self._log is None or self._log.closed:
            return getattr(self, "_final_text", "")
        return Path(self._log.name).read_text(encoding="utf-8", errors="surrogateescape")

    def path(self, *parts):
        return self.mountpoint.joinpath(*parts)

    def raw(self, image):
        return self.mountpoint / (stem(image) + ".raw")

    def snapshots(self, image):
        return self.mountpoint / (stem(image) + ".snapshots")

    def facts(self, *parts):
        return self.mountpoint.joinpath(".qcowfs", *parts)


class _Adopted:
    """A daemon whose parent has gone, with the part of Popen needed by Mount."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("daemon", timeout)
            time.sleep(0.005)
        return self.returncode


class Daemon(Mount):
    """`qcowfs OPTIONS IMAGE... MOUNTPOINT` without -f: the command must return 0, and only when
    the mount answers; its daemon becomes a child of this process."""

    def __enter__(self):
        env.need_fuse()
        self._make_mountpoint()
        # The daemon has no stderr: a sanitizer must write elsewhere.
        self._reports = self.mountpoint.parent / f".{self.mountpoint.name}.sanitizer"
        logs = {name: f"{os.environ.get(name, '')}:log_path={self._reports}".lstrip(":")
                for name in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS")}
        before = procs.children()
        self.start = procs.run(*self._wrapper, env.qcowfs(), *self.options, *self.images,
                               str(self.mountpoint), limit_s=self._limit_s, cwd=self._cwd,
                               env_add=logs)
        # Not a wait: a successful exit says that it is there.
        new = procs.children() - before
        mounted = mounts_at(self.mountpoint)
        assert len(new) == 1, f"{len(new)} processes are left by the start\n{self.start}"
        self.process = _Adopted(new.pop())
        LIVE.append(self)
        if not mounted:
            self._clean_up()
            raise AssertionError(f"returned 0 before the mount was there\n{self.start}")
        return self

    @property
    def pid(self):
        return self.process.pid

    def stderr(self):
        text = self.start.errors
        for report in self.mountpoint.parent.glob(f"{self._reports.name}.*"):
            text += report.read_text(errors="replace")
        return text


def refused(*argv, file=None, contains=(), limit_s=20, mountpoint=None, status=1, cwd=None,
            wrapper=()):
    """Starts qcowfs without -f and expects a refusal as designed: within five seconds, exit status
    1, one line `qcowfs: FILE: problem (advice)`, nothing mounted. Returns the line's parts.
    @contains: words that must be in the line, in any case."""
    env.need_fuse()
    mountpoint = mountpoint or argv[-1]
    before = mounts_at(mountpoint)
    children = procs.children()
    result = procs.run(*wrapper, env.qcowfs(), *argv, check=False, limit_s=limit_s, cwd=cwd)
    try:
        assert result.status == status, f"exit status {result.status}, not {status}\n{result}"
        assert mounts_at(mountpoint) == before, f"something is mounted\n{result}"
        assert procs.children() <= children, f"left a process\n{result}"
    finally:
        while len(mounts_at(mountpoint)) > len(before):
            unmount(mountpoint, lazy=True)
    match = ONE_LINE.match(result.errors)
    assert match, f"not one line `qcowfs: FILE: what (what to do)`\n{result}"
    line = result.errors
    if file is not None:
        assert os.fspath(file) in line, f"does not name {file}\n{result}"
    for word in contains:
        options = [word] if isinstance(word, str) else word
        assert any(o.lower() in line.lower() for o in options), f"does not say {word}\n{result}"
    assert result.text == "", f"writes to stdout\n{result}"
    return match
