"""The LightRNN model and its word table; knows nothing of processes or of where files lie."""
