"""Errors that the person at the keyboard can mend: a sentence, not a traceback."""


class SayoError(Exception):
    """What is wrong, and what to do about it.

    The command line prints `label: message` as one line, the `advice` below it as it is, and leaves with `exit_status`
    (see `sayo.cli`). Errors that are not of this class are bugs, and keep their traceback.
    """

    exit_status = 2
    label = "error"
    advice = ""


class RejectedError(Exception):
    """One row of data cannot be used.

    Args:
        reason: the short name under which such rows are counted, e.g. `"missing_image"`.
        detail: what is wrong, with enough to find the row again.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
