# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures imported by each suite's conftest.py: a separate directory for each test, a time limit
whose expiry ends the mounts, no leftovers."""

import os
import shutil
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest

from . import env, mount, procs

DEFAULT_LIMIT_S = 60


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): time limit of the test, default 60 s")
    procs.adopt_orphans()


def select_share(config, items):
    """Keeps QCOWFS_TEST_SHARE (0 to 1) of the parametrized cases, others for each seed: for runs
    with sanitizers, which take long. Other tests stay, or a share of them after a slash: 0.1/0.5."""
    share, _, share_of_singles = os.environ.get("QCOWFS_TEST_SHARE", "1").partition("/")
    share, share_of_singles = float(share), float(share_of_singles or "1")

    def is_in_share(key, limit):
        return int(sha256(key.encode()).hexdigest()[:8], 16) < limit * (1 << 32)

    def is_selected(item):
        if not hasattr(item, "callspec"):
            return is_in_share(f"{env.session_seed()} {item.nodeid}", share_of_singles)
        # The checks of a case share a mount; a test may have it by its name.
        case = item.callspec.params.get("case")
        name = case.name if case else item.callspec.params.get("name")
        if item.cls and name in {c.name for c in getattr(item.cls, "cases", [])}:
            key = f"{env.session_seed()} {item.cls.__name__} {name}"
        else:
            key = f"{env.session_seed()} {item.nodeid}"
        return is_in_share(key, share)

    dropped = [item for item in items if not is_selected(item)]
    items[:] = [item for item in items if is_selected(item)]
    config.hook.pytest_deselected(items=dropped)


def pytest_report_header(config):
    return (f"QCOWFS_TEST_SEED={env.session_seed()} QCOWFS={os.environ.get('QCOWFS')} "
            f"QIMG={os.environ.get('QIMG')} sanitizer={env.sanitizer()} "
            f"scratch={env.scratch_root()}")


def make_scratch(name):
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
    return Path(tempfile.mkdtemp(prefix=f"qcowfs-{safe}-", dir=env.scratch_root()))


def remove_scratch(path):
    """Removes a scratch directory, but never through a mount that was left."""
    stayed = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            place = line.split(" ")[4]
            if place.startswith(f"{os.path.realpath(path)}/"):
                stayed.append(place)
    for place in reversed(stayed):
        mount.unmount(place, lazy=True, check=False)
    if not stayed:
        shutil.rmtree(path, ignore_errors=bool(os.environ.get("QCOWFS_TEST_KEEP")))
    assert not stayed, f"mounts that stayed: {stayed}"


@pytest.fixture
def tmp_path(request):
    """As pytest's, but on the scratch file system and removed after the test; QCOWFS_TEST_KEEP=1
    keeps it."""
    path = make_scratch(request.node.name)
    yield path
    if os.environ.get("QCOWFS_TEST_KEEP"):
        print(f"kept: {path}", file=sys.stderr)
    else:
        remove_scratch(path)


@pytest.fixture(autouse=True)
def time_limit(request):
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else DEFAULT_LIMIT_S

    def expire():
        print(f"time limit of {seconds} s passed", file=sys.stderr)
        for one in list(mount.LIVE):
            one.abort()

    with procs.Watchdog(seconds, expire) as watchdog:
        yield
    if watchdog.expired:
        pytest.fail(f"time limit of {seconds} s passed; stacks are in the captured stderr")


@pytest.fixture(autouse=True)
def nothing_stays(request):
    """No child process outlives the test that started it (module fixtures aside)."""
    known = procs.children()
    yield
    stayed = procs.children() - known - {m.process.pid for m in mount.LIVE}
    for pid in stayed:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass
    assert not stayed, f"processes that stayed: {stayed}"


@pytest.fixture
def rng(request):
    return env.rng(request.node.nodeid.rpartition("/")[2])


@pytest.fixture
def mnt(tmp_path):
    path = tmp_path / "mnt"
    path.mkdir()
    return path
