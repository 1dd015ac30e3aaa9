#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make-completions.py DIRECTORY QIMG [QCOWFS]: writes the completions of bash, zsh and fish for
the programs to DIRECTORY, under the names expected by the shells: PROGRAM, _PROGRAM and
PROGRAM.fish. They are made from the output of --help alone: options, their arguments,
subcommands. The values of an option are those named in its help, so that this script changes
only for a new word in VALUES."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Values by the option's name; offered if the option's help has the word.
VALUES = {
    "backing": ["same-dir", "any", "none"],
    "backing_fmt": ["qcow2", "qed", "raw"],
    "bitmaps": ["keep", "drop"],
    "compat": ["0.10", "1.1"],
    "compression_type": ["zlib", "zstd"],
    "discard": ["unmap", "zero", "ignore"],
    "format": ["luks", "qcow", "qcow2", "qed", "raw"],
    "hash": ["sha256", "sha1", "md5"],
    "output": ["human", "json"],
    "preallocation": ["off", "metadata", "falloc", "full"],
    "repair": ["leaks", "all"],
    "sparse": ["yes", "no"],
    "version": ["2", "3"],
}
# Other values, by their word in the help.
KINDS = {"FILE": "@file", "DIR": "@dir", "MOUNTPOINT": "@dir", "POLICY": "@dir", "OLD=NEW": "@file"}
# Options whose value is a list.
LISTS = {"hash"}

LONG = re.compile(r"^  (?:-(\w), )?--([\w-]+)(?:=(\S+)| ([A-Z]+))? +(.*)$")
LETTER = re.compile(r"^  -(\w) +(.*)$")
ROW = re.compile(r"^  (\w+)(\[?)(?:=([^\s\]]+)\]?)? +(.*)$")


class Option:
    def __init__(self, letter, name, argument, text, is_optional=False):
        self.letter, self.name, self.argument, self.text = letter, name, argument, text
        self.key = (name or letter).replace("-", "_")
        self.is_optional = is_optional  # the argument, if any
        self.is_list = name == "options" or (name is None and letter == "o")

    @property
    def needs_argument(self):
        return self.argument is not None and not self.is_optional

    @property
    def values(self):
        words = set(re.findall(r"[\w.-]+", self.text.replace("...", " ")))
        words |= {word.rstrip(".") for word in words}
        found = [word for word in VALUES.get(self.key, []) if word in words]
        if self.argument and self.argument in KINDS:
            found.append(KINDS[self.argument])
        return found


class Command:
    """A program, or a subcommand of one."""

    def __init__(self, name, summary=""):
        self.name, self.summary = name, summary
        self.options, self.elements, self.verbs = [], [], []


def help_of(*argv):
    env = dict(os.environ, LC_ALL="C")
    text = subprocess.run([*argv, "--help"], env=env, check=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True).stdout
    return re.sub(r"\n {20,}", " ", text)  # continuation lines


def read_qcowfs(program):
    command = Command("qcowfs")
    general, _, mount_options = help_of(program).partition("\nMount options")
    for line in general.splitlines():
        if match := LONG.match(line):
            command.options.append(Option(match[1], match[2], match[3] or match[4], match[5]))
        elif match := LETTER.match(line):
            command.options.append(Option(match[1], None, None, match[2]))
    for line in mount_options.splitlines():
        if match := ROW.match(line):
            command.elements.append(Option(None, match[1], match[3], match[4], bool(match[2])))
    command.options.append(Option("o", None, "LIST", "mount options, separated by commas"))
    # The mount options are long options as well.
    command.options += command.elements
    return command


def read_subcommand(program, name, summary, known):
    command = Command(name, summary)
    text = help_of(program, name)
    if match := re.search(r"^  qimg \S+ \[OPTION\.\.\.\] ([a-z]+(?:\|[a-z]+)+) ", text, re.MULTILINE):
        command.verbs = match[1].split("|")
    for line in text.splitlines():
        if match := LONG.match(line):
            command.options.append(Option(match[1], match[2], match[3], match[5]))
    for option in command.options:
        if not option.is_list:
            continue
        names, _, opening = option.text.rpartition(": ")
        if "of the above" in names:
            command.elements += [Option(None, one.key, one.argument, one.text)
                                 for one in command.options[:command.options.index(option)]]
        for element, equals in re.findall(r"(\w+)(=?)(?=[,;]|$)", opening.partition(";")[0]):
            command.elements.append(
                known.get(element) or Option(None, element, "VALUE" if equals else None, ""))
    return command


def read_qimg(program, known):
    top = Command("qimg")
    top.options = [Option("h", "help", None, "print a short help"),
                   Option("V", "version", None, "print the version")]
    subcommands = [read_subcommand(program, name, summary, known) for name, summary
                   in re.findall(r"^  ([a-z][\w-]+) +(.*)$", help_of(program), re.MULTILINE)]
    return top, subcommands


# ---- bash -------------------------------------------------------------------------------


def bash_case(command):
    words = []
    for option in command.options:
        if option.name:
            words.append(f"--{option.name}" + ("=" if option.needs_argument else ""))
        else:
            words.append(f"-{option.letter}")
    letters = "".join(f" -{o.letter}={o.key}" for o in command.options
                      if o.letter and o.argument)
    elements = [o.name + ("=" if o.needs_argument else "") for o in command.elements]
    return (f"    {command.name})\n"
            f"        options='{' '.join(words)}'\n"
            f"        letters='{letters.strip()}'\n"
            f"        elements='{' '.join(elements)}'\n"
            f"        verbs='{' '.join(command.verbs)}'\n"
            "        ;;\n")


def bash_values(commands):
    out = {}
    for command in commands:
        for option in command.options + command.elements:
            for value in option.values:
                if value not in out.setdefault(option.key, []):
                    out[option.key].append(value)
    return "".join(f"    {key}) echo '{' '.join(values)}' ;;\n"
                   for key, values in sorted(out.items()) if values)


def make_bash(top, subcommands):
    template = (HERE / "template.bash").read_text(encoding="utf-8")
    return (template.replace("@PROGRAM@", top.name)
            .replace("@SUBCOMMANDS@", " ".join(c.name for c in subcommands))
            .replace("@LISTS@", "|".join(sorted(LISTS)))
            .replace("@CASES@", "".join(bash_case(c) for c in [top, *subcommands]))
            .replace("@VALUES@", bash_values([top, *subcommands])))


# ---- zsh --------------------------------------------------------------------------------


def quoted(text):
    """Text within the brackets and single quotes of a specification."""
    text = text.replace("[", "(").replace("]", ")").replace(": ", " - ").replace(":", "")
    return text.replace("'", "'\\''")


def zsh_action(option):
    """The part behind the colon: how to complete the value."""
    words = [value for value in option.values if value[0] != "@"]
    if "@file" in option.values:
        return "_files"
    if words and option.key in LISTS:
        return f"_sequence compadd - {' '.join(words)}"
    if "@dir" in option.values and not words:
        return "_files -/"
    if "@dir" in option.values:
        return f"_alternative 'w:word:({' '.join(words)})' 'd:directory:_files -/'"
    return f"({' '.join(words)})" if words else " "


def zsh_specification(command, option):
    takes = option.argument is not None
    action = f"_{command}_list" if option.is_list else zsh_action(option)
    action = action.replace("'", "'\\''")
    tail = f"[{quoted(option.text)}]" + (f":{quoted(option.argument)}:{action}" if takes else "")
    names = ([f"-{option.letter}" + ("+" if takes else "")] if option.letter else []) + \
            ([f"--{option.name}" + ("=" if takes else "")] if option.name else [])
    if option.is_optional:
        names, tail = [f"--{option.name}=-"], tail.replace("]:", "]::", 1)
    is_many = option.is_list or option.key in LISTS or option.argument == "OLD=NEW"
    if len(names) == 1:
        return f"'{'*' if is_many else ''}{names[0]}{tail}'"
    before = "*" if is_many else f"({' '.join(n.rstrip('+=') for n in names)})"
    return f"'{before}'{{{','.join(names)}}}'{tail}'"


def zsh_function(name, command, subcommands=()):
    elements = []
    for one in command.elements:
        colon = "::" if one.is_optional else ":"
        value = f"{colon}{quoted(one.argument)}:{zsh_action(one)}".replace("'", "'\\''") \
            if one.argument else ""
        many = "*" if one.argument == "OLD=NEW" else ""
        elements.append(f"        '{many}{one.name}[{quoted(one.text)}]{value}'")
    out = ""
    if elements:
        out += f"_{name}_list() {{\n    _values -s , option \\\n" + " \\\n".join(elements) + "\n}\n\n"
    lines = [zsh_specification(name, option) for option in command.options]
    if subcommands:
        lines += ["'1:subcommand:_qimg_subcommands'", "'*::argument:_qimg_rest'"]
    else:
        if command.verbs:
            lines.append(f"'1:verb:({' '.join(command.verbs)})'")
        lines.append("'*:file:_files'")
    flags = "-s -S -C" if subcommands else "-s -S"
    body = f"    _arguments {flags} \\\n" + " \\\n".join(f"        {line}" for line in lines) + "\n"
    return out + f"_{name}() {{\n{body}}}\n\n"


def make_zsh(top, subcommands):
    out = f"#compdef {top.name}\n# SPDX-License-Identifier: GPL-2.0-or-later\n\n"
    if subcommands:
        rows = "\n".join(f"        '{c.name}:{quoted(c.summary)}'" for c in subcommands)
        out += (f"_qimg_subcommands() {{\n    local -a names=(\n{rows}\n    )\n"
                "    _describe subcommand names\n}\n\n"
                "_qimg_rest() {\n    (( $+functions[_qimg-${words[1]}] )) && "
                "_qimg-${words[1]}\n}\n\n")
        for command in subcommands:
            out += zsh_function(f"qimg-{command.name}", command)
    return out + zsh_function(top.name, top, subcommands) + f'_{top.name} "$@"\n'


# ---- fish -------------------------------------------------------------------------------


def fish_quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish_option(program, option, condition, function):
    words = ["complete", "-c", program, *condition]
    if option.letter:
        words += ["-s", option.letter]
    if option.name:
        words += ["-l", option.name]
    if option.is_list:
        words += ["-x", "-a", fish_quoted(f"(__fish_complete_list , {function})")]
    elif option.needs_argument:
        plain = [value for value in option.values if value[0] != "@"]
        if "@dir" in option.values:
            plain.append("(__fish_complete_directories (commandline -ct))")
        words.append("-r" if "@file" in option.values else "-x")
        if plain:
            words += ["-a", fish_quoted(" ".join(plain))]
    return " ".join([*words, "-d", fish_quoted(option.text)]) + "\n"


def fish_list(function, elements):
    rows = []
    for one in elements:
        plain = [value for value in one.values if value[0] != "@"]
        names = [f"{one.name}={value}" for value in plain]
        if one.argument and (not plain or len(plain) < len(one.values)):
            names.append(f"{one.name}=")
        if not one.argument or one.is_optional:
            names.append(one.name)
        rows += [f"    printf '%s\\t%s\\n' {fish_quoted(name)} {fish_quoted(one.text)}\n"
                 for name in names]
    return f"function {function}\n{''.join(rows)}end\n"


def make_fish(top, subcommands):
    out = "# SPDX-License-Identifier: GPL-2.0-or-later\n"
    for command in [top, *subcommands]:
        is_top = command is top
        function = f"__{top.name}_list" + ("" if is_top else f"_{command.name.replace('-', '_')}")
        condition = []
        if not is_top:
            out += (f"complete -c qimg -n __fish_use_subcommand -f -a {command.name} "
                    f"-d {fish_quoted(command.summary)}\n")
            condition = ["-n", f"'__fish_seen_subcommand_from {command.name}'"]
        elif subcommands:
            condition = ["-n", "__fish_use_subcommand"]
        if command.elements:
            out += fish_list(function, command.elements)
        for option in command.options:
            out += fish_option(top.name, option, condition, function)
        if command.verbs:
            verbs = " ".join(command.verbs)
            out += (f"complete -c qimg -n '__fish_seen_subcommand_from {command.name}; and not "
                    f"__fish_seen_subcommand_from {verbs}' -f -a '{verbs}'\n")
    return out


def write_all(folder, qimg, qcowfs=None):
    known, programs = {}, []
    if qcowfs:
        top = read_qcowfs(qcowfs)
        known = {element.name: element for element in top.elements}
        programs.append((top, []))
    programs.append(read_qimg(qimg, known))
    for top, subcommands in programs:
        for name, make in ((top.name, make_bash), (f"_{top.name}", make_zsh),
                           (f"{top.name}.fish", make_fish)):
            Path(folder, name).write_text(make(top, subcommands), encoding="utf-8")


if __name__ == "__main__":
    write_all(*sys.argv[1:])
