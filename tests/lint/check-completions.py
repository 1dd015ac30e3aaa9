#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-completions.py ROOT QIMG [QCOWFS]: the completions of each shell have exactly the options
and subcommands of --help, offer only words of the help, and their shells can read them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

import sources

sys.path.insert(0, os.path.join(sys.argv[1], "packaging", "completions"))
maker = __import__("make-completions")

HELP = re.compile(r"^  (?:-(\w)\b,? ?)?(?:--([\w-]+))?", re.MULTILINE)
HELP_ROW = re.compile(r"^  ([a-z]\w+)(?:\[?=| )", re.MULTILINE)


def wanted_of(program, *subcommand):
    """The options in a help, as "-x" and "--name"."""
    text = maker.help_of(program, *subcommand)
    general, _, rows = text.partition("\nMount options")
    names = {f"-{letter}" for letter, _ in HELP.findall(general) if letter}
    names |= {f"--{name}" for _, name in HELP.findall(general) if name}
    names |= {f"--{name}" for name in HELP_ROW.findall(rows)}
    return names | ({"-o"} if rows else set())


def bash_options(text, command):
    case = re.search(rf"^    {command}\)\n((?:        .*\n)*)", text, re.MULTILINE)[1]
    words = re.search(r"options='([^']*)'", case)[1].split()
    letters = re.search(r"letters='([^']*)'", case)[1].split()
    return {word.rstrip("=") for word in words} | {word.partition("=")[0] for word in letters}


def zsh_options(text, command):
    name = "qcowfs" if command == "qcowfs" else "qimg" if command == "qimg" else f"qimg-{command}"
    body = re.search(rf"^_{name}\(\) \{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)[1]
    found = set()
    for line in body.splitlines():
        if match := re.match(r" +'[^']*'\{([^}]*)\}'", line) or \
                re.match(r" +'\*?(--?[\w-]+[=+]?-?)\[", line):
            found |= {re.sub(r"[=+]-?$", "", word) for word in match[1].split(",")}
    return found


def fish_options(text, command):
    found = set()
    for line in text.splitlines():
        condition = re.search(r" -n (?:'__fish_seen_subcommand_from ([\w-]+)'|(__fish_use))", line)
        if line.startswith("complete") and \
                (condition is None or command == (condition[1] or "qimg")):
            head = line.split(" -d ")[0]
            found |= {f"-{letter}" for letter in re.findall(r" -s (\w)", head)}
            found |= {f"--{name}" for name in re.findall(r" -l ([\w-]+)", head)}
    return found


def check_program(folder, program, subcommands, problems):
    name = os.path.basename(program)
    files = {"bash": name, "zsh": f"_{name}", "fish": f"{name}.fish"}
    readers = {"bash": bash_options, "zsh": zsh_options, "fish": fish_options}
    texts = {}
    for shell, file in files.items():
        path = os.path.join(folder, file)
        with open(path, encoding="utf-8") as stream:
            texts[shell] = stream.read()
        if shutil.which(shell):
            run = subprocess.run([shell, "-n", path], stderr=subprocess.PIPE, text=True)
            problems += [f"{shell}: {line}" for line in run.stderr.splitlines()]
    if shutil.which("shellcheck"):
        run = subprocess.run(["shellcheck", "-s", "bash", "-f", "gcc", os.path.join(folder, name)],
                             stdout=subprocess.PIPE, text=True)
        problems += run.stdout.splitlines()
    for command in [name, *subcommands]:
        if command == "qimg":
            wanted = {"-h", "--help", "-V", "--version"}
        else:
            wanted = wanted_of(program, *([] if command == name else [command]))
        if len(wanted) < 2:
            problems.append(f"{command}: no options were found in its help")
        for shell, read in readers.items():
            found = read(texts[shell], command)
            if shell == "bash":  # offers the letters only of options without a name
                found |= {option for option in wanted if option[1] != "-"}
            problems += [f"{shell}: {command} {one}: not completed" for one in wanted - found]
            problems += [f"{shell}: {command} {one}: no such option" for one in found - wanted]
    return "".join(texts.values())


def main():
    problems = []
    programs = sys.argv[2:]
    rows = re.findall(r"^  ([a-z][\w-]+) ", maker.help_of(programs[0]), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        maker.write_all(folder, *programs)
        texts = check_program(folder, programs[0], rows, problems)
        for program in programs[1:]:
            texts += check_program(folder, program, [], problems)
    problems += [f"VALUES[{key}]: no help has one of {', '.join(words)}"
                 for key, words in maker.VALUES.items()
                 if len(programs) > 1 and not any(re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", texts)
                            for word in words)]
    return sources.report(problems, f"{len(rows)} subcommands, {len(programs)} programs")


if __name__ == "__main__":
    sys.exit(main())
