"""What goes wrong with a corpus."""


class CorpusError(ValueError):
    """A text, a corpus folder or an argument cannot be used as it is.

    The message is always one line: what was found, what was expected, which option to change.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
