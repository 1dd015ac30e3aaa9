# SPDX-License-Identifier: GPL-2.0-or-later
"""qimg copy-out to targets that have changed, or are not as they look: no wrong copy is reported
as good, and no file is lost that the copy has not created."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess

import pytest

from qtest import env, pattern, qemu
from qtest.evidence import file_digest
from qtest.procs import run
from qtest.qcow2 import Qcow2File
from qtest.writing import small_tmpfs

KIB, MIB = 1 << 10, 1 << 20


def copy_out(*argv, check=True, **kwargs):
    return run(env.qimg(), "copy-out", *argv, check=check, **kwargs)


def refused(*argv, **kwargs):
    """The one line printed by a failure: without a digest."""
    result = copy_out(*argv, check=False, **kwargs)
    assert result.status == 1 and not result.stdout, result
    lines = result.errors.splitlines()
    assert len(lines) == 1, result
    return lines[0]


def beside(target, suffix):
    return target.with_name(target.name + suffix)


def journal_of(target):
    return beside(target, ".qimg-resume")


def part_of(target):
    return beside(target, ".qimg-part")


def _facts(folder):
    status = {path: path.lstat() for path in folder.iterdir()}
    return {path.name: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns,
                        file_digest(path) if stat.S_ISREG(s.st_mode) else None)
            for path, s in status.items()}


@contextlib.contextmanager
def untouched(folder):
    """No file in it is created, removed or changed; but they may be read."""
    before = _facts(folder)
    yield
    assert _facts(folder) == before


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def content_of(image):
    out = image.with_name(image.name + ".wanted")
    content = qemu.to_raw(image, out).read_bytes()
    out.unlink()
    return content


@contextlib.contextmanager
def broken_at(image, offset):
    """The cluster at @offset cannot be read; afterwards it can, and the times are as before."""
    with Qcow2File(image) as file:
        entry, times = file.l2_entry(offset), os.stat(image)
        file.set_l2_entry(offset, 1 << 45 | 1 << 63)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    yield
    with Qcow2File(image) as file:
        file.set_l2_entry(offset, entry)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def image(tmp_path):
    image = tmp_path / "images" / "disk.qcow2"
    image.parent.mkdir()
    qemu.create(image, 8 * MIB)
    qemu.write(image, (0, 8 * MIB, "words", 1))
    return image


@pytest.fixture
def out(tmp_path):
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "out.raw"


def interrupt(image, out, *options):
    """Leaves a copy with 5 MiB done."""
    with broken_at(image, 5 * MIB):
        assert "; 5242880 of 8388608 bytes are copied, --resume goes on" in \
            refused(*options, image, out)


# ---- changes since ----

def _flip(out, at=3 * MIB + 77):
    with open(out, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def _restore_in_place(out):
    with open(out, "r+b") as file:
        file.write(bytes(out.stat().st_size))


def _replace(out):
    copy = beside(out, ".copy")
    shutil.copy(out, copy)
    copy.rename(out)


def _clone(out):
    """A reflink if the file system supports it: the same bytes in another file."""
    run("cp", "--reflink=auto", "--preserve=all", out, beside(out, ".copy"))
    beside(out, ".copy").rename(out)


def _link_elsewhere(out):
    other = out.with_name("other")
    other.write_bytes(b"\xee" * (8 * MIB))
    out.unlink()
    out.symlink_to(other.name)


def _times_as_before(change):
    def changed(out):
        times = os.stat(out)
        change(out)
        os.utime(out, ns=(times.st_atime_ns, times.st_mtime_ns))
    return changed


OTHER = ("the copy cannot go on: it is not the file that was begun, or was cut (start again "
         "with --force)")
UNLIKE = "the copy cannot go on: at offset {} it differs from the disk (start again with --force)"
CHANGES = {
    "byte": (_flip, UNLIKE.format(3 * MIB + 77)),
    "byte-and-times": (_times_as_before(_flip), UNLIKE.format(3 * MIB + 77)),
    "last-byte": (lambda out: _flip(out, 5 * MIB - 1), UNLIKE.format(5 * MIB - 1)),
    "restored": (_times_as_before(_restore_in_place), None),
    "emptied": (lambda out: os.truncate(out, 0), OTHER),
    "emptied-and-enlarged": (lambda out: (os.truncate(out, 0), os.truncate(out, 8 * MIB)), None),
    "cut": (lambda out: os.truncate(out, 5 * MIB - 1), OTHER),
    "longer": (lambda out: os.truncate(out, 8 * MIB + 1), OTHER),
    "replaced": (_replace, OTHER),
    "clone": (_clone, OTHER),
    "symlink": (_link_elsewhere, None),
    "gone": (lambda out: out.unlink(), None),
}


@pytest.mark.parametrize("hashed", [[], ["--hash=sha256"]], ids=["plain", "hashed"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_since(change, hashed, image, out):
    """Any change to the file filled by an earlier run is noticed, and the file left alone."""
    interrupt(image, out)
    how, text = CHANGES[change]
    how(out)
    with untouched(out.parent):
        line = refused("--resume", *hashed, image, out)
    assert "the copy cannot go on" in line or change == "symlink", line
    assert text is None or line == f"qimg: {out}: {text}"
    if change == "symlink":
        assert out.is_symlink()
        return
    result = copy_out("--force", "--hash=sha256", image, out)
    wanted = content_of(image)
    assert out.read_bytes() == wanted
    assert f"SHA256 ({out}) = {hashlib.sha256(wanted).hexdigest()}\n" in result.text
    assert names_in(out.parent) == ["out.raw"]


def test_cut_behind(image, out):
    """The part behind the first bytes is useless in any case."""
    interrupt(image, out)
    os.truncate(out, 6 * MIB)
    copy_out("--resume", image, out)
    assert out.read_bytes() == content_of(image)


def test_source_touched(image, out):
    """Its status may change between two runs; then the present part is compared."""
    interrupt(image, out)
    image.chmod(0o600)
    copy_out("--resume", image, out)
    assert out.read_bytes() == content_of(image)
    out.unlink()
    interrupt(image, out)
    image.chmod(0o640)
    _flip(out)
    assert "it differs from the disk" in refused("--resume", image, out)


def test_hash_of_what_was_read_back(image, out):
    interrupt(image, out)
    result = copy_out("--resume", "--hash=md5", image, out)
    assert f"MD5 ({out}) = {hashlib.md5(out.read_bytes()).hexdigest()}\n" in result.text


def test_unreadable_range_is_lost_later(image, out):
    """An unreadable part can no longer be compared, and is no reason to lose the copied one."""
    interrupt(image, out)
    with broken_at(image, 2 * MIB):
        with untouched(out.parent):
            assert "cannot read offset 2097152 of the disk" in \
                refused("--resume", "--hash=md5", image, out)
    copy_out("--resume", "--hash=md5", image, out)
    assert out.read_bytes() == content_of(image)


@contextlib.contextmanager
def loop_device(path):
    result = run("losetup", "--show", "-f", path, check=False)
    if result.status != 0:
        pytest.skip("no loop device can be had")
    device = result.text.strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@pytest.mark.parametrize("change", ["same", "exchanged", "byte", "smaller"])
def test_device(change, image, out, tmp_path):
    """A device has no inode of its own: its content identifies it."""
    env.need_root("sets up loop devices")
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\xee" * (9 * MIB))
    second.write_bytes(b"\xdd" * ((9 if change != "smaller" else 10) * MIB))
    name = out.with_name("device")
    with loop_device(first) as device, loop_device(second) as other:
        name.symlink_to(device)
        interrupt(image, name)
        if change == "byte":
            _flip(name)
        elif change != "same":
            name.unlink()
            name.symlink_to(other)
        if change == "same":
            copy_out("--resume", "--verify", image, name)
            assert name.read_bytes() == content_of(image) + b"\xee" * MIB
            assert names_in(out.parent) == ["device"]
            return
        assert "the copy cannot go on" in refused("--resume", image, name)
        if change != "byte":
            assert second.read_bytes() == b"\xdd" * second.stat().st_size
        copy_out("--force", image, name)
        assert name.read_bytes()[:8 * MIB] == content_of(image)
        assert names_in(out.parent) == ["device"]


# ---- existing files ----

@pytest.fixture
def old(out):
    out.write_bytes(b"precious" * KIB)
    out.chmod(0o604)
    return out.read_bytes()


def test_old_file_survives(image, out, old):
    """A failure leaves it; the copy is made beside it and replaces it at the end."""
    inode = out.stat().st_ino
    interrupt(image, out, "--force")
    assert out.read_bytes() == old and out.stat().st_ino == inode
    assert names_in(out.parent) == ["out.raw", "out.raw.qimg-part", "out.raw.qimg-part.qimg-resume"]
    assert "holds a copy that was interrupted" in refused(image, out)
    copy_out("--resume", image, out)
    assert out.read_bytes() == content_of(image) and out.stat().st_mode & 0o7777 == 0o604
    assert names_in(out.parent) == ["out.raw"]


def test_begin_anew_twice(image, out, old):
    """An interrupted copy that was to replace a file is itself restarted."""
    interrupt(image, out, "--force")
    _flip(part_of(out))
    assert "it differs from the disk" in refused("--resume", image, out)
    copy_out("--force", image, out)
    assert out.read_bytes() == content_of(image) and names_in(out.parent) == ["out.raw"]


def test_interrupted_copy_survives(image, out):
    """The journal of the replaced copy also survives."""
    interrupt(image, out)
    with broken_at(image, 0):
        with untouched(out.parent):
            refused("--force", image, out)
    copy_out("--resume", image, out)
    assert out.read_bytes() == content_of(image)


@pytest.mark.parametrize("options", [
    ["--log=/nonexistent/log", "--rescue"], ["--snapshot=no"], ["--layer=7"]], ids="-".join)
def test_nothing_changes_before_checks(options, image, out, old):
    with untouched(out.parent):
        refused("--force", *options, image, out)


def test_first_piece_is_read_first(image, out, old):
    with broken_at(image, 0), untouched(out.parent):
        line = refused("--force", "--rescue", "--log=" + str(out.parent / "no" / "log"), image, out)
        assert "cannot be made" in line
        assert "cannot read offset 0 " in refused("--force", image, out)


def test_digest_that_is_not_available(image, out, old, tmp_path):
    config = tmp_path / "openssl.cnf"
    config.write_text("openssl_conf = o\n[o]\nalg_section = e\n[e]\ndefault_properties = fips=yes\n")
    add = {"OPENSSL_CONF": config}
    if run("openssl", "dgst", "-md5", "/dev/null", env_add=add, check=False).status == 0:
        pytest.skip("this libcrypto computes md5 in any case")
    with untouched(out.parent):
        assert "does not compute md5 here" in refused("--force", "--hash=md5", image, out, env_add=add)


def test_full(image, tmp_path):
    env.need_root("mounts a small file system")
    with small_tmpfs(tmp_path / "small", 6 * MIB) as small:
        out = small / "out.raw"
        out.write_bytes(b"precious")
        line = refused("--force", "--sparse=no", image, out)
        assert "finds no room" in line and names_in(small) == ["out.raw"]
        line = refused("--force", "--threads=1", image, out)    # several may fail at the first
        assert "No space left on device (make room)" in line
        assert out.read_bytes() == b"precious"
        run("mount", "-o", f"remount,size={12 * MIB}", small)
        copy_out("--resume", image, out)
        assert out.read_bytes() == content_of(image) and names_in(small) == ["out.raw"]


def test_symbolic_links(image, out, old):
    """A link stays a link, also after a failure."""
    link = out.with_name("link")
    link.symlink_to(out.name)
    with broken_at(image, 64 * KIB):
        refused("--force", image, link)
    assert link.is_symlink() and out.read_bytes() == old
    copy_out("--force", image, link)
    assert link.is_symlink() and out.read_bytes() == content_of(image)
    assert names_in(out.parent) == ["link", "out.raw"]
    nowhere = out.with_name("nowhere")
    nowhere.symlink_to("gone")
    assert "is a symbolic link to nothing" in refused(image, nowhere)
    assert nowhere.is_symlink()


def test_empty_file_behind_a_link(image, out):
    """An empty file not created by this run is not removed, nor is the link to it."""
    out.touch()
    link = out.with_name("link")
    link.symlink_to(out.name)
    with broken_at(image, 0):
        refused("--resume", image, link)
    assert link.is_symlink() and out.exists()


def test_hard_link_to_the_source(image, out):
    for suffix in ("", ".qimg-part", ".qimg-resume", ".qimg-part.qimg-resume"):
        name = beside(out, suffix)
        os.link(image, name)
        with untouched(image.parent):
            line = refused("--force", image, out)
        assert "chain" in line or "in the way" in line, line
        name.unlink()


def test_limit_of_sizes(image, out):
    line = refused_in_shell("ulimit -f 1024", image, out)
    assert "bytes" in line and "File too large" in line
    assert names_in(out.parent) == []


def refused_in_shell(setting, *argv):
    result = run("bash", "-c", f'{setting}; exec "$0" copy-out "$@"', env.qimg(), *argv, check=False)
    assert result.status == 1 and not result.stdout, result
    return result.errors


# ---- taken names ----

@pytest.mark.parametrize("how", ["fifo", "folder", "symlink", "text", "hard-link"])
@pytest.mark.parametrize("suffix", [".qimg-resume", ".qimg-part.qimg-resume"])
@pytest.mark.parametrize("option", [[], ["--force"], ["--resume"]], ids="-".join)
def test_journals_name_is_taken(how, suffix, option, image, out):
    name, other = beside(out, suffix), out.with_name("other")
    other.write_bytes(b"")
    {"fifo": os.mkfifo, "folder": os.mkdir, "symlink": lambda n: n.symlink_to("other"),
     "text": lambda n: n.write_text("[]"), "hard-link": lambda n: os.link(other, n)}[how](name)
    before = names_in(out.parent)
    assert refused(*option, image, out) == (
        f"qimg: {out}: something else than a copy's journal has the name \"{name.name}\" (move it "
        "away, or name another file)")
    assert names_in(out.parent) == before and other.read_bytes() == b""


def test_parts_name_is_taken(image, out, old):
    part_of(out).write_text("mine")
    with untouched(out.parent):
        assert "is in the way" in refused("--force", image, out)
    part_of(out).unlink()
    os.mkfifo(part_of(out))
    refused("--force", image, out)
    assert stat.S_ISFIFO(part_of(out).stat().st_mode) and out.read_bytes() == old


def test_log(image, out, tmp_path):
    """It is no file that the copy reads or writes, and a refused command leaves none."""
    taken = [out, journal_of(out), part_of(out), journal_of(part_of(out)), image,
             out.parent / ".." / "copies" / "out.raw"]
    for log in taken:
        with untouched(image.parent):
            line = refused("--rescue", f"--log={log}", image, out)
        assert line.endswith("is a file of the image's chain, or one that the copy writes (name "
                             "another file for --log)")
        assert names_in(out.parent) == []
    out.write_text("mine")
    log = tmp_path / "log"
    refused("--rescue", f"--log={log}", image, out)
    assert not log.exists() and out.read_text() == "mine"
    refused("--rescue", "--force", f"--log={log}", "--hash=sha256", image, image)
    assert not log.exists()
    link = tmp_path / "link"
    link.symlink_to(out)
    for name in (link, out):
        assert "one that the copy writes" in refused("--rescue", "--force", f"--log={name}", image, out)
    assert out.read_text() == "mine"
    log.write_text("earlier lines")
    refused("--rescue", "--resume", f"--log={log}", image, out)
    assert log.read_text() == "earlier lines"


def test_folder_that_cannot_be_read(image, out):
    """Names can be created in it, but not listed, so that it cannot be opened for a sync."""
    env.need_root("becomes another user")
    env.need_tools("setpriv")
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for folder in (image.parent, *image.parents):
        if folder != folder.parent and os.stat(folder).st_uid == os.geteuid() and \
                str(folder).startswith(str(env.scratch_root())) and folder != env.scratch_root():
            folder.chmod(0o755)
    image.chmod(0o644)
    if run(*user, "test", "-r", image, "-a", "-x", env.qimg(), check=False).status != 0:
        pytest.skip("another user reaches neither the program nor the image")
    out.parent.chmod(0o1733)
    run(*user, env.qimg(), "copy-out", image, out)
    assert out.read_bytes() == content_of(image)
    run(*user, env.qimg(), "copy-out", "--force", image, out)
    assert names_in(out.parent) == ["out.raw"]


def test_folders_that_cannot_be_synced(image, out):
    """Some file systems cannot sync a directory: then the whole file system is synced."""
    env.need_tools("strace")
    if env.sanitizer():
        pytest.skip("leaks cannot be looked for under ptrace")
    log = out.with_name("trace")
    run("strace", "-f", "-qq", "-o", log, "-e", "trace=fsync,syncfs", "-e",
        "inject=fsync:error=EINVAL", env.qimg(), "copy-out", image, out)
    assert "syncfs(" in log.read_text() and out.read_bytes() == content_of(image)


# ---- pipes ---------------------------------------------------------------------------------

def test_fifo(image, out):
    os.mkfifo(out)
    for options in ([], ["--force"]):
        got = out.parent.parent / "got"
        with open(got, "wb") as file:
            reader = subprocess.Popen(["cat", out], stdout=file)
        try:
            result = copy_out("--hash=md5", *options, image, out)
            assert reader.wait(20 * env.slow()) == 0
        finally:
            reader.kill()
            reader.wait()
        content = got.read_bytes()
        assert content == content_of(image)
        assert f"MD5 ({out}) = {hashlib.md5(content).hexdigest()}\n" in result.text
    assert names_in(out.parent) == ["out.raw"] and stat.S_ISFIFO(out.stat().st_mode)
    assert "cannot go on" in refused("--resume", image, out)
    assert "cannot be read back" in refused("--verify", image, out)
    assert "cannot be read back" in refused("--verify", image, "-")


def test_standard_output_by_name(image, tmp_path):
    wanted = content_of(image)
    result = copy_out("--hash=md5", image, "/dev/stdout")
    assert result.stdout == wanted
    assert f"MD5 (/dev/stdout) = {hashlib.md5(wanted).hexdigest()}\n" in result.errors
    result = run("bash", "-c", f'"$0" copy-out --hash=md5 "$1" >(cat >{tmp_path}/got); s=$?; wait $!; exit $s',
                 env.qimg(), image)
    assert (tmp_path / "got").read_bytes() == wanted
    assert hashlib.md5(wanted).hexdigest() in result.text
    with broken_at(image, 64 * KIB):
        copy_out("--force", image, "/dev/stdout", check=False)
    assert os.path.lexists("/dev/stdout")


# ---- meanwhile -----------------------------------------------------------------------------

class Paused:
    """A copy in progress: its log, a pipe, is full. @finish completes it."""

    def __init__(self, folder, out):
        self.image = folder / "paused.qcow2"
        qemu.create(self.image, 16 * MIB, cluster_size=4096)
        qemu.write(self.image, (0, 16 * MIB, "words", 1))
        with Qcow2File(self.image) as file:
            for cluster in range(1, 4096, 2):
                file.set_l2_entry(cluster * 4096, 1 << 45 | 1 << 63)
        self.fifo = folder / "paused.log"
        os.mkfifo(self.fifo)
        self.process = subprocess.Popen(
            [env.qimg(), "copy-out", "-o", "nolock", "--rescue", f"--log={self.fifo}", "--force",
             "--hash=md5", "--no-hash-files", self.image, out],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        self.lines = open(self.fifo, "rb")
        assert len(self.lines.read(1)) == 1
        return self

    def finish(self):
        while self.lines.read(1 << 16):
            pass
        stdout, stderr = self.process.communicate()
        return self.process.returncode, stdout.decode(), stderr.decode()

    def __exit__(self, *_):
        self.lines.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.mark.parametrize("how", ["append", "mtime", "overwrite"])
@pytest.mark.parametrize("is_old", [False, True], ids=["new", "replaces"])
def test_source_changed_meanwhile(how, is_old, tmp_path, out):
    if is_old:
        out.write_text("mine")
    with Paused(tmp_path, out) as copy:
        with open(copy.image, "r+b", buffering=0) as file:
            if how == "append":
                os.pwrite(file.fileno(), b"\0", os.stat(copy.image).st_size)
            elif how == "overwrite":
                os.pwrite(file.fileno(), b"\1", os.stat(copy.image).st_size - 1)
            else:
                os.utime(copy.image, ns=(0, 0))
        status, stdout, stderr = copy.finish()
        assert status == 1 and stdout == "", stderr
        assert stderr == (f'qimg: {copy.image}: "{copy.image}" was changed while it was copied (copy '
                          "again when nothing writes to it)\n")
    assert names_in(out.parent) == (["out.raw"] if is_old else [])
    assert not is_old or out.read_text() == "mine"


def test_backing_file_changed_meanwhile(tmp_path, out):
    """Each file of the chain, also for a stream."""
    base = qemu.make_raw(tmp_path / "base.img", 4 * MIB, (0, 4 * MIB, "words", 1))
    image = qemu.create(tmp_path / "disk.qcow2", 4 * MIB, "base.img", "raw")
    process = subprocess.Popen([env.qimg(), "copy-out", "-o", "nolock", "--hash=md5", image, "-"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(process.stdout.read1(1)) == 1
    os.utime(base, ns=(0, 0))
    errors = process.communicate()[1].decode()
    assert process.returncode == 1
    assert f'"{base}" was changed while it was copied' in errors and "MD5" not in errors


def test_source_touched_meanwhile(tmp_path, out):
    """The content may be good: nothing is lost, and reading back decides."""
    with Paused(tmp_path, out) as copy:
        copy.image.chmod(0o600)
        status, stdout, stderr = copy.finish()
        assert status == 1 and stdout == "" and "was changed while it was copied" in stderr
        assert "--resume goes on" in stderr
        result = copy_out("--resume", "--rescue", "--hash=md5", "--no-hash-files", copy.image, out,
                          check=False)
        assert result.status == 2, result
        assert result.text == f"MD5 ({out}) = {hashlib.md5(out.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "replaces"])
def test_two_copies_at_once(is_old, image, tmp_path, out):
    if is_old:
        out.write_text("mine")
    with Paused(tmp_path, out) as copy:
        for option in ([], ["--force"], ["--resume"]):
            refused(*option, copy.image, out)
            refused(*option, image, out)
        assert not is_old or out.read_text() == "mine"
        status, stdout, stderr = copy.finish()
        assert status == 2, stderr
    digest = hashlib.md5(out.read_bytes()).hexdigest()
    assert stdout.startswith(f"MD5 ({out}) = {digest}\n")
    assert names_in(out.parent) == ["out.raw"]


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "replaces"])
def test_target_replaced_meanwhile(is_old, tmp_path, out):
    if is_old:
        out.write_text("mine")
    with Paused(tmp_path, out) as copy:
        other = out.with_name("other")
        other.write_text("yours")
        other.rename(out)
        status, stdout, stderr = copy.finish()
        assert status == 1 and stdout == "" and "replaced while" in stderr, stderr
    assert out.read_text() == "yours"


def test_folder_replaced_meanwhile(tmp_path, out):
    """The copy stays in its original place."""
    out.write_text("mine")
    with Paused(tmp_path, out) as copy:
        moved = out.parent.rename(tmp_path / "moved")
        out.parent.mkdir()
        out.write_text("yours")
        status, stdout, stderr = copy.finish()
        assert status == 2, stderr
    assert out.read_text() == "yours" and names_in(out.parent) == ["out.raw"]
    assert names_in(moved) == ["out.raw"]
    assert stdout.startswith(f"MD5 ({out}) = {file_md5(moved / 'out.raw')}\n")


def file_md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# ---- reading back --------------------------------------------------------------------------

@pytest.mark.parametrize("options", [[], ["--hash=sha256"], ["--sparse=no"], ["--force"]], ids="-".join)
def test_verify(options, image, out):
    if "--force" in options:
        out.write_text("old")
    copy_out("--verify", *options, image, out)
    assert out.read_bytes() == content_of(image)
    assert names_in(out.parent) == ["out.raw"]


def test_verify_reads_the_medium(image, out):
    env.need_tools("strace")
    if env.sanitizer():
        pytest.skip("leaks cannot be looked for under ptrace")
    log = out.with_name("trace")
    run("strace", "-f", "-y", "-qq", "-o", log, env.qimg(), "copy-out", "--verify", image, out)
    lines = log.read_text().splitlines()
    dropped = next(i for i, line in enumerate(lines) if "POSIX_FADV_DONTNEED" in line)
    assert any("O_DIRECT" in line for line in lines[dropped:])
    read = [line for line in lines[dropped:] if "pread64(" in line and "/out.raw>" in line]
    assert len(read) >= 8, read


def test_verify_with_losses(image, out):
    """Unreadable ranges are zeros there, too."""
    with broken_at(image, 3 * MIB):
        assert copy_out("--verify", "--rescue", image, out, check=False).status == 2
    content = content_of(image)
    pattern.assert_same(out.read_bytes(), content[:3 * MIB] + bytes(64 * KIB) +
                        content[3 * MIB + 64 * KIB:], "the copy")


def test_resume_after_kill_is_compared(tmp_path, out):
    """The journal of a killed run trusts nothing: later damage is found."""
    with Paused(tmp_path, out) as copy:
        copy.process.kill()
        copy.process.communicate()
        assert journal_of(out).exists()
        header = json.loads(journal_of(out).read_text().splitlines()[0].rpartition(" ")[0])
        assert header["target"]["inode"] == out.stat().st_ino
    digest = file_digest(out)
    result = copy_out("--resume", "--rescue", copy.image, out, check=False)
    assert result.status == 2 and file_digest(out) != digest, result
