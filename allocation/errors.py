"""The error that the reallocation phase raises for what a user can mend."""

from lightrnn.errors import LightRNNError


class AllocationError(LightRNNError):
    """A reallocation cannot go on; the message says what was found, expected, and to be changed."""
