"""The one exception that a user's mistake becomes."""


class UserError(Exception):
    """A mistake that the user can mend: one sentence that names the place and the mend.

    The command line prints the sentence and exits with code 2; a traceback is never shown for it. Anything else that
    escapes is a defect of this project and keeps its traceback.
    """
