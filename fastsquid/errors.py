"""The one kind of error a user is meant to read: one sentence of what was wrong, where, and what would be right."""


class UserError(ValueError):
    """Bad input. Commands print it as one line and exit with code 2; from Python it is a ValueError."""
