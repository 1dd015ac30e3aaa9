#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmark: qcowfs, its peers, and the limit of FUSE itself.

Measures each row with all contenders in turn, round by round, and writes a table of medians. This
file has the options, the order of the measurements, and the guarantee that no process, mount or
file is left behind. README.md describes each row."""

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import contenders  # noqa: E402
import disk_place  # noqa: E402
import images  # noqa: E402
import interrupts  # noqa: E402
import loop_mount  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
from clients import Job, verify  # noqa: E402
from contenders import CannotDo, WrongData  # noqa: E402

_TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SKIP = 77
_start_numbers = itertools.count(1)


def parse_arguments():
    names = ",".join(contender.name for contender in contenders.ALL)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--qcowfs", default=os.path.join(_TOP, "build/fuse/qcowfs"),
                        help="the program to measure (default: %(default)s)")
    parser.add_argument("--tools", default=os.path.join(_TOP, "build/tests/bench"),
                        help="folder of the helper programs (default: %(default)s)")
    parser.add_argument("--contenders", default=names,
                        help="who takes part (default: %(default)s)")
    parser.add_argument("--row", default="", metavar="REGEX",
                        help="only rows whose id or title matches")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--rounds", type=int, default=None,
                        help="how often each row is measured (default: 3, quick: 1)")
    parser.add_argument("--seconds", type=float, default=None,
                        help="how long each measurement lasts (default: 3, quick: 0.2)")
    parser.add_argument("--limit", type=float, default=None,
                        help="seconds after which a measurement gives up "
                             "(default: 60)")
    parser.add_argument("--quick", action="store_true",
                        help="smoke run: small disks, short times")
    parser.add_argument("--dir", default="/dev/shm",
                        help="where the disks are made (default: %(default)s)")
    parser.add_argument("--disk", metavar="DIR",
                        help="where those of the rows on a disk are made (default: in an "
                             "ext4 on a loop file)")
    parser.add_argument("--flush-us", type=int, default=2000, metavar="N",
                        help="how much longer each sync takes in the rows on a disk, "
                             "whoever calls it (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="the table (default: stdout)")
    parser.add_argument("--json", metavar="FILE", help="all single values")
    options = parser.parse_args()

    defaults = (1, 0.2, 60, 3) if options.quick else (3, 3, 60, 25)
    options.scale = images.QUICK if options.quick else images.FULL
    options.rounds = options.rounds or defaults[0]
    options.seconds = options.seconds or defaults[1]
    options.limit = options.limit or defaults[2]
    options.n_starts = defaults[3]
    options.qcowfs = os.path.abspath(options.qcowfs)
    options.tools = os.path.abspath(options.tools)
    known = {contender.name: contender for contender in contenders.ALL}
    wanted = options.contenders.split(",")
    for name in wanted:
        if name not in known:
            parser.error(f"no contender {name}: there are {names}")
    options.contenders = [c for name, c in known.items() if name in wanted]
    try:
        pattern = re.compile(options.row)
    except re.error as error:
        parser.error(f"--row: {error}")
    options.rows = [row for row in rows.ROWS
                    if pattern.search(row.id) or pattern.search(row.title)
                    if row.quick or options.row or not options.quick]
    if not options.rows:
        parser.error("no row matches")
    return options


def slow_sync(options):
    """The library that makes syncs slow, see slow-sync.c."""
    return os.path.join(options.tools, "libbench-slow-sync.so")


def server_environment(row, options):
    """For the servers of a row; None: the benchmark's."""
    if not row.on_disk or options.flush_us == 0:
        return None
    return {**os.environ, "LD_PRELOAD": slow_sync(options),
            "BENCH_FLUSH_US": str(options.flush_us)}


def why_not_here(options):
    """The reason why nothing can be measured on this machine, or None."""
    for program in ("fio", "qemu-img", "fusermount3"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be used"
    if not os.access(os.path.join(options.tools, "bench-seek-walk"), os.X_OK):
        return f"no bench-seek-walk in {options.tools} (--tools says where it is)"
    if shutil.disk_usage(options.dir).free < options.scale.free_bytes:
        return f"{options.dir} has less than {options.scale.free_bytes >> 20} MiB free"
    return None


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_cpu(pinned):
    """Runs the body and everything that it starts on one CPU, if pinned."""
    before = os.sched_getaffinity(0)
    if pinned:
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(row, kind, disk, options, round_index):
    """One measurement. Returns the value, CPU seconds and peak RSS in MiB."""
    if not row.writes:
        return measure_on(row, kind, disk, options, round_index)
    with disk.copy(kind.serves_image) as disk:
        figures = measure_on(row, kind, disk, options, round_index)
        if kind.serves_image and (damage := images.image_damage(disk)):
            raise WrongData(damage)
        return figures


def measure_on(row, kind, disk, options, round_index):
    """As measure; a row that writes changes the disk."""
    def new_contender():
        name = f"{kind.name}-{next(_start_numbers)}"
        return kind(options, os.path.join(options.work_dir, name), row.writes,
                    row.mount_options, server_environment(row, options))

    contender = new_contender()
    job = Job(contender, disk, options, round_index,
              scratch=os.path.join(options.work_dir, "scratch"),
              new_contender=new_contender)
    with one_cpu(row.pinned):
        if row.starts_itself:
            value = row.measure(job)
            return value, job.cpu_seconds, job.peak_rss_mib
        try:
            contender.start(disk)
            verify(contender.path, disk, round_index)
            if row.on_disk:
                options.disk_place.drop_caches()
            cpu_before = contender.cpu_seconds()
            value = row.measure(job)
            cpu_seconds = contender.cpu_seconds() - cpu_before
            peak_rss_mib = contender.peak_rss_mib()
            if row.verify_after:
                row.verify_after(job)
            return value, cpu_seconds, peak_rss_mib
        finally:
            contender.stop()


def decoder_speed(disk, options):
    """MB/s of one core that only decompresses the clusters of the disk, or None."""
    program = os.path.join(options.tools, "bench-inflate-speed")
    if not os.access(program, os.X_OK):
        return None
    result = subprocess.run([program, disk.codec, str(images.CLUSTER_BYTES),
                             str(options.seconds), disk.records],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            check=True)
    return json.loads(result.stdout)["mb_per_s"]


def run_row(row, disk, options, results, round_index):
    """One round of a row: each contender in turn."""
    if row.decoder and (speed := decoder_speed(disk, options)):
        results.cells[row.id, "decoder"].values.append(speed)
    takers = [kind for kind in options.contenders
              if (row.plain_too or kind.serves_image)
              and (kind.can_write or not row.writes)
              and (kind in (contenders.Raw, contenders.Qcowfs) or not row.mount_options)
              and not (row.starts_itself and kind is contenders.Raw)]
    turn = round_index % len(takers) if takers else 0
    for kind in takers[turn:] + takers[:turn]:
        cell = results.cells[row.id, kind.name]
        if cell.failure:
            continue
        try:
            value, cpu_seconds, peak_rss_mib = measure(row, kind, disk, options,
                                                       round_index)
        except (CannotDo, WrongData) as error:
            cell.failure = str(error)
            cell.wrong_data = isinstance(error, WrongData)
            say(f"{row.id} {kind.name}: {error}")
            continue
        cell.values.append(value)
        cell.cpu_seconds.append(cpu_seconds)
        cell.peak_rss_mib.append(peak_rss_mib)
        say(f"{row.id} round {round_index + 1} {kind.name}: {value:.4g} {row.unit}, "
            f"{cpu_seconds:.2f} s CPU, {peak_rss_mib:.0f} MiB")


def run_all(options, results):
    """Measures all rows. Rows that are compared with each other are in one group and take turns,
    so that a change of the machine's load affects all of them."""
    for _, group in itertools.groupby(options.rows, lambda row: row.group):
        group = list(group)
        disks = {}
        for row in group:
            if row.build not in disks:
                directory, scale = options.work_dir, options.scale
                if row.on_disk:
                    directory, scale = options.disk_place.directory, scale.on_disk()
                directory = os.path.join(directory, f"disk-{row.id}")
                os.mkdir(directory)
                disks[row.build] = row.build(directory, scale)
        results.rows += group
        for round_index in range(options.rounds):
            for row in group:
                run_row(row, disks[row.build], options, results, round_index)
        for disk in disks.values():
            disk.remove()


class OtherLoad:
    """The share of the CPUs used by other programs since the start."""

    def __init__(self):
        self._begin = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat") as stat:
            ticks = [int(field) for field in stat.readline().split()[1:9]]
        idle_ticks = ticks[3] + ticks[4]
        per_second = os.sysconf("SC_CLK_TCK")
        own_seconds = sum(os.times()[:4])  # including all ended children
        return (sum(ticks) / per_second,
                (sum(ticks) - idle_ticks) / per_second - own_seconds)

    def percent(self):
        total_seconds, other_seconds = (
            now - begin for now, begin in zip(self._now(), self._begin))
        return 100 * max(other_seconds, 0) / max(total_seconds, 1)


def choose_contenders(options, results):
    """Leaves out contenders missing on this machine, and notes the facts of the run."""
    present = []
    for kind in options.contenders:
        reason = kind.missing(options)
        if reason:
            results.facts.append(f"without {kind.name}: {reason}")
            continue
        present.append(kind)
        if version := kind.version(options):
            results.facts.append(f"{kind.name}: {version}")
    options.contenders = present
    results.contenders = [kind.name for kind in present]


def choose_rows(options, results):
    """Leaves out rows that this machine cannot run."""
    reasons = {row.id: row.missing() for row in options.rows}
    results.facts += [f"without the row {row_id}: {reason}"
                      for row_id, reason in reasons.items() if reason]
    options.rows = [row for row in options.rows if not reasons[row.id]]
    if any(row.on_disk for row in options.rows):
        choose_disk_place(options, results)


def choose_disk_place(options, results):
    """Makes the place of the rows on a disk, or leaves these rows out."""
    reason = options.disk_place.missing()
    if not reason and options.flush_us and not os.path.exists(slow_sync(options)):
        reason = f"{slow_sync(options)} is not built (--flush-us 0 goes without)"
    if not reason:
        try:
            options.disk_place.prepare()
        except CannotDo as error:
            reason = str(error)
    if reason:
        results.facts.append(f"without the rows on a disk: {reason}")
        options.rows = [row for row in options.rows if not row.on_disk]
        return
    results.facts += options.disk_place.facts
    results.facts.append(f"there each sync of a server takes {options.flush_us} µs longer")


def clean_up(options):
    """Stops every server and removes every file. Must not be interrupted."""
    interrupts.ignore()
    loop_mount.clean_up(but=options.disk_place.mount)
    for contender in list(contenders.Contender.alive):
        contender.stop()
    shutil.rmtree(options.work_dir, ignore_errors=True)
    options.disk_place.clean_up()


def write_reports(options, results):
    table = report.markdown(results)
    if options.output:
        with open(options.output, "w") as file:
            file.write(table)
    else:
        sys.stdout.write(table)
    if options.json:
        with open(options.json, "w") as file:
            file.write(report.as_json(results))


def main():
    options = parse_arguments()
    if options.list:
        for row in options.rows:
            print(f"{row.id:15} {row.title}, {row.unit}")
        return 0
    if reason := why_not_here(options):
        say(f"skipped: {reason}")
        return _SKIP
    if contenders.Qcowfs in options.contenders and (
            reason := contenders.Qcowfs.missing(options)):
        say(f"run-bench.py: {reason}")
        return 1

    results = report.Results([])
    results.facts = [
        f"{os.cpu_count()} CPUs, Linux {platform.release()}",
        f"{options.rounds} rounds of {options.seconds:g} s"
        + (", quick run: small disks, the figures say little" if options.quick else "")]
    interrupts.install()
    status = 0
    other_load = OtherLoad()
    options.disk_place = disk_place.DiskPlace(options.disk, options.scale)
    options.work_dir = tempfile.mkdtemp(prefix="qcowfs-bench-", dir=options.dir)
    try:
        choose_contenders(options, results)
        choose_rows(options, results)
        run_all(options, results)
    except KeyboardInterrupt:
        say("interrupted: the table holds what was measured before")
        status = 130
    finally:
        clean_up(options)
    results.facts.append(f"{other_load.percent():.0f} % of the CPU time went to other "
                         "work: above some 5 % take only the ratios, and more rounds")
    write_reports(options, results)
    for title in results.failed(report.OURS):
        say(f"qcowfs failed: {title}")
        status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(main())
