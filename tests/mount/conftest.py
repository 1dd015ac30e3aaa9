# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the helpers importable and offers small images to every test."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support" / "py"))

from qtest import env, qemu  # noqa: E402
from qtest.fixtures import *  # noqa: E402,F401,F403
from qtest.fixtures import (  # noqa: E402,F401
    pytest_configure,
    pytest_report_header,
    select_share,
)

MIB = 1 << 20


def pytest_collection_modifyitems(config, items):
    select_share(config, items)


@pytest.fixture(autouse=True)
def needs(request):
    env.need_fuse()
    env.need_tools("qemu-img", "qemu-io")
    env.program("QCOWFS")
    env.program("QIMG")


@pytest.fixture
def disk(tmp_path):
    """disk.qcow2: 4 MiB with its first MiB and one cluster at 3 MiB written."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    image = qemu.create(folder / "disk.qcow2", 4 * MIB)
    qemu.write(image, (0, MIB, "words", 1), (3 * MIB, 65536, "noise", 2))
    return image


@pytest.fixture
def disk_content():
    """The expected content of disk.qcow2, computed without any program."""
    from qtest import pattern
    content = bytearray(4 * MIB)
    content[:MIB] = pattern.words(0, MIB, 1)
    content[3 * MIB:3 * MIB + 65536] = pattern.noise(3 * MIB, 65536, 2)
    return bytes(content)


@pytest.fixture
def chain(tmp_path):
    """top.qcow2 over middle.qcow2 over base.img, all in one directory."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    qemu.make_raw(folder / "base.img", MIB, (0, 300_000, "words", 1))
    qemu.create(folder / "middle.qcow2", MIB, "base.img", "raw")
    qemu.write(folder / "middle.qcow2", (65536, 65536, "words", 2))
    top = qemu.create(folder / "top.qcow2", MIB, "middle.qcow2", "qcow2")
    qemu.write(top, (131072, 65536, "words", 3))
    return top


@pytest.fixture
def chain_content():
    from qtest import pattern
    content = bytearray(MIB)
    content[:300_000] = pattern.words(0, 300_000, 1)
    content[65536:131072] = pattern.words(65536, 65536, 2)
    content[131072:196608] = pattern.words(131072, 65536, 3)
    return bytes(content)
