"""Errors that speak to the user."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file, row or field and how to mend it.

    The command line prints it as one line and exits with status 2.
    """
