# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns a test class with a list of cases into one test for each case and check, over one mount of
all the class's images."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support" / "py"))

from qtest import env  # noqa: E402
from qtest.fixtures import *  # noqa: E402,F401,F403
from qtest.fixtures import (  # noqa: E402,F401
    pytest_configure,
    pytest_report_header,
    select_share,
)
from qtest.matrix import Matrix  # noqa: E402


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", metafunc.cls.cases, ids=lambda case: case.name)


def pytest_collection_modifyitems(config, items):
    """The check that nothing has changed ends the mount: it runs last in its class. (The order in
    which pytest collects the methods of base classes differs between versions.)"""
    select_share(config, items)
    order = {}
    for item in items:
        order.setdefault(item.cls, len(order))
    items.sort(key=lambda item: (order[item.cls], item.name.startswith("test_zz_")))


def _wanted_cases(request):
    """The cases of the selected tests: a single test runs without building hundreds."""
    wanted, ids = [], set()
    for item in request.session.items:
        if item.cls is request.cls and hasattr(item, "callspec"):
            case = item.callspec.params.get("case")
            if case is not None and case.name not in ids:
                ids.add(case.name)
                wanted.append(case)
    return wanted or request.cls.cases


@pytest.fixture(scope="class")
def matrix(request):
    env.program("QCOWFS")
    env.program("QIMG")
    matrix = Matrix(request.cls.__name__, _wanted_cases(request))
    try:
        yield matrix
    finally:
        matrix.close()
