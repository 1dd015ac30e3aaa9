# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion as seen by a user: shells on a terminal, typed keys, and the resulting command line.
tests/lint/check-completions.py compares the options with --help."""

import os
import pty
import re
import select
import signal
import time
from pathlib import Path

import pytest

from qtest import env

BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """The shell's directory; the completions of the built programs are in ../made."""
    made, place = tmp_path / "made", tmp_path / "place"
    made.mkdir()
    (place / "sub").mkdir(parents=True)
    for name in ("disk.qcow2", "other file.img"):
        (place / name).touch()
    from qtest.procs import run
    run("/usr/bin/python3", "-B", ROOT / "packaging" / "completions" / "make-completions.py", made,
        env.qimg(), env.qcowfs())
    return place


class Shell:
    """A shell on a terminal. `args` prints its arguments, one per line."""

    def __init__(self, argv, setup, folder):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(PS1="", TERM="dumb", LC_ALL="C.UTF-8", INPUTRC="/dev/null",
                              HOME=str(folder), ZDOTDIR=str(folder))
            os.execvp(argv[0], argv)
        self.text = ""
        self.run(setup + "\nargs() { printf '<%s>' \"$@\"; echo; }")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _read_until(self, pattern):
        end = time.monotonic() + 20 * env.slow()
        while not (match := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        self.text = self.text[match.end():]
        return match

    def run(self, command):
        """Runs a command to its end."""
        os.write(self.fd, f"{command}\necho READ''Y\n".encode())
        self._read_until("READY\r?\n")

    def complete(self, line, keys):
        """The arguments of the command line after typing @line, then @keys."""
        # To the line's start, "args " before it, run it; its output begins in column 0.
        os.write(self.fd, line.encode() + keys + b"\x01args \x05\n")
        return re.findall("<([^>]*)>", self._read_until(r"(?m)^((?:<[^>\r\n]*>)+)\r?\n")[1])


# The typed text, and the words of all completions together.
BASH = [
    ("qimg in", "qimg info"),
    ("qimg --v", "qimg --version"),
    ("qimg snapshot re", "qimg snapshot rename revert"),
    ("qimg snapshot list di", "qimg snapshot list disk.qcow2"),
    ("qimg create --comp", "qimg create --compat= --compression-type="),
    ("qimg create --compression-type=", "qimg create --compression-type=zlib zstd"),
    ("qimg create -o compression_type=z", "qimg create -o compression_type=zlib zstd"),
    ("qimg create -o extended_l2,refc", "qimg create -o extended_l2,refcount_bits="),
    ("qimg check -r a", "qimg check -r all"),
    ("qimg check --repair l", "qimg check --repair leaks"),
    ("qimg copy-out --hash=sha256,m", "qimg copy-out --hash=sha256,md5"),
    ("qimg info --output=j", "qimg info --output=json"),
    ("qimg info --options=backing=a", "qimg info --options=backing=any"),
    ("qimg map disk", "qimg map disk.qcow2"),
    ("qcowfs -o ro,discard=u", "qcowfs -o ro,discard=unmap"),
    ("qcowfs -o nog", "qcowfs -o nogrowable"),
    ("qcowfs --discard=i", "qcowfs --discard=ignore"),
    ("qcowfs --discard z", "qcowfs --discard zero"),
    ("qcowfs -o cow=d", "qcowfs -o cow=disk.qcow2"),
    ("qcowfs --wait s", "qcowfs --wait sub"),
    ("qcowfs --allow_", "qcowfs --allow_other --allow_root"),
    ("qcowfs di", "qcowfs disk.qcow2"),
    ("qcowfs oth", "qcowfs|other file.img"),
    ("qimg frob di", "qimg frob di"),
]


def test_bash(folder):
    env.need_tools("bash")
    if not os.path.exists(BASH_COMPLETION):
        pytest.skip("bash-completion is not installed")
    # As bash-completion does it when a command is completed for the first time.
    setup = f"bind 'set enable-bracketed-paste off'; . {BASH_COMPLETION}; . ../made/qimg; . ../made/qcowfs"
    with Shell(["bash", "--norc", "--noprofile", "-i"], setup, folder) as shell:
        for typed, wanted in BASH:
            got = shell.complete(typed, b"\x1b*")  # insert all completions
            words = wanted.split("|") if "|" in wanted else wanted.split()
            assert [word.rstrip("/") for word in got] == words, typed


# The result of one TAB: unambiguous ones.
TAB = [
    ("qimg inf", "qimg info"),
    ("qimg check --rep", "qimg check --repair"),  # a "=" that goes with the next key
    ("qimg create --compression-type=zs", "qimg create --compression-type=zstd"),
    ("qimg snapshot rev", "qimg snapshot revert"),
    ("qimg map dis", "qimg map disk.qcow2"),
    ("qcowfs -o ro,nogr", "qcowfs -o ro,nogrowable"),
    ("qcowfs -o discard=un", "qcowfs -o discard=unmap"),
    ("qcowfs --default_p", "qcowfs --default_permissions"),
]


def test_zsh(folder):
    env.need_tools("zsh")
    setup = "unsetopt zle_bracketed_paste prompt_sp; PROMPT=; fpath=(../made $fpath); " \
            "autoload -Uz compinit; compinit -u -D; bindkey -e"
    with Shell(["zsh", "-f", "-i"], setup, folder) as shell:
        for typed, wanted in TAB:
            assert shell.complete(typed, b"\t") == wanted.split(), typed


FISH = [
    ("qimg in", {"info"}),
    ("qimg create --compression-type=", {"--compression-type=zlib", "--compression-type=zstd"}),
    ("qimg check -r ", {"leaks", "all"}),
    ("qimg snapshot re", {"rename", "revert"}),
    ("qimg check --rep", {"--repair"}),
    ("qcowfs -o ro,disc", {"ro,discard=unmap", "ro,discard=zero", "ro,discard=ignore"}),
    ("qcowfs --nogr", {"--nogrowable"}),
]


def test_fish(folder):
    env.need_tools("fish")
    from qtest.procs import run
    for typed, wanted in FISH:
        text = run("fish", "--no-config", "-c", "source ../made/qimg.fish; source ../made/qcowfs.fish; "
                   f"complete -C '{typed}'", cwd=folder,
                   env_add={"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}).text
        assert {line.split("\t")[0].rstrip("=") if "=" not in typed and "," not in typed
                else line.split("\t")[0] for line in text.splitlines()} == wanted, typed
