"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Something the user can mend: the message says where, what was expected, what was found and what to do."""
