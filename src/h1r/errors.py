"""The one exception that a user's mistake becomes, and those of an engine that died and of training that ends before
its end."""


class UserError(Exception):
    """A mistake that the user can mend: one sentence that names the place and the mend.

    The command line prints the sentence and exits with code 2; a traceback is never shown for it. Anything else that
    escapes is a defect of this project and keeps its traceback.
    """

    exit_code = 2


class EngineLostError(UserError):
    """An engine that runs in a process of its own, which has died: this one samples nothing any more."""


class StoppedEarlyError(UserError):
    """Training that was asked to end (SIGTERM, a time limit) and has saved where it is. The exit code is EX_TEMPFAIL of
    sysexits.h: the same command with --resume goes on."""

    exit_code = 75
