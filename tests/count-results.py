#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts test cases from the output of the test runners, for run-all.sh.

count-results.py meson LOGBASE EXIT    LOGBASE.json and LOGBASE.junit.xml of meson test
count-results.py junit FILE EXIT       a JUnit file of pytest
count-results.py total FILE            lines "PASSED FAILED SKIPPED label" summed up

The first two print "PASSED FAILED SKIPPED" and name the failed cases on standard error. EXIT is
the runner's exit status: a failure without a failed case counts as one, and so does a run without
any test. total prints the closing line; exit status 1 for failures."""

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# Meson's names of results; any other name is a failure.
MESON = {"OK": PASSED, "EXPECTEDFAIL": PASSED, "SKIP": SKIPPED}


def outcome_of_case(case):
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return FAILED
    return SKIPPED if "skipped" in kinds else PASSED


def cases_of_junit(path):
    """(suite, case name, outcome) of each case; none if the file cannot be read."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return
    for suite in root.iter("testsuite"):
        for case in suite.findall("testcase"):
            name = f"{case.get('classname', '')} {case.get('name', '')}".strip()
            yield suite.get("name", ""), name, outcome_of_case(case)


def count_meson(logbase):
    count, failures = Counter(), []
    # Programs that report their cases have a suite of their own, "project.test".
    by_program = {}
    for suite, name, outcome in cases_of_junit(f"{logbase}.junit.xml"):
        by_program.setdefault(suite, []).append((name, outcome))
    try:
        with open(f"{logbase}.json", encoding="utf-8") as log:
            tests = [json.loads(line) for line in log if line.strip()]
    except (OSError, ValueError):
        tests = []
    for test in tests:
        # "project:suite / test", "suite - project:test" or "test", by meson's version.
        title = test["name"].split(" / ")[-1].rsplit(":", 1)[-1]
        cases = next((cases for suite, cases in by_program.items()
                      if suite.endswith((f".{test['name']}", f".{title}"))), None)
        outcome = MESON.get(test["result"], FAILED)
        if cases is None or outcome == SKIPPED:
            count[outcome] += 1
            if outcome == FAILED:
                failures.append(f"{title}: {test['result']}")
            continue
        outcomes = Counter(case_outcome for _, case_outcome in cases)
        count.update(outcomes)
        failures += [name for name, case_outcome in cases if case_outcome == FAILED]
        if outcome == FAILED and not outcomes[FAILED]:
            # It failed after, or between, its cases.
            count[FAILED] += 1
            failures.append(f"{title}: {test['result']}")
    return count, failures


def count_junit(path):
    count, failures = Counter(), []
    for _, name, outcome in cases_of_junit(path):
        count[outcome] += 1
        if outcome == FAILED:
            failures.append(name)
    return count, failures


def report(count, failures, status):
    if status != 0 and count[FAILED] == 0:
        # pytest's 5: it found no test; that is said below.
        if sum(count.values()) > 0:
            count[FAILED] += 1
            failures.append(f"the test runner ended with status {status}")
    if sum(count.values()) == 0:
        count[FAILED] += 1
        failures.append("no test was run")
    for failure in failures[:20]:
        print(f"    FAILED {failure}", file=sys.stderr)
    if len(failures) > 20:
        print(f"    ... and {len(failures) - 20} more", file=sys.stderr)
    print(count[PASSED], count[FAILED], count[SKIPPED])


def total(path):
    passed = failed = skipped = 0
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            numbers = line.split()[:3]
            passed += int(numbers[0])
            failed += int(numbers[1])
            skipped += int(numbers[2])
    tail = f", {skipped} skipped" if skipped else ""
    print(f"{passed} passed, {failed} failed{tail}")
    return 1 if failed or not passed else 0


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "meson":
        report(*count_meson(sys.argv[2]), int(sys.argv[3]))
    elif len(sys.argv) == 4 and sys.argv[1] == "junit":
        report(*count_junit(sys.argv[2]), int(sys.argv[3]))
    elif len(sys.argv) == 3 and sys.argv[1] == "total" and os.path.exists(sys.argv[2]):
        return total(sys.argv[2])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
