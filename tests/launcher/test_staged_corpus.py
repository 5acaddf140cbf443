"""Each host's own copies: who makes them, of which shards, and that reads go to them."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed import run_distributed
from launcher_runs import log_opened_shards, measured, read_records, run

from data_shards import Corpus, lane_slice
from launcher.batches import training_batches
from launcher.processes import Processes
from launcher.settings import Settings, load_settings
from launcher.setup import cut_batches
from launcher.staging import stage_corpus
from launcher.watch import Limits, Watch
from launcher.watch.places import Position

Options = Callable[..., list[str]]
PLAIN = {"data__num_lanes": 12, "data__eval_lanes": 4}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def shards_of(corpus: Corpus, settings: Settings, ranks: range, world_size: int) -> set[str]:
    return {
        shard.file
        for rank in ranks
        for shard in cut_batches(corpus, settings, rank, world_size).shards()
    }


@pytest.mark.parametrize("shuffle", ["none", "documents"])
def test_every_host_copies_what_its_ranks_read(
    shuffle: str, tiny: Options, corpus: Path, tmp_path: Path
) -> None:
    """Four ranks on two hosts, told apart by their names; each host has a disk of its own."""
    arguments = tiny(tmp_path / "run", **PLAIN, data__shuffle=shuffle)
    opened = Corpus.open(corpus)

    def stage() -> list[int]:
        assert dist.group.WORLD is not None
        rank = dist.get_rank()
        host, local_rank = divmod(rank, 2)
        socket.gethostname = lambda: f"node{'x' * host}"
        settings = load_settings([*arguments, "--data.stage_dir", str(tmp_path / f"disk-{host}")])
        position = Position(rank, socket.gethostname(), Limits(60, 60))
        watch = Watch(position, None, lambda seconds: None)
        place = Processes(rank, local_rank, 4, torch.device("cpu"), dist.group.WORLD, watch)
        staged = stage_corpus(opened, settings, place)
        read = training_batches(staged, settings, rank, 4)
        return [int(read.batch(step).targets.sum()) for step in range(read.num_steps)]

    sums = run_distributed(stage, 4)
    settings = load_settings(arguments)
    for rank in range(4):
        batches = training_batches(opened, settings, rank, 4)
        expected = [int(batches.batch(step).targets.sum()) for step in range(batches.num_steps)]
        assert sums[rank] == expected
    for host, ranks in enumerate((range(2), range(2, 4))):
        disk = tmp_path / f"disk-{host}"
        copied = files_in(disk)
        needed = shards_of(opened, settings, ranks, 4)
        assert copied == {f"{opened.fingerprint}/{file}" for file in needed}
        train = {file for file in needed if file.startswith("train/")}
        assert len(train) == (2 if shuffle == "none" else 3)


def test_reads_go_to_the_copies_and_to_no_shard_of_others(
    tiny: Options, corpus: Path, tmp_path: Path
) -> None:
    """Two ranks on this host, run to the end, and started again with a damaged copy."""
    stage_dir = tmp_path / "disk"
    shared = {**PLAIN, "train__epochs": 0.3, "allocation__epochs": 0.1}
    plain, staged = tmp_path / "plain", tmp_path / "staged"
    run("train", tiny(plain, **shared), tmp_path / "logs-plain", 2).check()

    opened = Corpus.open(corpus)
    arguments = tiny(staged, **shared, data__stage_dir=stage_dir)
    settings = load_settings(arguments)
    folder = stage_dir / opened.fingerprint
    logs = [tmp_path / f"opened-{rank}" for rank in range(2)]
    hooks = {rank: log_opened_shards(log) for rank, log in enumerate(logs)}
    no_checks = [*arguments, "--data.verify", "false"]
    told = run("train", no_checks, tmp_path / "logs", 2, hooks).check().errors[0]
    assert f"5 shards under this host's lanes lie in {folder}" in told
    assert measured(staged, "train", "valid", "end") == measured(plain, "train", "valid", "end")
    assert files_in(folder) == shards_of(opened, settings, range(2), 2)
    for rank, log in enumerate(logs):
        paths = log.read_text().split()
        wanted = {folder / file for file in shards_of(opened, settings, range(rank, rank + 1), 2)}
        assert {Path(path) for path in paths} == wanted
        # An object for each split, which opens a shard once.
        assert len(paths) == len(wanted)

    victim = next(folder.glob("train/*.arrow"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    run("train", [*arguments, "--train.epochs", "0.4"], tmp_path / "again", 2).check()
    assert victim.read_bytes() == (corpus / "train" / victim.name).read_bytes()
    assert read_records(staged, "end")[-1]["epoch"] == pytest.approx(0.4, abs=0.02)


def test_shards_under_the_lanes_are_few(corpus: Path) -> None:
    """So that the tests above can tell a rank's own shards from those of others."""
    tokens = Corpus.open(corpus).split("train")
    assert len(tokens.shards) == 3
    assert lane_slice(12, 0, 4) == range(3)
    assert len(tokens.shards_between(-1, 3000)) == 2
    assert len(tokens.shards_between(4500, 6000)) == 1
