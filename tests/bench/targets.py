# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets of qcowfs in the rows.

Each judge gets the results and gives a text and whether it is reached (None: cannot be judged in
this run). results.median(row, contender) is None if absent."""

import os


def no_target(_results, _row):
    return "", None


def share_of_ceiling(share):
    def judge(results, row):
        ceiling = results.median(row.id, "ceiling")
        return (f"≥ {share * 100:.0f} % of the ceiling",
                results.reaches(row.id, ceiling and ceiling * share))
    return judge


def share_of_raw(share):
    def judge(results, row):
        raw = results.median(row.id, "raw")
        return (f"≥ {share * 100:.0f} % of the raw file",
                results.reaches(row.id, raw and raw * share))
    return judge


def times_ceiling(factor):
    def judge(results, row):
        ceiling = results.median(row.id, "ceiling")
        text = "≤ the ceiling" if factor == 1 else f"≤ {factor:g} × the ceiling"
        return text, results.reaches(row.id, ceiling and ceiling * factor)
    return judge


def times_best_peer(factor):
    def judge(results, row):
        peer = results.best_peer(row.id)
        share = factor if row.more_is_better else 1 / factor
        return (f"≥ {factor:g} × the best peer",
                results.reaches(row.id, peer and peer * share))
    return judge


def at_most(limit):
    def judge(results, row):
        return f"≤ {limit:g} {row.unit}", results.reaches(row.id, limit)
    return judge


def share_of_row(share, other_id, words):
    def judge(results, row):
        other = results.median(other_id, "qcowfs")
        return (f"≥ {share * 100:.0f} % of our {words}",
                results.reaches(row.id, other and other * share))
    return judge


def share_of_decoder(share):
    def judge(results, row):
        speed = results.median(row.id, "decoder")
        n_cores = len(os.sched_getaffinity(0))
        goal = speed and n_cores * speed * share
        text = f"≥ {n_cores} cores × {row.decoder}'s {speed or 0:.0f} × {share:g}"
        return (f"{text} = {goal:.0f}" if goal else text), results.reaches(row.id, goal)
    return judge
