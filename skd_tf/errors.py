"""The one exception for bad input: a single line that says what, expected, received, what to do."""


class InputError(ValueError):
    """Bad input from the user; entry points print its one line and exit with code 2, without a traceback.

    The message reads "<what is wrong>. Expected <...>. Received <name>=<value>. <what to do>."
    """


class OfTheMachine(InputError):
    """What a disk, a memory or a file lacks now, and no setting: once it is there, the same command goes on."""


class Diverged(InputError):
    """Training whose loss is no number any more: with these settings, and so an error of input too."""
