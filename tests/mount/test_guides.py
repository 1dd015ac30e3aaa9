# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of qcowfs.1 and of the guides work as shown; qtest/examples.py documents their
marks. A guide's images stay as they were unless it says otherwise."""

import pytest

from qtest import examples

PAGES = ["qcowfs.1", *sorted(path.name for path in examples.DOCS.glob("guide-*.md"))]


@pytest.mark.parametrize("session", examples.sessions(PAGES), ids=lambda session: session.name)
def test_example(session, tmp_path):
    examples.check(session, tmp_path)
