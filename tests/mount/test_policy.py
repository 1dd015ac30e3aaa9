# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that an image may name, the places where they are searched, and the refusals. Spec:
design, "Mount options"; qcow2, "Backing files", "External data file"."""

import errno
import json
import os
import shutil
import socket

import pytest

from qtest import env, loop, pattern, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.qcow2 import EXT_BACKING_FORMAT, Qcow2File
from qtest.trace import opened_files
from qtest.writing import check, opened

MIB = 1 << 20
BASE = pattern.words(0, MIB, 40)


@pytest.fixture
def folders(tmp_path):
    """(images, outside): an overlay without backing file in the one, base.img in the other."""
    images, outside = tmp_path / "images", tmp_path / "outside"
    images.mkdir()
    outside.mkdir()
    qemu.make_raw(outside / "base.img", MIB, (0, MIB, "words", 40))
    return images, outside


def overlay(path, backing, backing_format=b"raw"):
    """An overlay that names any bytes as its backing file, with one cluster of its own."""
    if isinstance(backing, str):
        backing = os.fsencode(backing)
    image = qemu.create(path, MIB)
    qemu.write(image, (65536, 65536, "words", 41))
    with Qcow2File(image) as file:
        file.set_backing(backing, backing_format)
    return image


def content_of_overlay():
    return BASE[:65536] + pattern.words(65536, 65536, 41) + BASE[131072:]


def assert_reads(image, mnt, *options, **kwargs):
    with Mount(image, mnt, *options, **kwargs) as mount:
        assert read_all(mount.raw(image)) == content_of_overlay()
        return mount


# ---- directories ----------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_outside_is_refused(absolute, folders, mnt):
    images, outside = folders
    name = str(outside / "base.img") if absolute else "../outside/base.img"
    image = overlay(images / "disk.qcow2", name)
    refused(image, mnt, file=image, contains=[name, "backing="])


@pytest.mark.parametrize("policy", ["any", "outside", "list", "list-reversed", "parent"])
def test_outside_when_allowed(policy, folders, mnt, tmp_path):
    images, outside = folders
    image = overlay(images / "disk.qcow2", "../outside/base.img")
    text = {"any": "any", "outside": str(outside), "list": f"{images}:{outside}",
            "list-reversed": f"{outside}:{images}", "parent": str(tmp_path)}[policy]
    assert_reads(image, mnt, "-o", f"backing={text}")


def test_list_without_the_directory(folders, mnt, tmp_path):
    images, _ = folders
    image = overlay(images / "disk.qcow2", "../outside/base.img")
    other = tmp_path / "out"          # a prefix of "outside" as text, not as a path
    other.mkdir()
    refused("-o", f"backing={other}:{images}", image, mnt, file=image, contains=["outside"])


@pytest.mark.parametrize("name", ["base.img", "./base.img", "sub/base.img", "sub/../base.img",
                                  "ABSOLUTE"])
def test_same_directory(name, folders, mnt):
    images, outside = folders
    (images / "sub").mkdir()
    shutil.copy(outside / "base.img", images / "base.img")
    shutil.copy(outside / "base.img", images / "sub" / "base.img")
    if name == "ABSOLUTE":
        name = str(images / "base.img")
    assert_reads(overlay(images / "disk.qcow2", name), mnt)
    assert_reads(images / "disk.qcow2", mnt, "-o", "backing=same-dir")


def test_none(folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    image = overlay(images / "disk.qcow2", "base.img")
    refused("-o", "backing=none", image, mnt, file=image, contains=["base.img", "backing="])


def test_none_without_backing(disk, mnt, disk_content):
    with Mount(disk, mnt, "-o", "backing=none") as mount:
        assert read_all(mount.raw(disk)) == disk_content


def test_policy_counts_for_each_layer(folders, mnt):
    """The directory is that of the image that names the file, not of the top one."""
    images, outside = folders
    (images / "sub").mkdir()
    shutil.copy(outside / "base.img", images / "base.img")
    overlay(images / "sub" / "middle.qcow2", "../base.img")
    top = overlay(images / "top.qcow2", "sub/middle.qcow2", b"qcow2")
    refused(top, mnt, file=top, contains=["base.img"])
    with Mount(top, mnt, "-o", f"backing={images}") as mount:
        assert read_all(mount.raw(top)) == content_of_overlay()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_symlink_out_of_the_directory(kind, folders, mnt):
    """A link cannot lead outside."""
    images, outside = folders
    if kind == "file":
        (images / "base.img").symlink_to(outside / "base.img")
        image = overlay(images / "disk.qcow2", "base.img")
    else:
        (images / "sub").symlink_to(outside)
        image = overlay(images / "disk.qcow2", "sub/base.img")
    refused(image, mnt, file=image, contains=["base.img"])
    assert_reads(image, mnt, "-o", f"backing={outside}")


def test_symlink_within_the_directory(folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "real.img")
    (images / "base.img").symlink_to("real.img")
    assert_reads(overlay(images / "disk.qcow2", "base.img"), mnt)


def test_image_by_a_symlink(folders, mnt):
    """Relative names belong to the directory of the given path (as in QEMU)."""
    images, outside = folders
    (images / "elsewhere").mkdir()
    real = overlay(images / "elsewhere" / "real.qcow2", "base.img")
    shutil.copy(outside / "base.img", images / "base.img")
    (images / "disk.qcow2").symlink_to(real)
    assert_reads(images / "disk.qcow2", mnt)


def test_nothing_outside_is_opened(folders, mnt, tmp_path):
    """Refused means never opened: even examining it could have an effect."""
    images, outside = folders
    image = overlay(images / "disk.qcow2", str(outside / "base.img"))
    result, opened = opened_files(env.qcowfs(), image, mnt, log=tmp_path / "trace")
    assert result.status == 1
    assert os.path.realpath(image) in opened, "the trace works"
    assert os.path.realpath(outside / "base.img") not in opened


# ---- data files -----------------------------------------------------------------------


def external(directory, name):
    image = qemu.create(directory / "disk.qcow2", MIB, data_file="data.bin", data_file_raw="on")
    qemu.write(image, (0, MIB, "words", 40))
    if name != "data.bin":
        with Qcow2File(image) as file:
            kept = [(kind, os.fsencode(name) if kind == 0x44415441 else data)
                    for _, kind, data in file.extensions()]
            file.set_extensions(kept)
    return image


@pytest.mark.parametrize("absolute", [False, True])
def test_data_file_outside(absolute, folders, mnt):
    images, outside = folders
    name = str(outside / "data.bin") if absolute else "../outside/data.bin"
    image = external(images, name)
    shutil.move(images / "data.bin", outside / "data.bin")
    refused(image, mnt, file=image, contains=["data.bin", "backing="])
    with Mount(image, mnt, "-o", f"backing={outside}") as mount:
        assert read_all(mount.raw(image)) == BASE


def test_data_file_belongs_to_the_image_directory(folders, mnt):
    """Never the current directory: a decoy there must not be served."""
    images, outside = folders
    image = external(images, "data.bin")
    (outside / "data.bin").write_bytes(bytes(MIB))
    with Mount(image, mnt, cwd=outside) as mount:
        assert read_all(mount.raw(image)) == BASE
    (images / "data.bin").unlink()
    refused(image, mnt, file=image, contains=["data.bin", "No such file"], cwd=outside)


def test_data_file_with_none(folders, mnt):
    images, _ = folders
    image = external(images, "data.bin")
    refused("-o", "backing=none", image, mnt, file=image, contains=["data.bin"])


@pytest.mark.parametrize("name", ["json:{}", "nbd:localhost:1", "/dev/zero"])
def test_data_file_name_is_literal(name, folders, mnt):
    """`json:` and protocols mean nothing in it."""
    images, _ = folders
    image = external(images, name)
    refused("-o", "backing=any", image, mnt, file=image)


# ---- moved files ----------------------------------------------------------------------


def test_missing_backing_file(folders, mnt):
    """Names the stored path, the path that was tried, and the option."""
    images, _ = folders
    image = overlay(images / "disk.qcow2", "gone/base.img")
    refused(image, mnt, file=image,
            contains=["gone/base.img", str(images / "gone/base.img"), "backing_map="])


@pytest.mark.parametrize("stored,mapping", [
    ("/old/place/base.img", "/old/place/base.img={outside}/base.img"),
    ("/old/place/base.img", "/old/place={outside}"),
    ("/old/place/sub/base.img", "/old/place/sub={outside}"),
    ("gone/base.img", "gone/base.img={outside}/base.img"),
    ("gone.img", "gone.img={outside}/base.img"),
])
def test_backing_map(stored, mapping, folders, mnt):
    images, outside = folders
    image = overlay(images / "disk.qcow2", stored)
    # The user has named the file: no further permission is needed.
    assert_reads(image, mnt, "-o", "backing_map=" + mapping.format(outside=outside))


def test_backing_map_of_another_name(folders, mnt):
    images, outside = folders
    image = overlay(images / "disk.qcow2", "/old/place/base.img")
    refused("-o", f"backing_map=/old/pla={outside}", image, mnt, file=image, contains=["/old/place"])


def test_moved_base_is_found(folders, mnt):
    """By its name, below the permitted directories; a warning says so."""
    images, outside = folders
    image = overlay(images / "disk.qcow2", "/old/place/base.img")
    mount = assert_reads(image, mnt, "-o", f"backing={outside}")
    told = [line for line in mount.stderr().splitlines() if "/old/place/base.img" in line]
    assert len(told) == 1 and str(outside / "base.img") in told[0], mount.stderr()
    assert_reads(image, mnt, "-o", f"cow,backing={outside}")


@pytest.mark.parametrize("option", ["rw", "cow={overlay}"])
def test_moved_base_is_not_written_upon(option, folders, mnt, tmp_path):
    """No permanent image is based on a file that may be the wrong one."""
    images, outside = folders
    image = overlay(images / "disk.qcow2", "/old/place/base.img")
    option = option.format(overlay=tmp_path / "overlay.qcow2")
    refused("-o", f"{option},backing={outside}", image, mnt, file=image,
            contains=[str(outside / "base.img"), "not taken unasked", "backing_map="])
    assert_reads(image, mnt, "-o", f"{option},backing_map=/old/place={outside}")


def test_backing_map_repeated(folders, mnt):
    images, outside = folders
    overlay(images / "middle.tmp", "/two/base.img").rename(images / "middle.qcow2")
    (images / "middle.qcow2").rename(outside / "middle.qcow2")
    top = overlay(images / "top.qcow2", "/one/middle.qcow2", b"qcow2")
    assert_reads(top, mnt, "-o", f"backing_map=/one={outside}",
                 "-o", f"backing_map=/two={outside}")


# ---- formats --------------------------------------------------------------------------


def test_missing_format_is_probed_with_a_warning(folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    image = overlay(images / "disk.qcow2", "base.img", None)
    mount = assert_reads(image, mnt)
    told = [line for line in mount.stderr().splitlines() if "base.img" in line]
    assert len(told) == 1 and "format" in told[0] and "raw" in told[0], mount.stderr()


def test_probed_qcow2_without_further_files(folders, mnt):
    images, _ = folders
    base = qemu.create(images / "base.qcow2", MIB)
    qemu.write(base, (0, MIB, "words", 40))
    mount = assert_reads(overlay(images / "disk.qcow2", "base.qcow2", None), mnt)
    assert "qcow2" in mount.stderr() and "format" in mount.stderr()


def test_probed_qcow2_that_names_a_file(folders, mnt):
    """A guest could have written such a header into its raw disk."""
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    overlay(images / "middle.qcow2", "base.img")
    top = overlay(images / "disk.qcow2", "middle.qcow2", None)
    refused(top, mnt, file=top, contains=["format", "middle.qcow2"])
    assert_reads(top, mnt, "-o", "backing=any")


# The names of raw disks, whose guests can write any header into them.
RAW_NAMES = ["disk.raw", "disk.img", "disk.IMG", "disk.dd", "disk.iso", "disk.001"]


def neighbours(images, name, kind):
    """A guest's disk @name with a header that names the disk of another guest."""
    victim = qemu.make_raw(images / "victim", MIB, (0, MIB, "words", 40))
    if kind == "backing file":
        guest = qemu.create(images / "made.qcow2", MIB)
        with Qcow2File(guest) as file:
            file.set_backing(b"victim", b"raw")
    else:
        guest = external(images, "victim")
        (images / "data.bin").unlink()
    return guest.rename(images / name), victim


@pytest.mark.parametrize("kind", ["backing file", "data file"])
@pytest.mark.parametrize("name", RAW_NAMES)
def test_header_in_a_raw_disk_names_nothing(name, kind, folders, mnt, tmp_path):
    """Probed, it is not followed: not read, and never written to."""
    images, _ = folders
    guest, victim = neighbours(images, name, kind)
    with Unchanged(images):
        for mode in ("ro", "rw", "cow", f"cow={tmp_path}/overlay"):
            refused("-o", mode, guest, mnt, file=guest,
                    contains=["probed as qcow2", "victim", kind, "not followed", "format=qcow2",
                              "format=raw", "backing=same-dir"])
        assert not (tmp_path / "overlay").exists()
        for command in (["info"], ["map"], ["resize", "2M"], ["snapshot", "list"],
                        ["copy-out", tmp_path / "copy"]):
            argv = [*command[:1], guest, *command[1:]]
            if command[0] == "snapshot":
                argv = [*command, guest]
            result = procs.run(env.qimg(), *argv, check=False)
            only_shows = command[0] in ("info", "map", "snapshot")
            assert result.status == (0 if only_shows else 1), result
            assert "not followed" in result.errors, result
    for option in ("format=qcow2", "backing=same-dir", "backing=any", f"backing={images}"):
        with Mount(guest, mnt, "-o", option) as mount:
            assert read_all(mount.raw(guest)) == BASE
    with Mount(guest, mnt, "-o", "format=raw") as mount:
        assert read_all(mount.raw(guest))[:4] == b"QFI\xfb"


@pytest.mark.parametrize("kind", ["backing file", "data file"])
@pytest.mark.parametrize("name", ["disk.qcow2", "disk.QCOW2", "disk.1700000000", "disk.snap1"])
def test_header_below_another_name_is_read(name, kind, folders, mnt):
    images, _ = folders
    guest, _ = neighbours(images, name, kind)
    with Mount(guest, mnt) as mount:
        assert read_all(mount.raw(guest)) == BASE


@pytest.mark.parametrize("name,is_written", [("disk.qcow2", True), ("disk.snap1", False),
                                             ("disk", False)])
def test_data_file_is_written_by_a_name_that_says_so(name, is_written, folders, mnt):
    images, _ = folders
    guest, victim = neighbours(images, name, "data file")
    if not is_written:
        refused("-o", "rw", guest, mnt, file=guest,
                contains=["victim", "not opened for writing", "format=qcow2"])
    with Mount(guest, mnt, "-o", "rw" if is_written else "rw,format=qcow2") as mount:
        with open(mount.raw(guest), "r+b", buffering=0) as file:
            file.write(b"new")
    assert victim.read_bytes() == b"new" + BASE[3:]


def test_data_file_is_not_written_from_a_directory(folders, mnt):
    """The user has not named the image, whichever its name."""
    images, _ = folders
    guest, victim = neighbours(images, "disk.qcow2", "data file")
    with Unchanged(images), Mount(images, mnt, "-o", "rw") as mount:
        with pytest.raises(OSError) as caught:
            os.stat(mnt / "disk.raw")
        assert caught.value.errno == errno.EACCES
        told = json.loads(mount.facts("errors.json").read_text())
        assert [entry["file"] for entry in told] == [str(guest)]
        assert "not opened for writing" in told[0]["reason"]
    with Mount(images, mnt) as mount:
        assert read_all(mnt / "disk.raw") == BASE
    for option in ("backing=same-dir", "format=qcow2"):
        with Mount(images, mnt, "-o", f"rw,{option}") as mount:
            with open(mnt / "disk.raw", "r+b", buffering=0) as file:
                file.write(option[:3].encode())
        assert victim.read_bytes() == option[:3].encode() + BASE[3:]


def test_link_does_not_hide_the_name(folders, mnt):
    images, _ = folders
    neighbours(images, "disk.img", "backing file")
    link = images / "link.qcow2"
    link.symlink_to("disk.img")
    refused(link, mnt, file=link, contains=["not followed"])


def test_header_in_a_device_names_nothing(folders, mnt):
    loop.need_loop_devices()
    images, _ = folders
    guest, victim = neighbours(images, "disk.qcow2", "backing file")
    os.truncate(guest, MIB)     # whole sectors
    with loop.attached(guest) as device:
        refused(device, mnt, file=device, contains=["not followed"])
        refused("-o", "rw", device, mnt, file=device, contains=["not followed"])


def test_qed_below_qed_obeys_the_name(folders, mnt):
    """A QED image only stores that its backing file need not be raw."""
    images, _ = folders
    qemu.make_raw(images / "victim", MIB, (0, MIB, "words", 40))
    for name, opens in (("middle.img", False), ("middle.qcow2", True)):
        middle = qemu.create(images / "made.qcow2", MIB)
        with Qcow2File(middle) as file:
            file.set_backing(b"victim", b"raw")
        middle.rename(images / name)
        top = images / f"{name}.qed"
        qemu.img("create", "-f", "qed", "-b", name, "-F", "qcow2", top, cwd=images)
        if opens:
            with Mount(top, mnt) as mount:
                assert read_all(mount.raw(top)) == BASE
        else:
            refused(top, mnt, file=top, contains=["middle.img", "not followed"])
            with Mount(top, mnt, "-o", "backing=same-dir") as mount:
                assert read_all(mount.raw(top)) == BASE


def test_recorded_raw_is_not_probed(folders, mnt):
    """A qcow2 header inside a raw backing file is data."""
    images, _ = folders
    base = qemu.create(images / "base.img", MIB)
    image = overlay(images / "disk.qcow2", "base.img", b"raw")
    with Mount(image, mnt) as mount:
        assert read_all(mount.raw(image))[:65536] == base.read_bytes()[:65536]
        assert "warning" not in mount.stderr()


@pytest.mark.parametrize("name", [b"vmdk", b"nbd", b"host_device", b"luks", b"x" * 15])
def test_unknown_format(name, folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    image = overlay(images / "disk.qcow2", "base.img", name)
    refused("-o", "backing=any", image, mnt, file=image, contains=[name.decode(), "format"])


def test_recorded_qcow2_that_is_none(folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    image = overlay(images / "disk.qcow2", "base.img", b"qcow2")
    refused(image, mnt, file=image, contains=["base.img", "magic"])


# ---- names ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "nbd:localhost:10809", "nbd://localhost/x", "nbd:unix:/tmp/s", "http://localhost/x.img",
    "https://localhost/x", "ftp://localhost/x", "ssh://localhost/x", "iscsi://x/y/0",
    "rbd:pool/image", "gluster://h/v/x", "vvfat:/tmp", "blkdebug::x", "fd:0", "host_device:/dev/zero",
    "unknown:thing",
    'json:{"driver":"nbd","host":"localhost","port":"1"}',
    'json:{"driver":"qcow2","file":{"driver":"nbd","host":"localhost","port":"1"}}',
    'json:{"driver":"raw","file.driver":"host_device","file.filename":"/dev/zero"}',
    'json:{"driver":"raw","offset":"512","file":{"driver":"file","filename":"base.img"}}',
    'json:{"driver":"raw","file":"node-name"}',
    'json:{"driver":"raw","file":{"driver":"file","filename":["base.img"]}}',
    'json:{"driver":"raw","file":{"driver":"file"}}',
    'json:{"driver":"raw","file":{"driver":"file","filename":"json:{}"}}',
    "json:{", "json:", "json:[]", "json:null", "json:" + "[" * 900, 'json:{"a":' * 80,
])
def test_no_other_protocol(name, folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    image = overlay(images / "disk.qcow2", name)
    refused("-o", "backing=any", image, mnt, file=image)


@pytest.mark.parametrize("name", [
    'json:{"driver":"raw","file":{"driver":"file","filename":"base.img"}}',
    'json:{"driver":"raw","file.driver":"file","file.filename":"base.img"}',
    'json:{"file":{"filename":"base.img","driver":"file"},"driver":"raw"}',
    'json:{"driver":"raw","file":{"driver":"file","filename":"base.img","aio":"native"}}',
    "file:base.img", "./base.img",
])
def test_plain_files_by_other_spellings(name, folders, mnt):
    images, outside = folders
    shutil.copy(outside / "base.img", images / "base.img")
    assert_reads(overlay(images / "disk.qcow2", name), mnt)


def test_json_obeys_the_policy(folders, mnt):
    images, outside = folders
    name = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{outside}/base.img"}}}}'
    image = overlay(images / "disk.qcow2", name)
    refused(image, mnt, file=image, contains=["base.img", "backing="])


@pytest.mark.parametrize("name", [b"caf\xe9.img", b"x" * 250 + b".img", b"a b\tc.img",
                                  "日本.img".encode(), b"back\\slash.img", b"it's.img"])
def test_byte_names(name, folders, mnt):
    images, outside = folders
    shutil.copy(os.fsencode(outside / "base.img"), os.fsencode(images) + b"/" + name)
    assert_reads(overlay(images / "disk.qcow2", name), mnt)


@pytest.mark.parametrize("name", [b"two\nlines.img", b"esc\x1b[31m.img", b"caf\xe9.img"])
def test_messages_stay_one_line(name, folders, mnt):
    """Control characters of a stored name reach no terminal."""
    images, _ = folders
    image = overlay(images / "disk.qcow2", name)
    match = refused(image, mnt, file=image)
    assert all(c.isprintable() or "\udc80" <= c <= "\udcff" for c in match.string.rstrip("\n"))


# ---- special files, loops, depth ----


@pytest.mark.parametrize("kind", ["fifo", "socket", "character device", "directory"])
def test_other_kinds_of_files(kind, folders, mnt):
    """Answered within a second: opening a FIFO would wait forever."""
    images, _ = folders
    path = images / "base.img"
    listener = None
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        here = os.open(".", os.O_RDONLY)
        os.chdir(images)                # a socket's path is short
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("base.img")
        os.fchdir(here)
        os.close(here)
    else:
        path = "/dev/zero"
    image = overlay(images / "disk.qcow2", str(path))
    refused("-o", "backing=any", image, mnt, file=image, limit_s=20)
    if listener:
        listener.close()


def test_block_device_as_backing(folders, mnt):
    """Only if the user permits it: the device, its directory, everything, or by a mapping. An
    unused loop device will do: a disk of no bytes."""
    env.need_root("a loop device")
    if not os.path.exists("/dev/loop0"):
        pytest.skip("no /dev/loop0")
    images, _ = folders
    image = overlay(images / "disk.qcow2", "/dev/loop0")
    link = images / "link"
    link.symlink_to("/dev/loop0")
    for options in ([], ["-o", "backing=same-dir"], ["-o", f"backing={images}"]):
        refused(*options, image, mnt, file=image, contains=["/dev/loop0", "block device", "backing="])
        named = overlay(images / "other.qcow2", "link")
        refused(*options, named, mnt, file=named, contains=["block device", "backing="])
    for option in ("backing=/dev/loop0", "backing=/dev", "backing=any",
                   "backing_map=/dev/loop0=/dev/loop0"):
        with Mount(image, mnt, "-o", option) as mount:
            assert mount.raw(image).exists()


@pytest.mark.parametrize("kind", ["self", "two", "three", "hard link", "symlink"])
def test_loops(kind, folders, mnt):
    images, _ = folders
    image = overlay(images / "disk.qcow2", "disk.qcow2", b"qcow2")
    if kind in ("two", "three"):
        names = ["disk.qcow2", "b.qcow2", "c.qcow2"][:2 if kind == "two" else 3]
        for name, below in zip(names, names[1:] + names[:1]):
            overlay(images / name, below, b"qcow2")
    elif kind == "hard link":
        overlay(images / "disk.qcow2", "link.qcow2", b"qcow2")
        os.link(image, images / "link.qcow2")
    elif kind == "symlink":
        overlay(images / "disk.qcow2", "link.qcow2", b"qcow2")
        (images / "link.qcow2").symlink_to("disk.qcow2")
    refused(image, mnt, file=image, contains=["loop"])


def make_deep(directory, depth):
    """A chain of @depth images by copies of one: qemu-img would open all of it each time."""
    template = qemu.create(directory / "template", MIB, cluster_size=512)
    for number in range(depth):
        path = directory / f"{number}.qcow2"
        shutil.copy(template, path)
        if number:
            with Qcow2File(path) as file:
                file.set_extensions([(EXT_BACKING_FORMAT, b"qcow2")], f"{number - 1}.qcow2".encode())
    template.unlink()
    return directory / f"{depth - 1}.qcow2"


def test_depth_of_200(folders, mnt):
    images, _ = folders
    top = make_deep(images, 200)
    qemu.write(images / "0.qcow2", (0, MIB, "words", 40))
    with Mount(top, mnt) as mount:
        assert read_all(mount.raw(top)) == BASE
        assert len(os.listdir(mount.facts("199", "layers"))) == 200


def test_work_at_depth_of_200(folders, mnt, tmp_path):
    """Written to, copied and grown as any other: each layer shows its topmost parts."""
    images, _ = folders
    top = make_deep(images, 200)
    wanted = bytearray(MIB)
    for number in (0, 1, 57, 120, 198, 199):
        at, length = number * 4096, 99_840
        qemu.write(images / f"{number}.qcow2", (at, length, "words", number + 1))
        wanted[at:at + length] = pattern.words(at, length, number + 1)
    with Mount(top, mnt, "-o", "rw") as mount:
        with opened(mount.raw(top)) as fd:
            assert os.pread(fd, MIB, 0) == wanted
            for at, data in ((100, b"a" * 10), (5 * 4096 - 3, b"b" * 700), (MIB, b"c" * 5000)):
                assert os.pwrite(fd, data, at) == len(data)
                wanted[at:at + len(data)] = data
            os.fsync(fd)
            assert os.pread(fd, 2 * MIB, 0) == wanted.ljust(-(-len(wanted) // 512) * 512, b"\0")
    check(top)
    out = tmp_path / "out.raw"
    procs.run(env.qimg(), "copy-out", top, out)
    assert out.read_bytes() == wanted.ljust(-(-len(wanted) // 512) * 512, b"\0")


def test_depth_of_201(folders, mnt):
    images, _ = folders
    top = make_deep(images, 201)
    refused(top, mnt, file=top, contains=["200"])


def test_qimg_has_the_same_policy(folders):
    images, outside = folders
    image = overlay(images / "disk.qcow2", str(outside / "base.img"))
    result = procs.run(env.qimg(), "copy-out", image, images / "out", check=False)
    assert result.status != 0 and "base.img" in result.errors and result.errors.count("\n") == 1


@pytest.mark.parametrize("separate", [False, True])
def test_qimg_takes_the_same_lists(separate, folders, tmp_path):
    """A comma in a name is escaped; empty elements are ignored."""
    images, outside = folders
    odd = tmp_path / "with, a comma"
    outside.rename(odd)
    image = overlay(images / "disk.qcow2", "../with, a comma/base.img")
    policy = f"backing={odd}".replace(",", "\\,")
    lists = ["-o", "nolock", "-o", policy] if separate else ["-o", f",nolock,{policy},"]
    shown = json.loads(procs.run(env.qimg(), "map", *lists, "--output=json", image).stdout)
    assert {entry["depth"] for entry in shown} == {0, 1}
    result = procs.run(env.qimg(), "info", "-o", policy.replace("\\", ""), image, check=False)
    assert result.status != 0 and result.errors.count("\n") == 1, result.errors
