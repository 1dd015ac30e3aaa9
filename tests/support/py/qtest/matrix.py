# SPDX-License-Identifier: GPL-2.0-or-later
"""Many small images in one mount: builds the cases of a test class, gets each expected content
from qemu-img, mounts them all in one qcowfs process, and records the state of the files before."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from . import env, evidence, fixtures, procs, qemu
from .mount import Mount, stem


@dataclass
class Case:
    """One image. @build(directory, rng) makes it and its chain inside @directory and returns the
    path of the IMAGE, or (path, Model)."""
    name: str
    build: Callable
    image_format: Optional[str] = None      # for qemu-img; probed if None
    want_layers: bool = False               # also the content as of each layer


@dataclass
class Model:
    """The expected result of a random sequence of operations; ranges in @open are undefined by
    them (discards)."""
    content: bytearray
    open: list = field(default_factory=list)


@dataclass
class Built:
    case: Case
    directory: Path
    image: Path
    expected_path: Path
    model: Optional[Model] = None
    qemu_map: list = field(default_factory=list)
    qemu_info: dict = field(default_factory=dict)
    qemu_chain: list = field(default_factory=list)
    layers: list = field(default_factory=list)       # the file with each depth's data
    layer_contents: list = field(default_factory=list)   # with want_layers: paths
    refusal: Optional[str] = None                    # the reason of a refusal by qcowfs

    @property
    def expected(self):
        return self.expected_path.read_bytes()

    @property
    def raw_tail(self):
        """The start of the padding that qemu-img's maps invent for an odd raw layer."""
        tails = [p.stat().st_size for p in self.layers[-1:] if p.stat().st_size % 512]
        return tails[0] // 512 * 512 if tails else None


class Matrix:
    def __init__(self, name, cases):
        env.need_fuse()
        env.need_tools("qemu-img", "qemu-io")
        self.root = fixtures.make_scratch(name)
        self.mount = None
        self.unchanged_checked = False
        names = [c.name for c in cases]
        assert len(set(names)) == len(names), "cases of one name"
        try:
            with ThreadPoolExecutor(3) as pool:
                self.built = {b.case.name: b for b in pool.map(self._build, cases)}
            self.evidence_files = evidence.files_below(self.root / "images")
            evidence.age(self.evidence_files)
            self.before = evidence.state(self.evidence_files)
            self._mount()
        except BaseException:
            self.close()
            raise

    # ---- building ---------------------------------------------------------------------

    def _build(self, case):
        directory = self.root / "images" / case.name
        directory.mkdir(parents=True)
        made = case.build(directory, env.rng(case.name))
        image, model = made if isinstance(made, tuple) else (made, None)
        assert stem(image) == case.name, f"{image} does not show as {case.name}"
        expected = self.root / "expected" / case.name
        expected.parent.mkdir(exist_ok=True)
        built = Built(case, directory, image, expected, model)
        if case.image_format == "raw":
            # qemu-img rounds the size up to sectors; the promise is the exact file.
            expected.write_bytes(image.read_bytes())
        else:
            qemu.to_raw(image, expected)
        built.qemu_map = qemu.map_json(image, case.image_format)
        built.qemu_info = qemu.info_json(image, case.image_format)
        argv = ["info", "--output=json", "--backing-chain", image.name]
        if case.image_format:
            argv[1:1] = ["-f", case.image_format]
        built.qemu_chain = json.loads(qemu.img(*argv, cwd=directory).stdout)
        for layer in built.qemu_chain:
            data = layer.get("format-specific", {}).get("data", {}).get("data-file")
            built.layers.append(directory / (data or layer["filename"]))
            if case.want_layers:
                content = self.root / "expected" / f"{case.name}.{len(built.layer_contents)}"
                path = directory / layer["filename"]
                if layer["format"] == "raw":
                    content.write_bytes(path.read_bytes())
                else:
                    qemu.to_raw(path, content)
                built.layer_contents.append(content)
        return built

    # ---- mounting ---------------------------------------------------------------------

    def _mount(self):
        """Mounts all; a refused image is left out and noted, so that one broken feature fails only
        its own cases."""
        while True:
            images = [b.image for b in self.built.values() if b.refusal is None]
            assert images, "every image was refused:\n" + "\n".join(
                sorted({b.refusal for b in self.built.values()}))
            mount = Mount(images, self.root / "mnt")
            try:
                mount.__enter__()
                self.mount = mount
                return
            except AssertionError as error:
                culprit = self._named_in(str(error))
                if culprit is None:
                    raise
                culprit.refusal = str(error)

    def _named_in(self, text):
        for line in text.splitlines():
            if not re.match(r"qcowfs: .*\)$", line):
                continue
            for built in self.built.values():
                if built.refusal is None and f"{built.directory}/" in line:
                    return built
        return None

    # ---- asking -----------------------------------------------------------------------

    def get(self, case):
        built = self.built[case.name]
        assert built.refusal is None, f"the image was refused: {built.refusal}"
        return built

    def raw(self, case):
        return self.mount.raw(self.get(case).image)

    def qimg_json(self, subcommand, image):
        result = procs.run(env.qimg(), subcommand, "--output=json", image)
        return json.loads(result.stdout)

    def check_unchanged(self):
        self.unchanged_checked = True
        self.mount.close()
        evidence.assert_unchanged(self.before, evidence.state(self.evidence_files))

    def close(self):
        try:
            if self.mount is not None:
                self.mount.close()
        finally:
            fixtures.remove_scratch(self.root)
