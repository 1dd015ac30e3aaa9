# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that boots: systemd as the first process of a container whose files are layered over
this machine's. It has the units of packaging/systemd and lines in /etc/fstab; a script there
uses them, and records its findings. Remaining mounts end with the shutdown."""

import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from qtest import env, pattern, procs, qemu
from qtest.encryption import EncryptedImage
from qtest.private import private_machine

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
SIZE = 4 << 20

FSTAB = """
/srv/images/disk.qcow2   /srv/atboot  fuse.qcowfs  ro,allow_other,nofail                   0 0
/srv/images/broken.qcow2 /srv/broken  fuse.qcowfs  ro,noauto                               0 0
/srv/images/user.qcow2   /srv/user    fuse.qcowfs  ro,noauto,user                          0 0
/srv/images/luks.qcow2   /srv/luks    fuse.qcowfs  ro,noauto,passphrase_file=/etc/qcowfs/words 0 0
/srv/images/fstab.qcow2  /srv/fstab   fuse.qcowfs  rw,noauto                               0 0
"""

# Starts the script when the system has started.
SCRIPT_UNIT = """
[Unit]
After=local-fs.target basic.target
[Service]
Type=oneshot
StandardOutput=file:/srv/out/script
StandardError=inherit
ExecStart=/bin/sh -x /srv/script
ExecStopPost=systemctl --no-block poweroff
"""

TARGET = """
[Unit]
Requires=basic.target script.service
"""

# A failing start ends.
EMERGENCY = """
[Service]
ExecStart=systemctl --force poweroff
"""

SCRIPT = r"""
cd /srv/out
export SYSTEMD_COLORS=0 SYSTEMD_PAGER=
facts() { # unit: what systemd and the kernel know of it
    systemctl show -p ActiveState -p Result -p StatusText -p MainPID "$1"
    findmnt -n -o FSTYPE,SOURCE,OPTIONS "$2" || echo "not mounted"
}
digest() { sha256sum <"$1"; }
{
    facts srv-atboot.mount /srv/atboot
    digest /srv/atboot/disk.raw
} >atboot
{
    systemctl start qcowfs@good
    echo "start: $?"
    facts qcowfs@good.service /srv/good
    digest /srv/good/disk.raw
    systemctl stop qcowfs@good
    echo "stop: $?"
    facts qcowfs@good.service /srv/good
} >good
{
    systemctl start qcowfs@good
    systemctl kill --kill-whom=main --signal=KILL qcowfs@good
    while systemctl -q is-active qcowfs@good; do sleep 0.05; done
    digest /srv/good/disk.raw
    facts qcowfs@good.service /srv/good
    systemctl reset-failed qcowfs@good
    systemctl start qcowfs@good
    echo "start: $?"
    digest /srv/good/disk.raw
    systemctl stop qcowfs@good
    facts qcowfs@good.service /srv/good
} >killed 2>&1
{
    systemctl start qcowfs@broken
    echo "start: $?"
    facts qcowfs@broken.service /srv/broken
    journalctl -o cat -u qcowfs@broken
} >broken-service
{
    systemctl start srv-broken.mount
    echo "start: $?"
    facts srv-broken.mount /srv/broken
    journalctl -o cat -u srv-broken.mount
} >broken-mount
{
    systemctl start srv-disk.mount
    echo "start: $?"
    facts srv-disk.mount /srv/disk
    digest /srv/disk/disk.raw
    systemctl stop srv-disk.mount
    echo "stop: $?"
    facts srv-disk.mount /srv/disk
} >mount-unit
{
    systemctl start srv-luks.mount
    digest /srv/luks/luks.raw
    systemctl stop srv-luks.mount
    systemctl start qcowfs@luks
    digest /srv/luks/luks.raw
    tr '\0' '\n' </proc/$(systemctl show -P MainPID qcowfs@luks)/cmdline
    systemctl stop qcowfs@luks
    echo "stop: $?"
} >luks 2>&1
chown nobody /srv/user
{
    setpriv --reuid=nobody --clear-groups mount /srv/user
    echo "mount: $?"
    findmnt -n -o FSTYPE,SOURCE,OPTIONS /srv/user
    setpriv --reuid=nobody --clear-groups cat /srv/user/user.raw | sha256sum
    setpriv --reuid=nobody --clear-groups umount /srv/user
    echo "umount: $?"
    findmnt /srv/user || echo "not mounted"
} >user 2>&1
# These two stay until the end.
systemctl start qcowfs@write srv-fstab.mount
echo by-service | dd of=/srv/write/write.raw conv=notrunc bs=1 seek=1000000
echo by-fstab | dd of=/srv/fstab/fstab.raw conv=notrunc bs=1 seek=1000000
journalctl -b >journal
"""


# As in qcowfs(1).
DROP_IN = """
[Service]
LoadCredential=luks:/etc/qcowfs/words
ExecStart=
ExecStart=/usr/bin/qcowfs -f -o ${OPTIONS},passphrase_file=%d/luks $IMAGES ${MOUNTPOINT}
"""


class Machine:
    """The results of the one start: the files written by the script, the images."""

    def __init__(self, upper, log):
        self.images, self._out, self._log = upper / "srv" / "images", upper / "srv" / "out", log

    def __getitem__(self, name):
        path = self._out / name
        assert path.exists(), f"the script did not get to {name}:\n{self._log[-4000:]}"
        text = path.read_text()
        print(f"---- {name}\n{text}")
        return text


def _settings(image, mountpoint, options):
    return f'IMAGES="/srv/images/{image}"\nMOUNTPOINT=/srv/{mountpoint}\nOPTIONS={options}\n'


def _furnish(upper):
    """Puts into @upper the parts of this machine that the host lacks."""
    system, images = upper / "etc/systemd/system", upper / "srv/images"
    for directory in (system, upper / "etc/qcowfs", upper / "usr/bin", images, upper / "srv/out"):
        directory.mkdir(parents=True)
    for name in ("atboot", "good", "broken", "disk", "user", "write", "fstab", "luks"):
        (upper / "srv" / name).mkdir()
    for name in ("disk", "user", "write", "fstab"):
        image = qemu.create(images / f"{name}.qcow2", SIZE)
        qemu.write(image, (65536, 200_000, "words", 3))
    luks = EncryptedImage(images / "luks.qcow2", SIZE)
    (images / "piece").write_bytes(content())
    qemu.img("convert", "-n", *luks.objects(), "-f", "raw", images / "piece",
             "--target-image-opts", luks.source())
    (upper / "etc/qcowfs/words").write_text(luks.secret)
    drop_in = system / "qcowfs@luks.service.d"
    drop_in.mkdir()
    (drop_in / "passphrase.conf").write_text(DROP_IN)
    (images / "broken.qcow2").write_bytes(b"QFI\xfb\0\0\0\x63" + bytes(1000))
    shutil.copy(env.qcowfs(), upper / "usr/bin/qcowfs")
    template = (UNITS / "qcowfs@.service.in").read_text().replace("@bindir@", "/usr/bin")
    (system / "qcowfs@.service").write_text(template)
    shutil.copy(UNITS / "srv-disk.mount", system)
    (system / "script.service").write_text(SCRIPT_UNIT)
    (system / "script.target").write_text(TARGET)
    (system / "emergency.service").write_text(EMERGENCY)
    (upper / "srv/script").write_text(SCRIPT)
    (upper / "etc/fstab").write_text(FSTAB)
    for name, text in (("good", _settings("disk.qcow2", "good", "ro,allow_other")),
                       ("broken", _settings("broken.qcow2", "broken", "ro")),
                       ("luks", _settings("luks.qcow2", "luks", "ro")),
                       ("write", _settings("write.qcow2", "write", "rw"))):
        (upper / f"etc/qcowfs/{name}.conf").write_text(text)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if env.sanitizer():
        pytest.skip("a sanitizer's reports would be lost in there")
    directory = Path(env.scratch_root()) / f"qcowfs-machine-{tmp_path_factory.getbasetemp().name}"
    env.need_fuse()
    upper = directory / "upper"
    upper.mkdir(parents=True)
    try:
        _furnish(upper)
        result = procs.run(*private_machine(directory), "systemd.unit=script.target",
                           limit_s=100, check=False)
        if result.status == 77 or "Welcome to" not in result.text:
            pytest.skip(f"no container that boots can be had here: {result}")
        yield Machine(upper, result.text)
    finally:
        shutil.rmtree(directory)


def content(written=b""):
    """Of a disk."""
    disk = bytearray(SIZE)
    disk[65536:65536 + 200_000] = pattern.words(65536, 200_000, 3)
    disk[1_000_000:1_000_000 + len(written)] = written
    return bytes(disk)


DIGEST = sha256(content()).hexdigest()
MOUNTED = r"^fuse\.qcowfs\s+/srv/images/disk\.qcow2\s+ro,.*allow_other"


@pytest.mark.limit(200)
def test_line_of_fstab(machine):
    told = machine["atboot"]
    assert "ActiveState=active" in told and DIGEST in told
    assert re.search(MOUNTED, told, re.M)


def test_service(machine):
    up, found, down = machine["good"].partition(DIGEST)
    assert found and "start: 0" in up and "stop: 0" in down
    assert "ActiveState=active" in up and re.search(MOUNTED, up, re.M)
    assert re.search(r"^StatusText=.*/srv/good", up, re.M)
    assert re.search(r"^MainPID=[1-9]", up, re.M)
    assert "ActiveState=inactive" in down and "Result=success" in down and "not mounted" in down


def test_encrypted(machine):
    """The passphrase comes from a file by a line of fstab, and as a credential of a service."""
    told = machine["luks"]
    assert told.count(DIGEST) == 2 and "stop: 0" in told
    assert "/luks" in told and "words" not in told


def test_killed_service(machine):
    """The rest of the mount gives errors, no other files; the next start removes it."""
    dead, found, again = machine["killed"].partition("start: 0\n")
    assert "ActiveState=failed" in dead and "Result=signal" in dead and DIGEST not in dead
    assert "not connected" in dead
    assert found and DIGEST in again and "not mounted" in again


@pytest.mark.parametrize("by", ["service", "mount"])
def test_failure_is_in_the_journal(by, machine):
    told = machine[f"broken-{by}"]
    assert "start: 1" in told and "ActiveState=failed" in told and "not mounted" in told
    assert re.search(r"broken\.qcow2: .*version.*99", told)


def test_mount_unit(machine):
    up, found, down = machine["mount-unit"].partition(DIGEST)
    assert found and "start: 0" in up and "stop: 0" in down
    assert re.search(MOUNTED, up, re.M)
    assert "ActiveState=inactive" in down and "not mounted" in down


def test_mounted_by_a_user(machine):
    told = machine["user"]
    assert "umount: 0" in told and DIGEST in told and "not mounted" in told
    assert re.search(r"^mount: 0$", told, re.M)


@pytest.mark.parametrize("name", ["service", "fstab"])
def test_shutdown(name, machine):
    """Writes are there when the machine has gone, and the image is sound."""
    machine["journal"]
    image = machine.images / f"{'write' if name == 'service' else name}.qcow2"
    qemu.img("check", image)
    assert qemu.to_raw(image, machine.images / "raw").read_bytes() == content(
        f"by-{name}\n".encode())
