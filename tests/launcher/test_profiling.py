"""Where a step's time goes, and what a word costs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from launcher_runs import STOPPED, read_records, run
from torch.utils.flop_counter import FlopCounterMode

from launcher.flops import measured_flops_per_second, training_flops_per_word
from launcher.profiling import _alone
from lightrnn import LightRNN, ModelShape, WordTable
from lightrnn.model import Cell

Options = Callable[..., list[str]]


def test_a_profile_is_a_trace_and_shares_of_a_step(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, profile=3, train__max_steps=12, model__hidden_size=64)
    told = run("train", arguments, tmp_path / "logs", 2).check(STOPPED).errors[0]
    (record,) = read_records(run_dir, "profile")
    # Five steps warm up, three are profiled.
    assert record["step"] == 8
    shares = record["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0
    for kind in ("recurrent kernel", "matrix products", "softmax", "optimizer", "communication"):
        assert shares[kind] > 0, kind
        assert f"  {kind}" in told
    for rank in range(2):
        content = json.loads((run_dir / "profile" / f"rank-{rank:05d}.json").read_text())
        names = {event["name"] for event in content["traceEvents"]}
        assert any(name.startswith("aten::mkldnn_rnn_layer") for name in names)
    assert "profile" not in (run_dir / "config.toml").read_text()
    assert "floating-point operations a word" in told
    assert "| MFU " in told


def test_a_run_that_ends_before_its_profile_is_none(tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", profile=30, train__max_steps=7)
    run("train", arguments, tmp_path / "logs", 1).check(STOPPED)
    assert not read_records(tmp_path / "run", "profile")


@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("num_layers", [1, 2])
def test_operations_are_those_of_the_matrix_products(cell: Cell, num_layers: int) -> None:
    shape = ModelShape(5, 7, embedding_size=8, hidden_size=12, num_layers=num_layers, cell=cell)
    model = LightRNN(shape, 30)
    model.set_table(WordTable.random(30, 5, 7, 1))
    words = torch.randint(0, 30, (4, 6))
    counter = FlopCounterMode(display=False)
    with torch.backends.mkldnn.flags(enabled=False), torch.no_grad(), counter:
        model(words, words, model.initial_state(4))
    assert training_flops_per_word(shape) == 3 * counter.get_total_flops() / words.numel()


def test_a_ceiling_is_measured() -> None:
    state = torch.get_rng_state()
    assert measured_flops_per_second(torch.device("cpu"), bfloat16=False) > 1e8
    assert torch.equal(torch.get_rng_state(), state)


def test_messages_count_only_while_nothing_else_goes_on() -> None:
    messages = [(0.0, 10.0), (5.0, 12.0), (20.0, 21.0)]
    assert _alone(messages, []) == 13
    assert _alone(messages, [(2.0, 4.0), (3.0, 11.0), (19.0, 30.0)]) == 3
    assert _alone([], messages) == 0
