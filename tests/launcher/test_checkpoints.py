"""Checkpoints: whole when read back, dropped when old, refused when damaged or malicious."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher_runs import checkpoint_steps
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.checkpoints import (
    CheckpointError,
    Saver,
    best_checkpoint,
    checkpoint_name,
    choose_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_model,
    read_meta,
    take_snapshot,
    verify_checkpoint,
)
from launcher.checkpoints.safe_reader import SafeReader
from launcher.engines import DDPEngine
from launcher.processes import Processes, joined_processes
from launcher.rounds import Rounds
from launcher.run_dir import RunDirectory, RunError
from launcher.settings import CheckpointSettings, TrainSettings
from launcher.state import TrainingState
from lightrnn import LightRNN, LightRNNError, ModelShape, WordTable

NUM_WORDS = 11
LANES = range(0, 3)
KEEP_ALL = CheckpointSettings(keep=9)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined_processes() as alone:
        yield alone


def some_state(seed: int, *, cell: str = "lstm", optimizer: str = "adam") -> TrainingState:
    """Return a state whose tensors are all drawn by chance, after three optimizer steps."""
    torch.manual_seed(seed)
    shape = ModelShape(3, 4, embedding_size=6, hidden_size=6, num_layers=2, cell=cell, tied=True)  # type: ignore[arg-type]
    model = LightRNN(shape, NUM_WORDS)
    settings = TrainSettings(optimizer=optimizer, clip_norm=0)  # type: ignore[arg-type]
    engine = DDPEngine(model, settings, world_size=1)
    state = TrainingState(model, engine, WordTable.random(NUM_WORDS, 3, 4, seed), LANES)
    state.lane_state = torch.randn_like(state.lane_state)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        engine.step(rate=0.1)
    state.table_version, state.step = seed, 10 * seed
    state.rounds = Rounds(done=seed, last_perplexity=12.5)
    state.valid_perplexity = 100.0 / seed
    return state


def write(
    run: RunDirectory,
    state: TrainingState,
    processes: Processes,
    settings: CheckpointSettings = KEEP_ALL,
) -> Path:
    snapshot = take_snapshot(
        state,
        loader={"corpus_fingerprint": "abc", "epoch": 1, "step": 2, "num_lanes": 3},
        fixed={"train.seed": 1},
    )
    with Saver(run, settings, processes.group, processes.device) as saver:
        saver.save(snapshot)
    return run.checkpoints / checkpoint_name(state.step, reallocation_due=state.rounds.due)


def tensors_of(state: TrainingState) -> dict[str, torch.Tensor]:
    return state.engine.tensors() | {"lane_state": state.lane_state}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_everything_is_read_back_as_it_was(
    tmp_path: Path, processes: Processes, cell: str, optimizer: str
) -> None:
    run = RunDirectory(tmp_path)
    saved = some_state(2, cell=cell, optimizer=optimizer)
    random_state = torch.get_rng_state()
    checkpoint = write(run, saved, processes)

    loaded = some_state(5, cell=cell, optimizer=optimizer)
    load_checkpoint(checkpoint, verify_checkpoint(checkpoint), loaded)

    expected, found = tensors_of(saved), tensors_of(loaded)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert any(name.endswith("exp_avg_sq") for name in found) == (optimizer == "adam")
    assert loaded.table == saved.table
    assert loaded.model.row_of_word.tolist() == saved.table.row_of_word.tolist()
    for name in ("step", "table_version", "rounds", "valid_perplexity"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert torch.equal(torch.get_rng_state(), random_state)


def test_an_optimizer_without_steps_is_read_back(tmp_path: Path, processes: Processes) -> None:
    saved = some_state(2)
    saved.optimizer = torch.optim.Adam(saved.model.parameters())
    checkpoint = write(RunDirectory(tmp_path), saved, processes)
    loaded = some_state(5)
    loaded.optimizer = torch.optim.Adam(loaded.model.parameters())
    load_checkpoint(checkpoint, read_meta(checkpoint), loaded)
    assert torch.equal(loaded.lane_state, saved.lane_state)


def test_the_model_alone(tmp_path: Path, processes: Processes) -> None:
    saved = some_state(2)
    checkpoint = write(RunDirectory(tmp_path), saved, processes)
    model = some_state(5).model
    table = load_model(checkpoint, read_meta(checkpoint), model)
    assert table == saved.table
    assert model.column_of_word.tolist() == saved.table.column_of_word.tolist()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, saved.model.get_parameter(name)), name


def test_a_model_of_another_size_is_refused(tmp_path: Path, processes: Processes) -> None:
    checkpoint = write(RunDirectory(tmp_path), some_state(2), processes)
    other = LightRNN(ModelShape(3, 4, 7, 7, 2), NUM_WORDS)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(checkpoint, read_meta(checkpoint), other)


def test_the_newest_and_the_best_are_kept(tmp_path: Path, processes: Processes) -> None:
    run = RunDirectory(tmp_path)
    perplexities = {1: 90.0, 2: 50.0, 3: 70.0, 4: 0.0, 5: 60.0, 6: 0.0}
    kept = []
    for step, perplexity in perplexities.items():
        state = some_state(2)
        state.step, state.valid_perplexity = step, perplexity
        write(run, state, processes, CheckpointSettings(keep=2))
        kept.append(checkpoint_steps(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6]]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "latest",
        *(f"step-{step:08d}" for step in (2, 5, 6)),
    ]
    best = best_checkpoint(list_checkpoints(run))
    assert best == run.checkpoints / "step-00000002"
    assert choose_checkpoint(run, "best") == best
    assert choose_checkpoint(run, "latest").name == "step-00000006"
    assert choose_checkpoint(run, "step-00000005").name == "step-00000005"
    with pytest.raises(RunError, match="step-00000002, step-00000005, step-00000006"):
        choose_checkpoint(run, "step-3")


def test_every_nth_is_kept_too(tmp_path: Path, processes: Processes) -> None:
    run = RunDirectory(tmp_path)
    settings = CheckpointSettings(keep=1, keep_every_steps=4)
    for step in range(2, 12, 2):
        state = some_state(2)
        state.step, state.valid_perplexity = step, 0.0
        write(run, state, processes, settings)
    assert checkpoint_steps(tmp_path) == [4, 8, 10]


def test_what_was_before_a_reallocation_is_kept_until_it_is_over(
    tmp_path: Path, processes: Processes
) -> None:
    run, settings = RunDirectory(tmp_path), CheckpointSettings(keep=2)
    states = [some_state(2), some_state(2), some_state(2)]
    states[0].step = 10
    states[1].rounds = states[1].rounds.before_reallocation()
    names = []
    for state in states:
        state.valid_perplexity = 0.0
        newest = write(run, state, processes, settings)
        assert (run.checkpoints / "latest").read_text() == f"{newest.name}\n"
        names.append([path.name for path in list_checkpoints(run)])
    first, before, after = "step-00000010", "before-reallocation-00000020", "step-00000020"
    assert names == [[first], [first, before], [first, after]]


def test_two_runs_in_one_directory_are_told(tmp_path: Path, processes: Processes) -> None:
    run = RunDirectory(tmp_path)
    write(run, some_state(2), processes)
    with pytest.raises(LightRNNError, match="is there already"):
        write(run, some_state(2), processes)
    verify_checkpoint(run.checkpoints / "step-00000020")


def test_the_best_of_none_measured_is_the_newest(tmp_path: Path, processes: Processes) -> None:
    run = RunDirectory(tmp_path)
    for step in (1, 2):
        state = some_state(2)
        state.step, state.valid_perplexity = step, 0.0
        write(run, state, processes, CheckpointSettings(keep=1))
    assert checkpoint_steps(tmp_path) == [2]
    assert choose_checkpoint(run, "best").name == "step-00000002"


def test_a_folder_without_its_marker_is_no_checkpoint(tmp_path: Path, processes: Processes) -> None:
    run = RunDirectory(tmp_path)
    checkpoint = write(run, some_state(2), processes)
    unfinished = run.checkpoints / "step-00000099"
    shutil.copytree(checkpoint, unfinished)
    (unfinished / "meta.json").unlink()
    shutil.copytree(checkpoint, run.checkpoints / ".step-00000098.tmp")
    assert list_checkpoints(run) == [checkpoint]
    with pytest.raises(RunError, match="no checkpoint"):
        choose_checkpoint(RunDirectory(tmp_path / "elsewhere"), "latest")


def test_a_temporary_folder_left_by_a_crash_is_replaced(
    tmp_path: Path, processes: Processes
) -> None:
    run = RunDirectory(tmp_path)
    left = run.checkpoints / ".step-00000020.tmp"
    (left / "rng").mkdir(parents=True)
    (left / "__7_0.distcp").write_bytes(b"half")
    checkpoint = write(run, some_state(2), processes)
    assert not left.exists()
    assert "__7_0.distcp" not in verify_checkpoint(checkpoint).files


def test_every_damage_is_found(tmp_path: Path, processes: Processes) -> None:
    whole = write(RunDirectory(tmp_path), some_state(2), processes)
    names = sorted(verify_checkpoint(whole).files)
    assert {Path(name).suffix for name in names} == {"", ".distcp", ".safetensors"}
    for name in names:
        for damage in ("flipped", "truncated", "missing"):
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            path = copy / name
            content = bytearray(path.read_bytes())
            if damage == "flipped":
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
            elif damage == "truncated":
                path.write_bytes(content[:-1])
            else:
                path.unlink()
            expected = "is missing" if damage == "missing" else "is damaged"
            with pytest.raises(CheckpointError, match=expected) as caught:
                verify_checkpoint(copy)
            assert name in str(caught.value)
            shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: "", "cannot be read"),
        (lambda text: "[]", "no format version"),
        (lambda text: text.replace('"format_version": 2', '"format_version": 3'), "version 3"),
        (lambda text: text.replace('"step"', '"stop"', 1), "damaged"),
        (lambda text: "\xff", "cannot be read"),
    ],
)
def test_a_damaged_marker_is_told(
    tmp_path: Path, processes: Processes, change: Any, expected: str
) -> None:
    checkpoint = write(RunDirectory(tmp_path), some_state(2), processes)
    path = checkpoint / "meta.json"
    path.write_bytes(change(path.read_text()).encode("latin-1"))
    with pytest.raises(CheckpointError, match=expected):
        verify_checkpoint(checkpoint)


def test_a_table_that_is_not_the_marker_s_is_refused(tmp_path: Path, processes: Processes) -> None:
    checkpoint = write(RunDirectory(tmp_path), some_state(2), processes)
    path = checkpoint / "meta.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "table_fingerprint": "0" * 64}))
    with pytest.raises(CheckpointError, match="does not match its fingerprint"):
        load_model(checkpoint, read_meta(checkpoint), some_state(5).model)


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_malicious_index_runs_nothing(tmp_path: Path, processes: Processes) -> None:
    checkpoint = write(RunDirectory(tmp_path), some_state(2), processes)
    trace = tmp_path / "trace"
    content = pickle.dumps(Malicious(f"touch {trace}"))
    (checkpoint / ".metadata").write_bytes(content)

    with pytest.raises(pickle.UnpicklingError, match="system"):
        SafeReader(checkpoint).read_metadata()
    with pytest.raises(CheckpointError, match="damaged"):
        verify_checkpoint(checkpoint)
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # so it would have run


@pytest.mark.parametrize("name", ["builtins.eval", "torch.load", "torch.hub.load", "os.system"])
def test_an_index_may_name_records_only(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    (tmp_path / ".metadata").write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(pickle.UnpicklingError, match="which no index needs"):
        SafeReader(tmp_path).read_metadata()


def test_a_malicious_index_under_a_right_checksum_is_told(
    tmp_path: Path, processes: Processes
) -> None:
    checkpoint = write(RunDirectory(tmp_path), some_state(2), processes)
    trace = tmp_path / "trace"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Malicious(f"touch {trace}")))
    state = some_state(5)
    for read in (
        lambda: load_checkpoint(checkpoint, read_meta(checkpoint), state),
        lambda: load_model(checkpoint, read_meta(checkpoint), state.model),
    ):
        with pytest.raises(CheckpointError):
            read()
    assert not trace.exists()


def test_an_index_of_more_than_tensors_is_refused(tmp_path: Path, processes: Processes) -> None:
    save({"tensor": torch.ones(2), "bytes": "text"}, checkpoint_id=str(tmp_path))
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        SafeReader(tmp_path).read_metadata()


def test_an_entry_that_is_no_tensor_s_is_refused(tmp_path: Path) -> None:
    index = Metadata(state_dict_metadata={"lanes": MetadataIndex("lanes")})  # type: ignore[dict-item]
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match="lanes is not a tensor"):
        SafeReader(tmp_path).read_metadata()


def test_an_index_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": {}}))
    with pytest.raises(ValueError, match="expected Metadata"):
        SafeReader(tmp_path).read_metadata()
