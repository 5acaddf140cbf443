"""Whatever is wrong ends every process with status 2 and one line that says what to change."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_runs import checkpoint_of, read_records, run

from data_shards import Recipe, prepare_corpus
from lightrnn import WordTable

Options = Callable[..., list[str]]
Paths = dict[str, Path]
Case = Callable[[Options, Paths], list[str]]


@pytest.fixture(scope="module")
def trained(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 12 steps, stopped after step 10."""
    folder = tmp_path_factory.mktemp("trained")
    short = tiny(folder / "run", train__epochs=0.2, train__max_steps=10)
    run("train", short, folder / "logs", 1).check(75)
    return folder / "run"


@pytest.fixture
def paths(corpus: Path, texts: Paths, trained: Path, tmp_path: Path) -> Paths:
    """Return a place for a new run, and copies of a corpus and a run that may be damaged."""
    shutil.copytree(corpus, tmp_path / "corpus")
    shutil.copytree(trained, tmp_path / "trained")
    names = ("run", "corpus", "trained", "a.toml")
    return {name: tmp_path / name for name in names} | {"texts": texts["train"].parent}


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def other_corpus(paths: Paths, **splits: list[Path]) -> Path:
    text = paths["texts"] / "valid.txt"
    given = {"train": [text], "valid": [text], "test": [], **splits}
    folder = paths["run"].with_name("other")
    prepare_corpus(given["train"], given["valid"], given["test"], folder)
    return folder


def with_config(tiny: Options, paths: Paths, text: str) -> list[str]:
    paths["a.toml"].write_text(text)
    return tiny(paths["run"], config=paths["a.toml"])


# Each case prepares what is wrong and returns the command line.


def no_such_corpus(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], data__corpus=paths["run"] / "nowhere")


def corpus_without_manifest(tiny: Options, paths: Paths) -> list[str]:
    (paths["corpus"] / "manifest.json").unlink()
    return tiny(paths["run"], data__corpus=paths["corpus"])


def no_corpus(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], data__corpus="")


def unknown_option(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], train__epoch=3)


def unknown_key(tiny: Options, paths: Paths) -> list[str]:
    return with_config(tiny, paths, "[model]\nhiden_size = 3\n")


def wrong_value(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], train__seed="seven")


def no_toml(tiny: Options, paths: Paths) -> list[str]:
    return with_config(tiny, paths, "[model\n")


def no_such_config(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], config=paths["run"] / "nowhere.toml")


def fewer_lanes_than_processes(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], data__num_lanes=1)


def more_lanes_than_words(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], data__num_lanes=100_000)


def small_table(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], table__num_rows=3, table__num_columns=4)


def unequal_tied_widths(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], model__tied="true")


def changed_corpus(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], data__corpus=other_corpus(paths))


def changed_text(tiny: Options, paths: Paths) -> list[str]:
    """Return options with a corpus of the same vocabulary and training text but another test."""
    text = {name: [paths["texts"] / f"{name}.txt"] for name in ("train", "valid")}
    folder = paths["run"].with_name("other")
    prepare_corpus(text["train"], text["valid"], text["valid"], folder, Recipe(vocab_size=250))
    return tiny(paths["trained"], data__corpus=folder)


def changed_model(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], model__hidden_size=17)


def changed_lanes(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], data__num_lanes=11)


def changed_order(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], data__shuffle="documents")


def changed_context(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], data__context="sentence")


def stage_dir_is_a_file(tiny: Options, paths: Paths) -> list[str]:
    paths["a.toml"].write_text("")
    return tiny(paths["run"], data__stage_dir=paths["a.toml"])


def damaged_shard_before_staging(tiny: Options, paths: Paths) -> list[str]:
    flip(paths["corpus"] / "train" / "00001.arrow")
    stage_dir = paths["run"].with_name("stage")
    return tiny(paths["run"], data__corpus=paths["corpus"], data__stage_dir=stage_dir)


def changed_optimizer(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], train__optimizer="sgd")


def changed_table(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["trained"], table__num_rows=20)


def damaged_shard(tiny: Options, paths: Paths) -> list[str]:
    flip(paths["corpus"] / "train" / "00001.arrow")
    return tiny(paths["run"], data__corpus=paths["corpus"])


def missing_shard(tiny: Options, paths: Paths) -> list[str]:
    (paths["corpus"] / "valid" / "00000.arrow").unlink()
    return tiny(paths["run"], data__corpus=paths["corpus"])


def missing_shard_unverified(tiny: Options, paths: Paths) -> list[str]:
    (paths["corpus"] / "train" / "00002.arrow").unlink()
    return tiny(paths["run"], data__corpus=paths["corpus"], data__verify="false")


def damaged_vocabulary(tiny: Options, paths: Paths) -> list[str]:
    flip(paths["corpus"] / "vocabulary.arrow")
    return tiny(paths["run"], data__corpus=paths["corpus"])


def damaged_manifest(tiny: Options, paths: Paths) -> list[str]:
    flip(paths["corpus"] / "manifest.json")
    return tiny(paths["run"], data__corpus=paths["corpus"])


def damaged_checkpoint(tiny: Options, paths: Paths) -> list[str]:
    flip(next(checkpoint_of(paths["trained"], 10).glob("*.distcp")))
    return tiny(paths["trained"])


def truncated_marker(tiny: Options, paths: Paths) -> list[str]:
    marker = checkpoint_of(paths["trained"], 10) / "meta.json"
    marker.write_text(marker.read_text()[:100])
    return tiny(paths["trained"])


def damaged_metrics(tiny: Options, paths: Paths) -> list[str]:
    metrics = paths["trained"] / "metrics.jsonl"
    metrics.write_text("no record\n" + metrics.read_text())
    return tiny(paths["trained"])


def table_of_other_words(tiny: Options, paths: Paths) -> list[str]:
    table = paths["run"].with_name("table.arrow")
    WordTable.random(7, 3, 3, seed=1).save(table)
    return tiny(paths["run"], table__init=table)


def no_table(tiny: Options, paths: Paths) -> list[str]:
    return tiny(paths["run"], table__init="zebra")


def damaged_table(tiny: Options, paths: Paths) -> list[str]:
    table = paths["run"].with_name("table.arrow")
    WordTable.random(250, 16, 16, seed=1).save(table)
    flip(table)
    return tiny(paths["run"], table__init=table)


def run_dir_is_a_file(tiny: Options, paths: Paths) -> list[str]:
    paths["run"].write_text("")
    return tiny(paths["run"])


def run_dir_below_a_file(tiny: Options, paths: Paths) -> list[str]:
    paths["run"].write_text("")
    return tiny(paths["run"] / "below")


def plateau_without_validation(tiny: Options, paths: Paths) -> list[str]:
    corpus = other_corpus(paths, valid=[])
    return tiny(paths["run"], data__corpus=corpus, allocation__when="plateau")


CASES: list[tuple[Case, tuple[str, ...]]] = [
    (no_such_corpus, ("nowhere is not a folder", "data.corpus")),
    (corpus_without_manifest, ("manifest.json", "data.corpus")),
    (no_corpus, ("no data.corpus was given", "--data.corpus DIR")),
    (unknown_option, ("did you mean train.epochs?",)),
    (unknown_key, ("model.hiden_size", "did you mean model.hidden_size?")),
    (wrong_value, ("train.seed='seven'", "integer", "--train.seed")),
    (no_toml, ("a.toml is not TOML", "line 1")),
    (no_such_config, ("nowhere.toml cannot be read", "--config")),
    (fewer_lanes_than_processes, ("num_lanes=1", "2 processes", "data.num_lanes")),
    (more_lanes_than_words, ("num_lanes=100000", "data.num_lanes")),
    (small_table, ("250 words do not fit", "3 x 4", "table.num_rows")),
    (unequal_tied_widths, ("embedding_size=12", "hidden_size=16", "model.tied=false")),
    (changed_corpus, ("was trained on the corpus", "data.corpus", "--run-dir")),
    (changed_text, ("was trained on the corpus", "data.corpus", "--run-dir")),
    (changed_model, ("model.hidden_size=16", "found 17", "--run-dir")),
    (changed_lanes, ("data.num_lanes=10", "found 11")),
    (changed_order, ("data.shuffle=none", "found documents")),
    (changed_context, ("data.context=carried", "found sentence")),
    (stage_dir_is_a_file, ("a.toml", "Not a directory", "change data.stage_dir")),
    (damaged_shard_before_staging, ("train/00001.arrow", "SHA-256")),
    (changed_optimizer, ("train.optimizer=adam", "found sgd")),
    (changed_table, ("table.num_rows=16", "found 20")),
    (damaged_shard, ("train/00001.arrow", "SHA-256")),
    (missing_shard, ("valid/00000.arrow", "cannot be found")),
    (missing_shard_unverified, ("train/00002.arrow", "cannot be found")),
    (damaged_vocabulary, ("vocabulary.arrow",)),
    (damaged_manifest, ("manifest.json",)),
    (damaged_checkpoint, ("none of the 1 checkpoints", ".distcp is damaged", "restore one")),
    (truncated_marker, ("none of the 1 checkpoints", "meta.json cannot be read", "--run-dir")),
    (damaged_metrics, ("metrics.jsonl has a line that is not a record",)),
    (table_of_other_words, ("table.arrow has 7 words, the corpus 250", "table.init")),
    (no_table, ("zebra",)),
    (damaged_table, ("table.arrow",)),
    (run_dir_is_a_file, ("run cannot be made", "--run-dir")),
    (run_dir_below_a_file, ("cannot be made", "--run-dir")),
    (plateau_without_validation, ("allocation.when=plateau", "no", "--valid")),
]


@pytest.mark.parametrize(("case", "parts"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_training_says_what_is_wrong(
    case: Case, parts: tuple[str, ...], tiny: Options, paths: Paths, tmp_path: Path
) -> None:
    arguments = case(tiny, paths)
    run("train", arguments, tmp_path / "logs", 2).check_one_line(*parts)


def test_an_unfinished_checkpoint_is_not_resumed_from(
    tiny: Options, paths: Paths, tmp_path: Path
) -> None:
    (checkpoint_of(paths["trained"], 10) / "meta.json").unlink()
    arguments = tiny(paths["trained"], train__epochs=0.2, train__max_steps=3)
    ended = run("train", arguments, tmp_path / "logs", 2).check(75)
    assert "resumed" not in ended.errors[0]
    assert [record["step"] for record in read_records(paths["trained"], "train")] == [1, 2, 3]


# The commands.


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ("text.txt",)),
        (b"", ("text.txt",)),
        (b"caf\xe9 au lait\n", ("text.txt", "UTF-8")),
    ],
    ids=["missing", "empty", "latin-1"],
)
def test_prepare_says_what_is_wrong(
    content: bytes | None, parts: tuple[str, ...], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    corpus = tmp_path / "corpus"
    arguments = ["prepare", "--train", str(text), "--output", str(corpus)]
    run("lightrnn", arguments, tmp_path / "logs").check_one_line(*parts)
    assert not corpus.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["evaluate", "{empty}"], ("empty has no checkpoint", "run directory")),
        (["generate", "{empty}"], ("empty has no checkpoint", "run directory")),
        (["verify", "{empty}"], ("manifest.json", "config.toml", "folder")),
        (["report", "{empty}"], ("empty",)),
        (["evaluate", "{none}"], ("none has no checkpoint",)),
        (["verify", "{none}"], ("none has neither",)),
        (["report", "{none}"], ("none",)),
        (["evaluate", "{run}", "--checkpoint", "step-7"], ("step-7", "step-00000010")),
        (["generate", "{run}", "--checkpoint", "newest"], ("newest", "latest, best")),
        (["evaluate", "{run}", "--split", "dev"], ("'dev'", "'train', 'valid', 'test'")),
        (["evaluate", "{run}", "--corpus", "{none}"], ("none is not a folder",)),
        (["evaluate", "{run}", "--corpus", "{other}"], ("was trained on", "--corpus")),
        (["generate", "{run}", "--temperature", "0"], ("temperature=0", "--temperature")),
        (["generate", "{run}", "--num-words", "many"], ("--num-words", "many")),
        (["generate", "{run}", "--num-words", "-3"], ("--num-words", "-3", "from 0 on")),
        (["generate", "{run}", "--seed", "-1"], ("--seed", "-1", "from 0 on")),
        (["evaluate"], ("RUN",)),
        (["zebra"], ("'zebra'", "prepare")),
        ([], ("COMMAND",)),
        (["prepare", "--output", "x"], ("--train",)),
        (["verify", "{run}", "--zebra"], ("--zebra",)),
        (["train", "--run-dir", "x"], ("no data.corpus was given",)),
        (["train", "--nproc-per-node", "two"], ("nproc-per-node", "two")),
        (["train", "--nproc-per-node", "2", "--train.epoch", "3"], ("train.epochs?",)),
        (["train", "--nproc-per-node", "0"], ("--nproc-per-node 0",)),
    ],
    ids=lambda value: "-".join(value).replace("{", "").replace("}", "") or "nothing",
)
def test_commands_say_what_is_wrong(
    arguments: list[str], parts: tuple[str, ...], paths: Paths, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "{empty}": tmp_path / "empty",
        "{none}": tmp_path / "none",
        "{run}": paths["trained"],
        "{other}": other_corpus(paths) if "{other}" in arguments else None,
    }
    filled = [str(places.get(part, part)) for part in arguments]
    run("lightrnn", filled, tmp_path / "logs").check_one_line(*parts)


def test_a_split_that_the_corpus_does_not_have(tiny: Options, paths: Paths, tmp_path: Path) -> None:
    corpus = other_corpus(paths)
    small = tiny(
        paths["run"], data__corpus=corpus, data__num_lanes=4, train__max_steps=1, train__epochs=1
    )
    run("train", small, tmp_path / "logs", 1).check(75)
    command = ["evaluate", str(paths["run"]), "--split", "test"]
    run("lightrnn", command, tmp_path / "logs").check_one_line("no split 'test'", "train, valid")


@pytest.mark.parametrize(
    "damage",
    ["tables/table-0000.arrow", "vocabulary.arrow", "config.toml", "metrics.jsonl", "checkpoints"],
)
def test_verify_finds_damage(damage: str, paths: Paths, tmp_path: Path) -> None:
    run_dir = paths["trained"]
    if damage == "config.toml":
        (run_dir / damage).write_text("[data]\nlanes = 3\n")
    elif damage == "metrics.jsonl":
        with (run_dir / damage).open("a") as metrics:
            metrics.write('{"event": "train"}\n')
    elif damage == "checkpoints":
        flip(next(checkpoint_of(run_dir, 10).glob("*.distcp")))
    else:
        flip(run_dir / damage)
    command = ["verify", str(run_dir)]
    ended = run("lightrnn", command, tmp_path / "logs").check(2)
    assert "Traceback" not in ended.errors[0]
    assert ended.errors[0].splitlines()[-1].startswith("error: ")


def test_verify_finds_another_table_than_the_checkpoint_s(paths: Paths, tmp_path: Path) -> None:
    WordTable.random(250, 16, 16, seed=9).save(paths["trained"] / "tables" / "table-0000.arrow")
    ended = run("lightrnn", ["verify", str(paths["trained"])], tmp_path / "logs").check(2)
    assert "holds another table 0" in ended.errors[0]


@pytest.mark.parametrize("path", ["train/00001.arrow", "vocabulary.arrow", "manifest.json"])
def test_verify_finds_damage_of_a_corpus(path: str, paths: Paths, tmp_path: Path) -> None:
    command = ["verify", str(paths["corpus"])]
    run("lightrnn", command, tmp_path / "logs").check()
    flip(paths["corpus"] / path)
    ended = run("lightrnn", command, tmp_path / "logs").check(2)
    assert "Traceback" not in ended.errors[0]
    assert path in ended.errors[0].splitlines()[-1]
