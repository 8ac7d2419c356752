"""What can be wrong with a file that another program wrote. No torch here."""

from __future__ import annotations

from py_authoring.errors import AuthoringError


class ForeignFileError(AuthoringError, ValueError):
    """A file from elsewhere is damaged, cut off, or of another kind than its name says."""

    kind = "invalid_input"
    exit_code = 2
