#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs pytest on its arguments for the build: exit status 77 if every test was skipped, so that
the build does not count them as passed."""

import os
import sys

os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True

try:
    import pytest
except ImportError:
    print("pytest is not installed")
    sys.exit(77)


class Outcomes:
    passed = failed = skipped = 0

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed += 1
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1


def main():
    outcomes = Outcomes()
    # -rs: the reasons of skips; the faulthandler prints this process's own stacks.
    status = pytest.main(["-p", "no:cacheprovider", "-q", "-rs", "--tb=short",
                          "-o", "faulthandler_timeout=300", *sys.argv[1:]], plugins=[outcomes])
    if status == 0 and outcomes.passed == 0 and outcomes.skipped:
        return 77
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
