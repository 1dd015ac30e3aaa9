#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check-english.py ROOT: comments and docs begin a sentence with its subject, in the words of
docs/hacking.md; in C, the items of a list are not joined to one line."""

import ast
import io
import os
import re
import sys
import tokenize

import sources

FOLDERS = ["fuse", "tools", "lib", "tests", "docs", "packaging"]
START = r"(?:^|[.;!?] |: |\n\n)"

# The refused patterns, and a replacement for each.
REFUSED = [
    (START + r"(?:Who|Whoever|Whose)\b", "name the caller, reader or writer"),
    (START + r"(?:What|Whatever) (?!.{0,60}\?)", "begin with a noun"),
    (r"\b[Ww]hoever\b", "name the caller, reader or writer"),
    (r"\bwhose turn\b", "the turn of"),
    (r"\b(?:is|are|was|were|of|for|by|from|with|than|as|at|in|on|into|and|but|or) what\b(?! to do)",
     "use a noun"),
    (r"\bwhat (?:it|they|he|one|there|others?|nobody|somebody|has|have|had|lies|lay|stands|"
     r"waits|remains|comes|came|follows|became|becomes|belongs|goes)\b", "use a noun"),
    (r"\b[Ll]ets\b", "makes, permits"),
    (r"\b[Ss]o (?:much|many)\b", "this number, as many"),
    (r"\b(?:[Ss]ome|[Nn]o)body\b", "name the caller, reader, writer or program"),
    (r"\b[Ss]omebody else's\b", "another user's"),
    (r"\b(?:no|any) more\b(?= (?:is|are|was|were)\b)", "no longer"),
    (r"\bgives? back\b|\bgiven back\b", "free, release, return"),
    (r"\b(?:is|are|was|were) told of\b", "learns"),
    (r"\bfor ever\b", "forever"),
    (r"\b(?:stands|stood) there\b", "is there"),
    (r"\banew\b", "again"),
    (r"\brightly\b", "correctly"),
    (r"\bbut for\b", "except"),
    (r"\bas yet\b|\bthereby\b|\bhereby\b|\bwhereby\b", "use a plain word"),
]
JOINED = re.compile(r"^ *(?:/\*| \*) .*[.:;] [A-Z][0-9]  ", re.MULTILINE)

C_TOKEN = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)


def c_comments(text):
    for token in C_TOKEN.finditer(text):
        if token.group().startswith("/"):
            yield token.start(), re.sub(r"^ *\*(?: |$)", "", token.group()[2:].rstrip("*/"),
                                        flags=re.MULTILINE).strip()


def python_comments(text):
    starts = [0]
    for line in text.splitlines(True):
        starts.append(starts[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield starts[token.start[0] - 1], token.string.lstrip("#! ")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            yield starts[node.body[0].lineno - 1], ast.get_docstring(node)


def hash_comments(text):
    for block in re.finditer(r"(?:^[ \t]*#(?!!).*\n)+", text, re.MULTILINE):
        yield block.start(), re.sub(r"^[ \t]*#+ ?", "", block.group(), flags=re.MULTILINE)


def markdown_prose(text):
    text = re.sub(r"^```.*?^```|`[^`\n]*`|\"[^\"\n]*\"", lambda code: "\n" * code.group().count("\n"), text,
                  flags=re.DOTALL | re.MULTILINE)
    for block in re.finditer(r"(?:^.*\S.*\n)+", text, re.MULTILINE):
        for part in re.split(r"\n(?=[|*-] )|\|", block.group()):
            yield block.start(), part.strip()


def manual_prose(text):
    text = re.sub(r"^\.Bd.*?^\.Ed", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.finditer(r"(?:^[^.\n].*\n)+", text, re.MULTILINE):
        yield block.start(), block.group()


READERS = {".c": c_comments, ".h": c_comments, ".py": python_comments, ".sh": hash_comments,
           ".build": hash_comments, ".md": markdown_prose, ".1": manual_prose,
           ".3": manual_prose, ".7": manual_prose}


def main():
    root = sys.argv[1]
    patterns = [(re.compile(pattern), cure) for pattern, cure in REFUSED]
    problems, n_files = [], 0
    for path in list(sources.find(root, FOLDERS, READERS)) + ["README.md"]:
        if path == "tests/lint/check-english.py":
            continue
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        n_files += 1
        for start, comment in READERS[os.path.splitext(path)[1]](text):
            comment = re.sub(r"(?<=\S)\n(?=\S)", " ", comment)
            for pattern, cure in patterns:
                for hit in pattern.finditer(comment):
                    line = text.count("\n", 0, start) + 1
                    problems.append(f"{path}:{line}: \"{hit.group().strip()}\": {cure}: "
                                    f"{comment[max(0, hit.start() - 20):hit.end() + 30]!r}")
        if path.endswith((".c", ".h")):
            problems += [f"{path}:{text.count(chr(10), 0, hit.start()) + 1}: items of a list in one line"
                         for hit in JOINED.finditer(text)]
    return sources.report(problems, f"the English of {n_files} files")


if __name__ == "__main__":
    sys.exit(main())
