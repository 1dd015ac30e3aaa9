# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of the manual pages work as shown; qtest/examples.py documents their marks. Those
that mount are in tests/mount."""

import pytest

from qtest import examples

PAGES = sorted(path.name for pattern in ("qimg*.1", "*.3")
               for path in examples.DOCS.glob(pattern))


@pytest.mark.parametrize("session", examples.sessions(PAGES), ids=lambda session: session.name)
def test_example(session, tmp_path):
    examples.check(session, tmp_path)
