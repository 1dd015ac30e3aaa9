# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns signals that end the benchmark into exceptions at a safe place."""

import contextlib
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_held = False
_pending = None


def _on_signal(number, _frame):
    global _pending
    if _held:
        _pending = number
    else:
        raise KeyboardInterrupt(signal.Signals(number).name)


def install():
    """From now on each of the signals raises KeyboardInterrupt."""
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def ignore():
    """From now on the signals have no effect: for the cleaning up."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held():
    """A signal takes effect only after the body, which thus runs as a whole."""
    global _held, _pending
    _held = True
    try:
        yield
    finally:
        _held = False
    if _pending is not None:
        number, _pending = _pending, None
        _on_signal(number, None)
