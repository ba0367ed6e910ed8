"""Errors that speak to the user, and text of other people where it is shown to them."""

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with what a terminal would obey, and what turns the direction of writing, as escapes: "\\x1b[31m".

    Line ends and tabs stay.
    """
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file, row or field and how to mend it.

    The command line prints it as one line and exits with status 2.
    """
