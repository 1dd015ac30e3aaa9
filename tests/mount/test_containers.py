# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are no raw disk, made by the tools of their kinds: refused by a line that names
the kind and the program that opens it, listed for a directory, shown by format=raw alone."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import tarfile
import zipfile

import pytest

from qtest import env, procs, qemu
from qtest.checks import read_all
from qtest.evidence import Unchanged
from qtest.mount import Mount, refused
from qtest.qcow2 import Qcow2File

SIZE = 1 << 20
PAYLOAD = b"a disk of text\n" * (SIZE // 15) + b"\0" * (SIZE % 15)


def tool(name, *argv, cwd, stdin=None):
    env.need_tools(name)
    subprocess.run([env.find_tool(name), *map(str, argv)], cwd=cwd, check=True, timeout=60,
                   stdin=stdin or subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def by_qemu(image_format, *options):
    def make(folder, raw, out):
        qemu.img("convert", "-O", image_format, *options, raw, out)
    return make


def luks(folder, raw, out):
    qemu.img("create", "-q", "-f", "luks", "--object", "secret,id=s,data=words",
             "-o", "key-secret=s,iter-time=10", out, str(SIZE))


def ewf(folder, raw, out):
    tool("ewfacquire", "-u", "-t", out.with_suffix(""), raw, cwd=folder)
    assert out.exists()


def smart(folder, raw, out):
    """EWF as other programs write it, under another name."""
    tool("ewfacquire", "-u", "-f", "smart", "-t", out.with_suffix(""), raw, cwd=folder)
    assert out.exists()


def cloop(folder, raw, out):
    tool("create_compressed_fs", "-q", "-B", "65536", raw, out, cwd=folder)


def aff(folder, raw, out):
    env.need_tools("affconvert")  # which ends with status 1 when all is well
    subprocess.run([env.find_tool("affconvert"), raw], cwd=folder, check=False, timeout=60,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (folder / f"{raw.stem}.aff").rename(out)


def sevenzip(folder, raw, out):
    tool("7zz", "a", out, raw, cwd=folder)


def wim(folder, raw, out):
    (folder / "tree").mkdir()
    (folder / "tree/file").write_bytes(PAYLOAD)
    tool("wimlib-imagex", "capture", "tree", out, cwd=folder)


def packed(module):
    def make(folder, raw, out):
        with module.open(out, "wb") as file:
            file.write(PAYLOAD)
    return make


def zstd(folder, raw, out):
    tool("zstd", "-q", raw, "-o", out, cwd=folder)


def tar(member):
    def make(folder, raw, out):
        with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.add(raw, member)
    return make


def zipped(folder, raw, out):
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(raw, "disk.img")


def android(folder, raw, out):
    tool("img2simg", raw, out, cwd=folder)


def text(content):
    def make(folder, raw, out):
        out.write_bytes(content)
    return make


# No program in Debian writes dmg, Ex01, L01, AFF4, VMA or Bochs images:
# tests/unit/test-foreign.c has their signatures.
#
# Name of the file, its maker, the message's name for it, the advice, whether a directory
# lists it.
KINDS = [
    ("disk.vmdk", by_qemu("vmdk"), "VMDK", "qemu-img convert", True),
    ("flat.vmdk", by_qemu("vmdk", "-o", "subformat=monolithicFlat"), "VMDK", "qemu-img", True),
    ("stream.vmdk", by_qemu("vmdk", "-o", "subformat=streamOptimized"), "VMDK", "qemu-img", True),
    ("split.vmdk", by_qemu("vmdk", "-o", "subformat=twoGbMaxExtentSparse"), "VMDK", "qemu-img",
     True),
    ("disk.vhd", by_qemu("vpc"), "VHD", "qemu-img convert", True),
    ("fixed.vhd", by_qemu("vpc", "-o", "subformat=fixed"), "VHD", "-f vpc", True),
    ("disk.vhdx", by_qemu("vhdx"), "VHDX", "qemu-img convert", True),
    ("disk.vdi", by_qemu("vdi"), "VDI", "qemu-img convert", True),
    ("disk.hds", by_qemu("parallels"), "Parallels", "qemu-img convert", True),
    ("disk.luks", luks, "LUKS", "format=luks", True),
    ("disk.E01", ewf, "E01", "ewfmount", True),
    ("disk.s01", smart, "E01", "ewfmount", True),
    ("disk.cloop", cloop, "cloop", "qemu-img convert", True),
    ("disk.aff", aff, "AFF", "affuse", True),
    ("disk.simg", android, "Android", "simg2img", True),
    ("machine.ova", tar("machine.ovf"), "OVA", "tar -xf", True),
    ("disk.wim", wim, "WIM", "wimapply", False),
    ("disk.img.gz", packed(gzip), "gzip", "gunzip", True),
    ("disk.raw.xz", packed(lzma), "xz", "unxz", True),
    ("disk.qcow2.bz2", packed(bz2), "bzip2", "bunzip2", True),
    ("disk.img.zst", zstd, "zstd", "unzstd", True),
    ("disk.zip", zipped, "zip", "unzip", False),
    ("disk.7z", sevenzip, "7z", "7z x", False),
    ("disk.tar", tar("disk.img"), "tar", "tar -xf", False),
    ("page", text(b"<!DOCTYPE html>\n<html><title>404</title></html>\n"), "HTML", "download",
     False),
    ("pointer", text(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 +
                     b"\nsize 12345\n"), "LFS", "git lfs pull", False),
    ("nothing", text(b""), "empty", "download", False),
]


@pytest.mark.parametrize("name,make,word,cure,is_listed", KINDS, ids=[row[0] for row in KINDS])
def test_is_no_raw_disk(name, make, word, cure, is_listed, tmp_path, mnt):
    folder = tmp_path / "images"
    folder.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    raw = work / "plain.raw"
    raw.write_bytes(PAYLOAD)
    image = folder / name
    make(work, raw, image)
    with Unchanged(image):
        match = refused(image, mnt, file=image, contains=[word, "format=raw"])
        assert cure in match["cure"]
        result = procs.run(env.qimg(), "info", image, check=False)
        assert result.status == 1 and word in result.errors
        assert procs.run(env.qimg(), "info", "-o", "format=raw", image).text
        check_as_backing_file(image, word, work)
        with Mount(folder, mnt) as mount:
            told = json.loads(mount.facts("errors.json").read_text())
            assert not (mnt / f"{name}.raw").exists()
            reasons = [entry["reason"] for entry in told if entry["file"] == str(image)]
            assert len(reasons) == is_listed
            assert not is_listed or word in reasons[0]


def check_as_backing_file(image, word, folder):
    """Named without a format it is refused; recorded as raw it is shown as such."""
    top = folder / "top.qcow2"
    qemu.create(top, SIZE)
    for recorded in (None, b"raw"):
        with Qcow2File(top) as file:
            file.set_backing(os.fsencode(image), recorded)
        result = procs.run(env.qimg(), "copy-out", "-o", f"backing={image.parent}", top,
                           folder / f"out-{recorded}", check=False)
        assert (result.status == 0) == (recorded is not None), result
        assert recorded or (word in result.errors and "rebase -u -F raw" in result.errors)


def test_directory_follows_what_comes_and_goes(tmp_path, mnt):
    folder = tmp_path / "images"
    folder.mkdir()
    qemu.create(folder / "good.qcow2", SIZE)

    def listed():
        return [os.path.basename(entry["file"])
                for entry in json.loads(mount.facts("errors.json").read_text())]

    with Mount(folder, mnt) as mount:
        assert listed() == []
        qemu.img("create", "-q", "-f", "vdi", folder / "a.vdi", str(SIZE))
        procs.wait_until(lambda: listed() == ["a.vdi"], "the new file is listed")
        os.rename(folder / "a.vdi", folder / "b.vdi")
        procs.wait_until(lambda: listed() == ["b.vdi"], "it is listed by its new name")
        os.remove(folder / "b.vdi")
        procs.wait_until(lambda: listed() == [], "it has gone")


@pytest.mark.parametrize("name,image_format", [
    ("disk.qcow2", "raw"), ("DISK.QCOW2", "raw"), ("disk.qed", "raw"), ("disk.qc2", "raw"),
    ("disk.qcow", "raw"), ("disk.qed", "qcow2"), ("disk.qcow2", "qed")])
def test_name_of_another_content(name, image_format, tmp_path, mnt):
    """A file with the name of an image and other content is damaged, or a trick."""
    image = tmp_path / name
    if image_format == "raw":
        image.write_bytes(PAYLOAD)
    else:
        qemu.create(image, SIZE, image_format=image_format)
    with Unchanged(image):
        match = refused(image, mnt, file=image, contains=[name.split(".")[1]])
        assert "format=raw" in match["cure"]
        link = tmp_path / "disk"
        link.symlink_to(image)
        refused(link, mnt, file=link, contains=[name.split(".")[1]])
        with Mount(image, mnt, "-o", f"format={image_format}") as mount:
            assert len(read_all(mount.raw(image))) >= SIZE


def test_name_with_its_content(tmp_path):
    for name, image_format in (("a.qcow2", "qcow2"), ("a.qcow", "qcow2"), ("b.qcow", "qcow"),
                               ("a.qed", "qed"), ("a.img", "qcow2")):
        qemu.create(tmp_path / name, SIZE, image_format=image_format)
        info = json.loads(procs.run(env.qimg(), "info", "--output=json", tmp_path / name).text)
        assert info["format"] == image_format
