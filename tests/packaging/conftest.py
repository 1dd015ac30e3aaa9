# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the helpers importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support" / "py"))

from qtest.fixtures import *  # noqa: E402,F401,F403
from qtest.fixtures import pytest_configure, pytest_report_header  # noqa: E402,F401
