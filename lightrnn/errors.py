"""The error that every part of this package raises for input that a user can mend."""


class LightRNNError(ValueError):
    """A user's input is wrong: one line with what was found, expected, and what to change."""


class WordTableError(LightRNNError):
    """A word table is not a one-to-one placement of the vocabulary into its cells."""


class ModelError(LightRNNError):
    """A model was given sizes that do not fit together."""
