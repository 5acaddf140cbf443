"""The LightRNN model and its word table; knows nothing of processes or of where files lie."""

from lightrnn.errors import LightRNNError, ModelError, WordTableError
from lightrnn.model import LightRNN, ModelShape, WordLosses
from lightrnn.perplexity import Losses, perplexity_of, sum_losses, word_losses
from lightrnn.sampling import next_word_log_probabilities, sample_words
from lightrnn.table import WordTable, default_shape

__all__ = [
    "LightRNN",
    "LightRNNError",
    "Losses",
    "ModelError",
    "ModelShape",
    "WordLosses",
    "WordTable",
    "WordTableError",
    "default_shape",
    "next_word_log_probabilities",
    "perplexity_of",
    "sample_words",
    "sum_losses",
    "word_losses",
]
