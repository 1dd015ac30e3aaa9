# SPDX-License-Identifier: GPL-2.0-or-later
"""The recipes for rpm and Arch, as far as they can be run on another system: their versions and
dependencies against meson.build, and their files against those installed by the build."""

import os
import re
from pathlib import Path

import pytest

from qtest import env
from qtest.procs import run

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "packaging" / "rpm" / "qcowfs.spec"
PKGBUILD = ROOT / "packaging" / "arch" / "PKGBUILD"
MESON = (ROOT / "meson.build").read_text(encoding="utf-8")
VERSION = re.search(r"^  version: '([^']+)'", MESON, re.MULTILINE)[1]
# The pkg-config modules of the build, with their packages in Debian and Arch.
PACKAGES = {
    "blkid": ("libblkid-dev", "util-linux-libs"),
    "fuse3": ("libfuse3-dev", "fuse3"),
    "glib-2.0": ("libglib2.0-dev", "glib2"),
    "jansson": ("libjansson-dev", "jansson"),
    "libcrypto": ("libssl-dev", "openssl"),
    "libdeflate": ("libdeflate-dev", "libdeflate"),
    "libseccomp": ("libseccomp-dev", "libseccomp"),
    "liburing": ("liburing-dev", "liburing"),
    "libzstd": ("libzstd-dev", "zstd"),
    "zlib": ("zlib1g-dev", "zlib"),
}
# Needed by the program alone, not by users of the static library.
OF_QCOWFS = {"fuse3", "libseccomp", "liburing"}
OF_LIBC = {"dl", "threads"}
# Run when it is built.
OF_BUILD = {"libseccomp"}


def dependencies():
    """{pkg-config module: least version or ""} of the build."""
    found = re.findall(r"dependency\('([^']+)'(?:, version: '>=([\d.]+)')?", MESON)
    return {name: version for name, version in found if name not in OF_LIBC}


@pytest.fixture(scope="module")
def build():
    """The directory of the build whose programs are tested."""
    if env.sanitizer():
        pytest.skip("nobody packs a build with a sanitizer")
    folder = Path(env.qimg()).resolve().parents[1]
    if not (folder / "meson-private").is_dir():
        pytest.skip(f"{folder} is no build directory")
    return folder


def test_versions():
    changelog = (ROOT / "packaging" / "debian" / "changelog").read_text(encoding="utf-8")
    assert re.match(r"qcowfs \(([^)]+)\)", changelog)[1] == VERSION
    assert re.search(r"^Version: +(\S+)$", SPEC.read_text(), re.MULTILINE)[1] == VERSION
    assert re.search(r"^pkgver=(\S+)$", PKGBUILD.read_text(), re.MULTILINE)[1] == VERSION


def test_dependencies():
    """A recipe has exactly the needs of the build."""
    wanted = dependencies()
    assert "glib-2.0" in wanted and set(wanted) <= set(PACKAGES), "a dependency without packages"
    debian = {PACKAGES[name][0] for name in wanted}
    all_debian = {package for package, _ in PACKAGES.values()}

    spec = dict(re.findall(r"^BuildRequires: +pkgconfig\(([^)]+)\)(?: >= ([\d.]+))?$",
                           SPEC.read_text(), re.MULTILINE))
    assert spec == wanted
    for kind, names in (("depends", set(wanted) - OF_BUILD), ("makedepends", OF_BUILD)):
        listed = re.search(rf"^{kind}=\(([^)]*)\)", PKGBUILD.read_text(), re.MULTILINE)[1].split()
        assert set(listed) - {"meson", "python"} == {PACKAGES[name][1] for name in names}

    def named_in(text):
        return set(re.findall(r"^ ?([a-z][\w.+-]+)", text, re.MULTILINE)) & all_debian
    source, *binary = (ROOT / "packaging" / "debian" / "control").read_text().split("\n\n")
    development = next(part for part in binary if part.startswith("Package: libqimg-dev\n"))
    assert named_in(source) == debian
    assert named_in(development) == {PACKAGES[name][0] for name in set(wanted) - OF_QCOWFS}
    assert named_in((ROOT / "packaging" / "debian-packages.txt").read_text()) == debian


def test_rpm(build, tmp_path):
    """A real rpmbuild, from an existing build: each file is in one package."""
    env.need_tools("rpmbuild", "rpm")
    top, stage = tmp_path / "rpm", tmp_path / "stage"
    (top / "SOURCES").mkdir(parents=True)
    run("tar", "-C", ROOT, "--exclude=./build*", "--exclude=./.git", f"--transform=s,^.,qcowfs-{VERSION},",
        "-czf", top / "SOURCES" / f"qcowfs-{VERSION}.tar.gz", ".")
    run("meson", "install", "-C", build, "--no-rebuild", "--destdir", stage)
    library = next(stage.rglob("libqimg.a")).parent.relative_to(stage)
    prefix = next(stage.rglob("qimg.h")).parents[1].relative_to(stage)
    macros = {"_topdir": top, "_tmppath": tmp_path, "debug_package": "%{nil}",
              "_prefix": f"/{prefix}", "_libdir": f"/{library}", "_mandir": f"/{prefix}/share/man",
              "_datadir": f"/{prefix}/share", "meson(-)": "true", "meson_build": "true",
              "meson_install": f"mkdir -p %{{buildroot}} && cp -a {stage}/. %{{buildroot}}",
              "meson_test(-)": "true", "_build_id_links": "none", "__strip": "/bin/true",
              "__brp_compress": "/bin/true"}
    options = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    result = run("rpmbuild", "-bb", "--nodeps", "--nocheck", *options, SPEC, limit_s=120, check=False)
    assert result.status == 0, result.errors.rpartition("RPM build errors:")[2]
    packages = {}
    for file in top.glob("RPMS/*/*.rpm"):
        name = file.name.partition(f"-{VERSION}")[0]
        packages[name] = run("rpm", "-qlp", "--dbpath", tmp_path / "db", file).text.split("\n")
    assert set(packages) == {"qcowfs", "qimg", "libqimg", "libqimg-devel"}

    def has(package, end):
        return any(path.endswith(end) for path in packages[package])
    for package, end in (("qcowfs", "/bin/qcowfs"), ("qcowfs", "/man1/qcowfs.1"),
                         ("qcowfs", "/guide-evidence.md"), ("qimg", "/man1/qimg-check.1"),
                         ("qimg", "/completions/qimg"), ("libqimg", "/libqimg.so.0"),
                         ("libqimg-devel", "/qimg.pc"), ("libqimg-devel", "/examples/qimg-digest.c")):
        assert has(package, end), f"{package} lacks {end}: {packages[package]}"
    assert not any(path.endswith(".a") for paths in packages.values() for path in paths)


def test_arch(build, tmp_path):
    """The recipe is sourced as by makepkg, and packs an existing build."""
    env.need_tools("bash", "meson")
    source = tmp_path / "src"
    source.mkdir()
    os.symlink(ROOT, source / f"qcowfs-{VERSION}")
    script = f"""set -eu
srcdir={source} pkgdir={tmp_path}/pkg
. {PKGBUILD}
for name in pkgname pkgver pkgrel pkgdesc arch license depends makedepends source sha256sums; do
    declare -n field=$name
    [ -n "${{field[*]}}" ] || {{ echo "$name is empty"; exit 1; }}
done
[ "${{#source[@]}}" = "${{#sha256sums[@]}}" ]
declare -F build check package
arch-meson() {{ echo "arch-meson $*"; [ -f "$1/meson.build" ]; }}
meson() {{
    echo "meson $*"
    [ "$1" != install ] || command meson install -C {build} --no-rebuild --destdir "$pkgdir"
}}
for step in build check package; do (cd "$srcdir"; set -e; $step); done
"""
    result = run("bash", "-c", script)
    assert "meson test -C build --suite unit" in result.text
    installed = {path.name for path in (tmp_path / "pkg").rglob("*")}
    assert {"qcowfs", "qimg", "qimg.h", "libqimg.so.0", "qcowfs.1", "README.md",
            "guide-loop-device.md"} <= installed
