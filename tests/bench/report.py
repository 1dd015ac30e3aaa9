# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of the benchmark: medians, ratios and targets, as Markdown and as JSON."""

import collections
import dataclasses
import json
import statistics

OURS = "qcowfs"
NOT_PEERS = (OURS, "raw", "ceiling", "decoder")
ABSENT = "–"


@dataclasses.dataclass
class Cell:
    """The results of one contender in one row: a list entry for each round."""
    values: list = dataclasses.field(default_factory=list)
    cpu_seconds: list = dataclasses.field(default_factory=list)
    peak_rss_mib: list = dataclasses.field(default_factory=list)
    failure: str = ""        # the reason why there is no value
    wrong_data: bool = False

    def median(self):
        if self.failure or not self.values:
            return None
        return statistics.median(self.values)


class Results:
    def __init__(self, contenders):
        self.contenders = contenders  # names, in the order of the columns
        self.rows = []                # the measured ones
        self.cells = collections.defaultdict(Cell)  # (row id, contender) → Cell
        self.facts = []               # lines about the machine and the run

    def median(self, row_id, contender):
        cell = self.cells.get((row_id, contender))
        return cell.median() if cell else None

    def _row(self, row_id):
        return next((row for row in self.rows if row.id == row_id), None)

    def best_peer(self, row_id):
        """The best median of the other servers, or None."""
        values = [value for name in self.contenders if name not in NOT_PEERS
                  if (value := self.median(row_id, name)) is not None]
        if not values:
            return None
        return max(values) if self._row(row_id).more_is_better else min(values)

    def reaches(self, row_id, goal):
        """Whether qcowfs reaches goal; None if one of both is missing."""
        if self.cells[row_id, OURS].failure:
            return False
        ours = self.median(row_id, OURS)
        if ours is None or not goal:
            return None
        return ours >= goal if self._row(row_id).more_is_better else ours <= goal

    def speed_ratio(self, row_id, other):
        """The speed of qcowfs relative to `other`."""
        ours = self.median(row_id, OURS)
        if not ours or not other:
            return None
        return ours / other if self._row(row_id).more_is_better else other / ours

    def failed(self, contender):
        return [row.title for row in self.rows
                if self.cells[row.id, contender].failure]


def _figure(value, unit):
    if value is None:
        return ABSENT
    if unit == "IOPS" and value >= 1000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else (
        f"{value:.2f}")


def _ratio(value):
    return ABSENT if value is None else f"{value:.2f}"


def _table(head, lines):
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "--:|" * (len(head) - 1)
    for line in lines:
        yield "| " + " | ".join(line) + " |"
    yield ""


class _Notes:
    """Footnotes; equal texts share a number."""

    def __init__(self):
        self.texts = []

    def mark(self, text):
        if text not in self.texts:
            self.texts.append(text)
        return f"<sup>{self.texts.index(text) + 1}</sup>"


def _speed_lines(results, notes):
    for row in results.rows:
        line = [f"{row.title}, {row.unit}"]
        for name in results.contenders:
            cell = results.cells[row.id, name]
            if cell.failure:
                text = "wrong data" if cell.wrong_data else ABSENT
                line.append(text + notes.mark(f"{name}: {cell.failure}"))
            else:
                line.append(_figure(cell.median(), row.unit))
        target, reached = row.judge(results, row)
        line += [_ratio(results.speed_ratio(row.id, results.median(row.id, "ceiling"))),
                 _ratio(results.speed_ratio(row.id, results.best_peer(row.id))),
                 target or ABSENT,
                 {True: "yes", False: "**no**", None: ABSENT}[reached]]
        yield line


def _cost_lines(results, servers):
    for row in results.rows:
        line = [row.title]
        for name in servers:
            cell = results.cells[row.id, name]
            if cell.median() is None:
                line.append(ABSENT)
            else:
                line.append(f"{statistics.median(cell.cpu_seconds):.2f} s / "
                            f"{max(cell.peak_rss_mib):.0f} MiB")
        yield line


def markdown(results):
    notes = _Notes()
    servers = [name for name in results.contenders if name != "raw"]
    lines = ["# Benchmark", "", *(f"- {fact}" for fact in results.facts), ""]
    lines += ["## Speed", "",
              "Medians. Ratios are qcowfs's speed relative to the other's: more is better, "
              "also for times.", ""]
    lines += _table(["work", *results.contenders, "qcowfs / ceiling",
                     "qcowfs / best peer", "to reach", "reached"],
                    _speed_lines(results, notes))
    lines += [f"{number}. {text}" for number, text in enumerate(notes.texts, 1)]
    lines += ["", "## Cost", "",
              "CPU seconds of the server while the row ran (user and system, all its "
              "processes; median) and its peak resident memory (the highest).", ""]
    lines += _table(["work", *servers], _cost_lines(results, servers))
    return "\n".join(lines)


def as_json(results):
    rows = []
    for row in results.rows:
        target, reached = row.judge(results, row)
        cells = {}
        for name in (*results.contenders, "decoder"):
            cell = results.cells.get((row.id, name))
            if cell is not None and (cell.values or cell.failure):
                cells[name] = {"median": cell.median(), **dataclasses.asdict(cell)}
        rows.append({"id": row.id, "title": row.title, "unit": row.unit,
                     "more_is_better": row.more_is_better, "contenders": cells,
                     "target": target, "reached": reached})
    return json.dumps({"facts": results.facts, "rows": rows}, indent=2) + "\n"
