"""Training, evaluation and everything around a run: settings, processes, checkpoints, reports."""
