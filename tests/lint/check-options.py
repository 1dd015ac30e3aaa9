#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-options.py ROOT QIMG [QCOWFS]: the manual pages have exactly the options and subcommands
of the programs, and --help shows the options selected by the table. The page of a subcommand
has the options of its --help: its own in OPTIONS, and those explained in qimg.1 in SYNOPSIS, or
by name behind OPTIONS."""

import os
import re
import subprocess
import sys

import sources

TABLE = re.compile(r"static const OptionRow rows\[\] = \{(.*?)\n\};", re.DOTALL)
ROW = re.compile(r'\{\s*"(\w+)",\s*(NULL|"[^"]*"),\s*(NULL|")')
LONG = re.compile(r'\(struct option\)\{"(\w+)",')
SHORT = re.compile(r'getopt_long\(argc, argv, "([^"]*)"')
HELP_OPTION = re.compile(r"^  (?:-(\w), )?--([\w-]+)", re.MULTILINE)
# Of the letters explained in qimg.1.
LONG_NAMES = {"o": "options", "f": "format", "U": "force-share", "p": "progress"}
COMMAND = re.compile(r'^    \{"([\w-]+)", "[^"]*", cmd_\w+\},', re.MULTILINE)


def read(root, path):
    with open(f"{root}/{path}", encoding="utf-8") as file:
        return file.read()


def section_of(page, section):
    return page.partition(f"\n.Sh {section}\n")[2].partition("\n.Sh ")[0]


def manual_items(page, section):
    """The texts of the .It lines of one section."""
    return re.findall(r"^\.It (.*)$", section_of(page, section), re.MULTILINE)


def compare(problems, what, in_code, in_manual):
    problems += [f"{what} {name}: not in the manual page" for name in sorted(in_code - in_manual)]
    problems += [f"{what} {name}: in the manual page alone"
                 for name in sorted(in_manual - in_code)]


def output_of(program, *arguments, problems):
    # The locale with the fewest characters.
    run = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL,
                         env=dict(os.environ, LC_ALL="C"),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0 or run.stderr:
        problems.append(f"{program} {' '.join(arguments)}: status {run.returncode}, "
                        f"{run.stderr.strip()!r} on standard error")
    return run.stdout


def check_qcowfs(root, program, problems):
    code, page = read(root, "fuse/mount/options.c"), read(root, "docs/qcowfs.1")
    rows = {name: (argument, shown != "NULL")
            for name, argument, shown in ROW.findall(TABLE.search(code).group(1))}
    flags = set(re.findall(r"[a-zA-Z]", SHORT.search(code).group(1))) | set(LONG.findall(code))
    items = manual_items(page, "MOUNT OPTIONS")
    compare(problems, "mount option", set(rows),
            {name for item in items for name in re.findall(r"Cm (\w+)", item)})
    for item in items:
        for name, rest in re.findall(r"Cm (\w+)([^,]*)", item):
            takes_value = rows.get(name, ("", False))[0] not in ("NULL", "")
            if name in rows and takes_value != ("Ar" in rest):
                problems.append(f"mount option {name}: its value, in code and manual page")
    compare(problems, "option", flags - {"o"},
            {name for item in manual_items(page, "OPTIONS")
             for name in re.findall(r"Fl -?(\w+)", item)} - {"o"})
    if program:
        text = output_of(program, "--help", problems=problems)
        for name, (_, shown) in rows.items():
            is_there = re.search(rf"^  {name}\b", text, re.MULTILINE) is not None
            if shown != is_there:
                problems.append(f"--help: {name} is {'missing' if shown else 'shown'}")
        output_of(program, "--version", problems=problems)
    return len(rows)


def check_subcommand(root, program, name, common, problems):
    help_text = output_of(program, name, "--help", problems=problems)
    in_help = set()
    for letter, option in HELP_OPTION.findall(help_text):
        in_help |= {option, letter} - {""}
    if "OPTION?" in help_text:
        problems.append(f"qimg {name} --help: has a character that the C locale lacks")
    try:
        page = read(root, f"docs/qimg-{name}.1")
    except FileNotFoundError:
        problems.append(f"qimg {name}: has no manual page docs/qimg-{name}.1")
        return
    own = {option for item in manual_items(page, "OPTIONS")
           for option in re.findall(r"Fl -?([\w-]+)", item)}
    problems += [f"qimg-{name}.1: -{option} is in qimg.1, too" for option in own & common
                 if option not in ("o", "options", "f", "format", "version")]
    # All take -h; of the others, those that the synopsis shows.
    shown = set(re.findall(r"Fl -?([\w-]+)", section_of(page, "SYNOPSIS")))
    borrowed = {"h", "help"} | (shown & common)
    borrowed |= {name for letter, name in LONG_NAMES.items() if letter in borrowed - own}
    compare(problems, f"option of qimg {name}:", in_help, own | borrowed)
    problems += [f"qimg-{name}.1: its synopsis has -{option}, which is no option"
                 for option in sorted(shown - in_help)]


def check_qimg(root, program, problems):
    commands = set(COMMAND.findall(read(root, "tools/qimg.c")))
    page = read(root, "docs/qimg.1")
    compare(problems, "subcommand", commands,
            {name for item in manual_items(page, "SUBCOMMANDS")
             for name in re.findall(r"^Cm ([\w-]+)", item)})
    common = {name for item in manual_items(page, "OPTIONS")
              for name in re.findall(r"Fl -?([\w-]+)", item)}
    # The list of -o, from the help of any subcommand without further properties.
    shown = re.search(r"--options=.*?: (.*?);", re.sub(
        r"\n {20,}", " ", output_of(program, "info", "--help", problems=problems)))
    part = section_of(page, "OPTIONS").partition("\n.It Fl o ")[2].partition("\n.It ")[0]
    compare(problems, "qimg -o", set(re.findall(r"\w+", shown[1] if shown else "")),
            set(re.findall(r"^\.Cm (\w+)", part, re.MULTILINE)))
    for arguments in ["--help"], ["--version"]:
        output_of(program, *arguments, problems=problems)
    for name in sorted(commands):
        check_subcommand(root, program, name, common, problems)
    return len(commands)


def main():
    root, qimg = sys.argv[1:3]
    problems = []
    n_options = check_qcowfs(root, sys.argv[3] if len(sys.argv) > 3 else None, problems)
    n_commands = check_qimg(root, qimg, problems)
    if not n_options or not n_commands:
        problems.append("the tables were not found in the sources")
    return sources.report(problems, f"{n_options} mount options, {n_commands} subcommands")


if __name__ == "__main__":
    sys.exit(main())
