# SPDX-License-Identifier: GPL-2.0-or-later
"""Passphrases and keys stay in the server: not in a core dump of it or its helpers, nor in the files
that show it. Spec: encryption section 7."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from qtest import env, procs
from qtest.encryption import EncryptedImage, cut_out, luks_area
from qtest.mount import Mount, mounts_at

MIB = 1 << 20
SECRET = "a passphrase to be found"
ANONYMOUS, SHARED = 1, 2  # bits of coredump_filter
MAX_MAPPING = 256 * MIB  # reserved address space is larger


def volume_key(image):
    """By cryptsetup."""
    text = procs.run("cryptsetup", "-q", "luksDump", "--dump-master-key", "--key-file", "-",
                     cut_out(image), stdin=image.secret.encode()).text
    found = bytes.fromhex(re.sub(r"[^0-9a-f]", "", text.partition("MK dump:")[2]))
    assert len(found) == 64
    return found


def mappings(pid):
    """(start, end, is private, flags) of each one that can be read."""
    entry, out = None, []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) (r..)(.) ", line):
            entry = int(match[1], 16), int(match[2], 16), match[4] == "p"
        elif line.startswith("VmFlags:") and entry[1] - entry[0] <= MAX_MAPPING:
            out.append((*entry, line.split()[1:]))
    return out


def memory(pid, wants):
    """The bytes of the mappings that @wants."""
    out = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for start, end, is_private, flags in mappings(pid):
            if wants(is_private, flags) and "rd" in flags and "io" not in flags:
                file.seek(start)
                try:
                    out.append(file.read(end - start) or b"")
                except OSError:  # the kernel's own pages
                    continue
    return b"".join(out)


def dumped(pid):
    """The mappings of a core dump. A file's changed pages count as anonymous."""
    bits = int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16)
    return memory(pid, lambda is_private, flags: "dd" not in flags and
                  bits & (ANONYMOUS if is_private else SHARED))


def family(pid):
    return [pid, *procs.children(pid)]


@pytest.mark.skipif(os.geteuid() != 0, reason="reads the memory of a process that hides it")
def test_core_of_a_server(tmp_path, mnt):
    if env.sanitizer():
        pytest.skip("a sanitizer keeps memory after it was freed")
    image = EncryptedImage(tmp_path / "disk.qcow2", 4 * MIB, secret=SECRET)
    image.io("write -P 7 0 4M")
    key = volume_key(image)
    needles = {SECRET.encode(): "passphrase",
               **{key[at:at + 16]: f"key at {at}" for at in range(0, 64, 16)}}
    options = f"rw,passphrase_file={image.passphrase_file()}"
    with Mount(image.path, mnt, "-o", options) as mount:
        with open(mount.raw(image.path), "r+b") as file:
            file.read(2 * MIB)
            os.pwrite(file.fileno(), b"x" * 100_000, 50_000)
            os.fsync(file.fileno())
        pids = family(mount.pid)
        assert len(pids) >= 2, "the keeper, or the process that unmounts"
        everything = memory(mount.pid, lambda is_private, flags: True)
        assert key[:16] in everything and key[48:] in everything, "a search finds what is there"
        for pid in pids:
            core = dumped(pid)
            assert not [name for needle, name in needles.items() if needle in core]
            for name in ("cmdline", "environ"):
                assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
            if gcore := shutil.which("gcore"):
                made = procs.run(gcore, "-o", tmp_path / "core", str(pid), check=False)
                path = tmp_path / f"core.{pid}"
                assert path.exists(), made
                content = path.read_bytes()
                assert not [name for needle, name in needles.items() if needle in content]
                path.unlink()
        for path in (mnt / ".qcowfs").rglob("*.json"):
            assert SECRET not in path.read_text()
    assert SECRET not in mount.stderr()


def test_signal_ends_the_wait(tmp_path, mnt):
    """For a header whose iterations take a minute; nothing is mounted."""
    image = EncryptedImage(tmp_path / "disk.qcow2", MIB)
    with open(image.path, "r+b") as file:
        file.seek(luks_area(image.path)[0] + 212)
        file.write((90_000_000).to_bytes(4, "big"))
    process = subprocess.Popen([env.qcowfs(), "-o", f"passphrase_file={image.passphrase_file()}",
                                image.path, mnt])
    try:
        with procs.Watchdog(30, process.kill):
            while True:  # until it has computed for some time
                stat = Path(f"/proc/{process.pid}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[11]) >= 10:
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait() == -signal.SIGINT
    finally:
        procs.end_process(process)
    assert not mounts_at(mnt)
