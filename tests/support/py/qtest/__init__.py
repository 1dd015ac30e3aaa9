# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers of the Python suites (tests/oracle, tests/mount): the marks by which a test is
skipped or limited live in fixtures.py, what is tested lives in the suites."""
