"""Errors that the person at the keyboard can mend: a sentence, not a traceback."""

from __future__ import annotations


class SayoError(Exception):
    """What is wrong, and what to do about it.

    The command line prints `label: message` as one line, the `advice` below it as it is, and leaves with `exit_status`
    (see `sayo.cli`). Errors that are not of this class are bugs, and keep their traceback.
    """

    exit_status = 2
    label = "error"
    advice = ""
