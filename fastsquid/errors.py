"""The one kind of error a user is meant to read: one sentence of what was wrong, where, and what would be right."""


class UserError(ValueError):
    """Bad input. Commands print it as one line and exit with code 2; from Python it is a ValueError."""


class DivergedError(UserError):
    """A detector that gives scores which are not finite."""


class CheckpointError(UserError):
    """A run folder or checkpoint that is missing, damaged or of another configuration."""
