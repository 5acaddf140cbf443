"""Mixtures take the share that suits the validation text, and no other text has a say in it."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality


def test_a_mixture_takes_the_share_that_suits_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    network = {split: random.uniform(0.01, 0.5, 500) for split in ("valid", "test")}
    # The n-grams are better on the test text, worse on the validation text.
    ngrams = {"valid": network["valid"] / 3, "test": network["test"] * 2}

    def evaluate(command: str, run: Path, flag: str, split: str, words: str, path: Path) -> None:
        assert (command, run, flag, words) == ("evaluate", tmp_path, "--split", "--words")
        lines = [f"word\t{value:.9f}\t0\t0" for value in np.log(network[split])]
        path.write_text("\n".join(["word\tlog_probability\trow\tcolumn", *lines]) + "\n")

    monkeypatch.setattr(quality, "run_cli", evaluate)
    log_probabilities = {split: np.log(one) for split, one in ngrams.items()}
    valid, test = quality.mixed(tmp_path, log_probabilities)
    for split, found in (("valid", valid), ("test", test)):
        mixture = 0.95 * network[split] + 0.05 * ngrams[split]
        assert found == pytest.approx(np.exp(-np.log(mixture).mean()), rel=1e-6)
