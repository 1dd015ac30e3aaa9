# SPDX-License-Identifier: GPL-2.0-or-later
"""The compared servers: how each is started, found ready, and stopped.

This module starts every process in its own session and ends it by its pid, and unmounts every
mount. Contender.alive lists the contenders still running when the benchmark ends."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import types

import interrupts
from content import BLOCK_BYTES, ZERO_BLOCK

_START_LIMIT_S = 30
_STOP_LIMIT_S = 10
_KILL_DELAY_S = 15  # after the limit of a row, which comes first if possible
_POLL_S = 0.0001
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class CannotDo(Exception):
    """The contender cannot do this row; the text gives the reason."""


class WrongData(Exception):
    """The contender answered with wrong bytes; the text gives the place."""


@contextlib.contextmanager
def reading():
    """Attributes an error in the body to the server."""
    try:
        yield
    except OSError as error:
        raise CannotDo(f"cannot read: {error.strerror}") from error


def _mounted(path):
    """Whether a file system is mounted at path; asks only the kernel."""
    with open("/proc/self/mountinfo") as lines:
        return any(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)),
                          line.split()[4]) == path for line in lines)


def _unmount(path):
    """Unmounts; if the mount is in use, as soon as it no longer is."""
    for command in (["fusermount3", "-u", path], ["fusermount3", "-uz", path],
                    ["umount", "-l", path]):
        if not _mounted(path):
            return
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)


def _end(process):
    """Waits for the process, gently first."""
    if not process.ends_by_unmount:
        process.terminate()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.wait(_STOP_LIMIT_S)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    process.wait()


def _with_children(pid):
    """A process and all its descendants."""
    pids = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in children.read().split():
                    pids += _with_children(int(child))
    return pids


class Contender:
    """One server on one disk. Subclasses define the command and the served path."""

    name = ""
    serves_image = True   # False: presents the plain file, for comparison
    can_write = True
    alive = []            # all contenders that were started and not yet stopped

    def __init__(self, options, directory, writable=False, mount_options="",
                 environment=None):
        self.options = options
        self.writable = writable
        self.mount_options = mount_options  # further ones, only for qcowfs
        self.environment = environment      # of the server; None: the benchmark's
        self.directory = directory  # private and empty: mount points, sockets, the log
        self.mountpoint = os.path.join(directory, "mnt")
        self.path = None            # the path for reading the disk
        self.processes = []
        # Kills a hung server, so that neither a read nor an unmount waits for it.
        self._watchdog = threading.Timer(options.limit + _KILL_DELAY_S, self._kill)
        self._watchdog.daemon = True

    @classmethod
    def missing(cls, _options):
        """The reason why this contender cannot run on this machine, or None."""
        return None

    @classmethod
    def version(cls, _options):
        """The report's text about the release, or None."""
        return None

    @property
    def client_environment(self):
        """For users of the disk; None: the benchmark's."""
        return None

    def launch(self, disk):
        """Starts the processes and sets self.path. Need not wait for the mount."""
        raise NotImplementedError

    # -- start and stop

    def start(self, disk):
        """Starts the server, returns the ms until its first byte was read."""
        os.mkdir(self.directory)
        Contender.alive.append(self)
        self._watchdog.start()
        device = os.stat(self.directory).st_dev
        start = time.perf_counter()
        self.launch(disk)
        fd = self._open_when_mounted(start, device)
        try:
            with reading():
                first_block = os.pread(fd, BLOCK_BYTES, 0)
        finally:
            os.close(fd)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        if first_block != disk.block(0):
            raise WrongData("wrong data in the first block")
        return elapsed_ms

    def _open_when_mounted(self, start, device):
        """Waits until self.path is on another file system, and opens it."""
        while True:
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_dev != device or not self.processes:
                    return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            if any(process.poll() is not None for process in self.processes):
                raise CannotDo(f"does not start: {self._last_words()}")
            if time.perf_counter() - start > _START_LIMIT_S:
                raise CannotDo(f"no mount after {_START_LIMIT_S} s")
            time.sleep(_POLL_S)

    def spawn(self, *command, ends_by_unmount=True):
        """Starts a process; without ends_by_unmount, stop() sends it SIGTERM."""
        with open(os.path.join(self.directory, "log"), "ab") as log, interrupts.held():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=True,
                                       env=self.environment)
            process.ends_by_unmount = ends_by_unmount
            self.processes.append(process)

    def _last_words(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        text = lines[-1] if lines else "it says nothing"
        return text.replace(self.directory + "/", "").replace("|", "/")

    def stop(self):
        """Unmounts, and waits for the processes, gently first."""
        _unmount(self.mountpoint)
        for process in reversed(self.processes):
            _end(process)
        self.processes = []
        _unmount(self.mountpoint)
        self._watchdog.cancel()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
        if self in Contender.alive:
            Contender.alive.remove(self)

    def _kill(self):
        for process in self.processes:
            process.kill()

    # -- costs

    def _pids(self):
        return [pid for process in self.processes for pid in _with_children(process.pid)]

    def cpu_seconds(self):
        """User and system time of all processes so far."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # including ended children
        return ticks / _CLOCK_TICKS

    def peak_rss_mib(self):
        """The sum of the largest resident sizes of all processes."""
        kib = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/status") as status:
                    match = re.search(r"VmHWM:\s*(\d+)", status.read())
                kib += int(match[1]) if match else 0
        return kib / 1024


def _first_line(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True).stdout.strip().partition("\n")[0]


class Raw(Contender):
    """The plain file itself: no server."""

    name = "raw"
    serves_image = False

    @property
    def client_environment(self):
        return self.environment

    def launch(self, disk):
        self.path = disk.raw


class Ceiling(Contender):
    """The limit of FUSE itself. See ceiling.c."""

    name = "ceiling"
    serves_image = False

    @classmethod
    def missing(cls, options):
        program = os.path.join(options.tools, "bench-ceiling")
        return None if os.access(program, os.X_OK) else f"{program} is not built"

    def launch(self, disk):
        self.path = self.mountpoint
        open(self.mountpoint, "w").close()
        self.spawn(os.path.join(self.options.tools, "bench-ceiling"),
                   *["-w"] * self.writable, disk.raw, self.mountpoint)


class Qcowfs(Contender):
    name = "qcowfs"

    @classmethod
    def missing(cls, options):
        return None if os.access(options.qcowfs, os.X_OK) else (
            f"{options.qcowfs} is not built (--qcowfs says where it is)")

    @classmethod
    def version(cls, options):
        return _first_line(options.qcowfs, "-V")

    def launch(self, disk):
        os.mkdir(self.mountpoint)
        self.path = os.path.join(self.mountpoint, os.path.basename(disk.image) + ".raw")
        # Named, as for the peers: in a probed image of such a name no backing file is followed.
        self.spawn(self.options.qcowfs, "-f", "-o", f"format={disk.format}",
                   *["-o", "rw"] * self.writable,
                   *["-o", self.mount_options] * bool(self.mount_options),
                   *["-o", f"passphrase_file={disk.passphrase}"] * bool(disk.passphrase), disk.image,
                   self.mountpoint)


class Qemu(Contender):
    """The FUSE export of QEMU's storage daemon."""

    name = "qemu"
    iothreads = []

    @classmethod
    def missing(cls, _options):
        return None if shutil.which("qemu-storage-daemon") else (
            "qemu-storage-daemon is not installed")

    @classmethod
    def version(cls, _options):
        return _first_line("qemu-storage-daemon", "--version")

    def export(self, blockdev, objects=()):
        self.path = self.mountpoint
        open(self.mountpoint, "w").close()
        export = {"type": "fuse", "id": "export", "node-name": "disk",
                  "mountpoint": self.mountpoint, "writable": self.writable,
                  "growable": self.writable}
        if self.iothreads:
            export["iothread"] = self.iothreads
        command = ["qemu-storage-daemon"]
        for iothread in self.iothreads:
            command += ["--object", f"iothread,id={iothread}"]
        command += objects
        blockdev = {"node-name": "disk", "read-only": not self.writable, **blockdev}
        self.spawn(*command, "--blockdev", json.dumps(blockdev),
                   "--export", json.dumps(export), ends_by_unmount=False)

    def launch(self, disk):
        blockdev = {"driver": disk.format,
                    "file": {"driver": "file", "filename": disk.image,
                             "read-only": not self.writable}}
        objects = []
        if disk.passphrase:
            blockdev["encrypt"] = {"format": "luks", "key-secret": "secret"}
            objects = ["--object", f"secret,id=secret,file={disk.passphrase}"]
        self.export(blockdev, objects)


class QemuThreads(Qemu):
    """The same with two threads, if the installed release supports that."""

    name = "qemu-mt"
    iothreads = ["thread0", "thread1"]

    @classmethod
    def missing(cls, options):
        reason = super().missing(options)
        if reason:
            return reason
        probe = _QemuThreadsProbe(options, os.path.join(options.work_dir, "probe"))
        try:
            probe.start(types.SimpleNamespace(block=lambda _index: ZERO_BLOCK))
        except CannotDo:
            return "this release of QEMU exports with one thread only"
        finally:
            probe.stop()
        return None

    @classmethod
    def version(cls, _options):
        return None  # the same as for Qemu


class _QemuThreadsProbe(QemuThreads):
    """Exports a disk of zeros, to test whether the release supports threads."""

    def launch(self, _disk):
        self.export({"driver": "null-co", "size": BLOCK_BYTES, "read-zeroes": True})


class Nbdfuse(Contender):
    """nbdfuse before qemu-nbd, over a Unix socket with several connections."""

    name = "nbdfuse"

    @classmethod
    def missing(cls, _options):
        absent = [p for p in ("nbdfuse", "qemu-nbd") if not shutil.which(p)]
        return f"{' and '.join(absent)} not installed" if absent else None

    @classmethod
    def version(cls, _options):
        return f"{_first_line('nbdfuse', '-V')}, {_first_line('qemu-nbd', '--version')}"

    def launch(self, disk):
        if disk.passphrase:
            raise CannotDo("is given no passphrase")
        os.mkdir(self.mountpoint)
        self.path = os.path.join(self.mountpoint, "disk.raw")
        nbd_socket = os.path.join(self.directory, "nbd")
        self.spawn("qemu-nbd", *["--read-only"] * (not self.writable), "--persistent",
                   "--shared=0", f"--format={disk.format}", f"--socket={nbd_socket}",
                   disk.image, ends_by_unmount=False)
        self._await_socket(nbd_socket)
        self.spawn("nbdfuse", *["-r"] * (not self.writable), self.path, "--unix",
                   nbd_socket)

    def _await_socket(self, path):
        start = time.perf_counter()
        while time.perf_counter() - start < _START_LIMIT_S:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                return
            if self.processes[0].poll() is not None:
                raise CannotDo(f"does not start: {self._last_words()}")
            time.sleep(_POLL_S)
        raise CannotDo("no NBD socket")


class Qcowmount(Contender):
    """The tool of libqcow."""

    name = "qcowmount"
    can_write = False

    @classmethod
    def missing(cls, _options):
        return None if shutil.which("qcowmount") else "qcowmount is not installed"

    @classmethod
    def version(cls, _options):
        return _first_line("qcowmount", "-V")

    def launch(self, disk):
        if disk.format != "qcow2" or disk.passphrase:
            raise CannotDo(f"does not know {'encryption' if disk.passphrase else disk.format}")
        os.mkdir(self.mountpoint)
        self.path = os.path.join(self.mountpoint, "qcow1")
        # -v keeps it in the foreground; it prints nothing for a request.
        self.spawn("qcowmount", "-v", disk.image, self.mountpoint)


ALL = (Raw, Ceiling, Qcowfs, Qemu, QemuThreads, Nbdfuse, Qcowmount)
