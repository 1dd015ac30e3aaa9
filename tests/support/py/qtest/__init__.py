# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers of the Python suites (tests/oracle, tests/mount): fixtures.py has the marks that skip or
limit a test; the suites have the tests."""
