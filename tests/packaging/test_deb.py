# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages: built from this tree, judged by lintian, installed, used, removed."""

import os
import re
import shutil
from pathlib import Path

import pytest

from qtest import env, examples, procs
from qtest.fixtures import make_scratch, remove_scratch
from qtest.procs import run

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["libqimg-dev", "libqimg0", "qcowfs", "qimg"]
PAGES = ["qcowfs.1", "qimg.1", "qimg-check.1", "qimg-copy-out.1", "libqimg.3", "qcow2.7"]


@pytest.fixture(scope="module")
def packages():
    """The folder with the packages, built without the tests, which run elsewhere."""
    env.need_tools("dpkg-buildpackage", "dh", "meson")
    folder = make_scratch("deb")
    run(ROOT / "packaging" / "build-deb.sh", folder, limit_s=900,
        env_add={"DEB_BUILD_OPTIONS": "nocheck noautodbgsym", "TMPDIR": str(env.scratch_root())})
    yield folder
    remove_scratch(folder)


def deb(packages, name):
    return next(packages.glob(f"{name}_*.deb"))


def contents(package):
    """{path: first column of ls -l, what a link names}"""
    lines = run("dpkg-deb", "-c", package).text.splitlines()
    out = {}
    for line in lines:
        mode, _, _, _, _, path = line.split(None, 5)
        path, _, target = path.partition(" -> ")
        out[path.removeprefix(".")] = (mode, target)
    return out


@pytest.mark.limit(1000)
def test_they_are_built(packages):
    assert sorted(path.name.partition("_")[0] for path in packages.glob("*.deb")) == NAMES
    assert len(list(packages.glob("*.dsc"))) == 1


def test_lintian(packages):
    env.need_tools("lintian")
    changes = next(packages.glob("*.changes"))
    root = ["--allow-root"] if os.geteuid() == 0 else []
    result = run("lintian", *root, "--fail-on", "error,warning", changes, limit_s=120, check=False)
    assert result.status == 0, str(result)


def test_contents(packages):
    triplet = run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").text.strip()
    files = {name: contents(deb(packages, name)) for name in NAMES}
    paths = [path for name in NAMES for path in files[name] if not path.endswith("/")]
    assert len(paths) == len(set(paths)), "a file lies in two packages"
    assert files["libqimg0"][f"/usr/lib/{triplet}/libqimg.so.0"][1].startswith("libqimg.so.0.")
    assert files["libqimg-dev"][f"/usr/lib/{triplet}/libqimg.so"][1] == "libqimg.so.0"
    for name, path in (("qcowfs", "/usr/bin/qcowfs"),
                       ("qcowfs", "/usr/share/bash-completion/completions/qcowfs"),
                       ("qcowfs", "/usr/share/zsh/vendor-completions/_qcowfs"),
                       ("qcowfs", "/usr/share/fish/vendor_completions.d/qcowfs.fish"),
                       ("qimg", "/usr/share/bash-completion/completions/qimg"),
                       ("libqimg-dev", f"/usr/lib/{triplet}/pkgconfig/qimg.pc"),
                       ("libqimg-dev", f"/usr/lib/{triplet}/libqimg.a"),
                       ("libqimg-dev", "/usr/include/qimg.h")):
        assert path in files[name], f"{name} lacks {path}"
    for page in PAGES:
        assert any(path.endswith(f"/{page}.gz") for path in paths), f"{page} is not packed"
    # No program may run with more rights than its user.
    assert not any("s" in mode or "t" in mode[:10]
                   for name in NAMES for mode, _ in files[name].values())


def test_links_of_the_readme(packages, tmp_path):
    run("dpkg-deb", "-x", deb(packages, "qcowfs"), tmp_path)
    folder = tmp_path / "usr/share/doc/qcowfs"
    for page in [folder / "README.md", *folder.glob("docs/guide-*.md")]:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        missing = [link for link in links if not (page.parent / link).exists()]
        assert links and not missing, (page.name, missing)


def test_dependencies(packages):
    def field(name, which):
        return run("dpkg-deb", "-f", deb(packages, name), which).text.strip()
    assert re.search(r"\bfuse3\b", field("qcowfs", "Depends"))
    assert "fuse" not in field("qimg", "Depends") + field("libqimg0", "Depends")
    assert f"libqimg0 (= {field('libqimg0', 'Version')})" in field("libqimg-dev", "Depends")
    assert field("libqimg0", "Multi-Arch") == field("libqimg-dev", "Multi-Arch") == "same"


def is_known(name):
    return run("dpkg-query", "-W", name, check=False).status == 0


def dpkg(*argv):
    """dpkg, which fails while another process installs packages."""
    def done():
        result = run("dpkg", *argv, check=False, limit_s=60)
        assert result.status == 0 or "lock" in result.errors, str(result)
        return result.status == 0
    procs.wait_until(done, f"dpkg {argv[0]} to have the lock", 120, step_s=1)


@pytest.fixture
def installed(packages):
    env.need_root("installing packages")
    if any(is_known(name) for name in NAMES):
        pytest.skip("one of the packages is installed already")
    if shutil.which("qcowfs") or shutil.which("qimg"):
        pytest.skip("there is another qcowfs or qimg in the PATH")
    paths = [path for name in NAMES for path in contents(deb(packages, name))
             if not path.endswith("/")]
    try:
        dpkg("--install", *(deb(packages, name) for name in NAMES))
        yield paths
    finally:
        dpkg("--purge", *NAMES)
    stayed = [path for path in paths if os.path.lexists(path)]
    assert not stayed, f"removing the packages leaves {stayed}"
    assert not any(is_known(name) for name in NAMES)


@pytest.mark.limit(200)
def test_installed(installed, packages, tmp_path):
    """The packages' own smoke test, and those examples of the manual that need an installation."""
    env.need_tools("cc", "pkg-config")
    for package in NAMES:
        assert run("dpkg", "--verify", package).text == ""
    missing = [path for path in installed if not os.path.lexists(path)
               and not path.startswith(("/usr/share/doc/", "/usr/share/man/"))]
    assert not missing, missing  # documents may be left out by the system's administrator
    smoke = ROOT / "packaging" / "debian" / "tests" / "smoke"
    before = procs.children()
    result = run("sh", "-e", smoke, check=False, limit_s=60, env_add={"TMPDIR": str(tmp_path)})
    examples.wait_for_servers(before)
    if result.status == 77:
        pytest.skip("nothing can be mounted here")
    assert result.status == 0, str(result)
    sessions = [one for one in examples.sessions(["qcowfs.1"]) if one.is_installed]
    assert sessions
    for number, session in enumerate(sessions):
        (tmp_path / str(number)).mkdir()
        examples.check(session, tmp_path / str(number))
