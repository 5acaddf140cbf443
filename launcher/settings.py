"""All settings of a run: documented, checked, read from TOML and the command line."""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from allocation import ExchangeMode, Moves, SolverName
from lightrnn.errors import LightRNNError
from lightrnn.model import Cell


class SettingsError(LightRNNError):
    """A setting or an option is unknown, has a wrong value, or contradicts another."""


def _split_commas(value: object) -> object:
    """Turn `2,4` or `[2, 4]` from the command line into its parts."""
    return (
        [part for part in value.strip("[] ").split(",") if part]
        if isinstance(value, str)
        else value
    )


EngineName = Literal["ddp", "deepspeed"]

Epochs = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_split_commas)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _doc(default: Any, text: str) -> Any:
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True, config=_STRICT)
class DataSettings:
    """The corpus and how it is cut into batches."""

    corpus: str = _doc("", "corpus folder made by `lightrnn prepare`")
    num_lanes: PositiveInt = _doc(32, "lanes of text in the global batch, over all processes")
    bptt: PositiveInt = _doc(
        35, "for context=carried: words a lane and step; gradients reach back this far"
    )
    eval_lanes: PositiveInt = _doc(32, "lanes that a split is cut into for evaluation")
    shuffle: Literal["none", "documents"] = _doc(
        "none",
        "documents: every epoch has another order of training shards, and of rows in each shard",
    )
    context: Literal["carried", "sentence"] = _doc(
        "carried",
        "carried: a lane reads on from step to step; sentence: each row by itself, a row a lane",
    )
    verify: bool = _doc(True, "check the shards' SHA-256 before training")
    stage_dir: str = _doc(
        "",
        "folder on a disk of each host that gets copies of the shards read there; empty for none",
    )


@dataclass(frozen=True, config=_STRICT)
class TableSettings:
    """The word table that training starts from."""

    init: str = _doc(
        "random",
        "random, frequency, svd (words with like neighbours share lines), context (by a small "
        "model of the last words), or a saved table's path",
    )
    num_rows: NonNegativeInt = _doc(0, "rows; 0 for the ceiling of the vocabulary's square root")
    num_columns: NonNegativeInt = _doc(0, "columns; 0 for the same")


@dataclass(frozen=True, config=_STRICT)
class ModelSettings:
    """The network."""

    cell: Cell = _doc("lstm", "recurrent kernel")
    embedding_size: PositiveInt = _doc(200, "width of row and column input vectors")
    hidden_size: PositiveInt = _doc(200, "width of the recurrent layers")
    num_layers: PositiveInt = _doc(1, "recurrent layers")
    dropout: Probability = _doc(0.2, "on input vectors, between layers and on predicting states")
    input_dropout: Probability | None = _doc(None, "on input vectors; none for model.dropout")
    hidden_dropout: Probability | None = _doc(None, "between layers; none for model.dropout")
    output_dropout: Probability | None = _doc(None, "on predicting states; none for model.dropout")
    weight_dropout: Probability = _doc(
        0.0, "on recurrent matrices, the same for all lanes of a step"
    )
    word_dropout: Probability = _doc(
        0.0, "on a word's whole input vector, wherever a lane reads it in a step"
    )
    variational: bool = _doc(
        False, "one mask a lane and step for input vectors and states, not one for each word"
    )
    tied: bool = _doc(False, "use the input vectors as output vectors too")
    word_size: NonNegativeInt = _doc(
        0, "numbers of each word's own, read with its column and telling the words of a row apart"
    )


@dataclass(frozen=True, config=_STRICT)
class TrainSettings:
    """Optimisation."""

    epochs: PositiveFloat = _doc(8.0, "passes over the training text")
    seed: int = _doc(1, "of the first table, the first parameters and dropout")
    optimizer: Literal["adam", "adamw", "sgd"] = _doc("adam", "update rule")
    learning_rate: PositiveFloat = _doc(2e-3, "peak learning rate")
    weight_decay: NonNegativeFloat = _doc(0.0, "decay of all parameters")
    warmup_steps: NonNegativeInt = _doc(50, "steps over which the learning rate rises from zero")
    schedule: Literal["constant", "linear", "cosine"] = _doc("linear", "how the rate falls")
    decay_from: Fraction = _doc(0.5, "share of the run after which the rate falls")
    final_learning_rate: Fraction = _doc(0.02, "last rate as a share of the peak")
    clip_norm: NonNegativeFloat = _doc(1.0, "largest norm of the gradient; 0 for no bound")
    precision: Literal["auto", "float32", "bfloat16"] = _doc(
        "auto", "auto is bfloat16 autocast on GPUs that have it, float32 elsewhere"
    )
    average_decay: Probability = _doc(
        0.0,
        "share of the parameters' moving average that a step leaves; the average is what is "
        "validated and used later; 0 for none",
    )
    accumulate_steps: PositiveInt = _doc(
        1, "parts that a process takes its lanes in, one after the other, to save memory"
    )
    loss_chunk_tokens: NonNegativeInt = _doc(
        0, "words whose logits are held at a time; 0 for as many as suit the device"
    )
    engine: EngineName = _doc(
        "ddp", "ddp: every rank holds all; deepspeed: shared out by deepspeed.zero_stage"
    )
    max_skipped_steps: NonNegativeInt = _doc(
        0,
        "steps in a row that may be left out, since loss or gradient is not finite, before the "
        "run fails",
    )
    max_steps: NonNegativeInt = _doc(0, "stop with a checkpoint at this step; 0 for no stop")
    log_every_steps: PositiveInt = _doc(50, "steps between lines of the training loss")
    eval_every_epochs: PositiveFloat = _doc(1.0, "epochs between validations")


@dataclass(frozen=True, config=_STRICT)
class DeepSpeedSettings:
    """For train.engine=deepspeed."""

    zero_stage: Annotated[int, Field(ge=0, le=2)] = _doc(
        1, "0: every rank holds all; 1: a share of the optimizer; 2: of the gradient too"
    )
    config: str = _doc("", "JSON file with further settings of DeepSpeed's; empty for none")


@dataclass(frozen=True, config=_STRICT)
class AllocationSettings:
    """When and how words are moved to better cells."""

    when: Literal["epochs", "plateau", "never"] = _doc(
        "epochs", "at given epochs, when validation stops improving (the paper's rule), or never"
    )
    epochs: Epochs = _doc((2.0, 4.0), "for when=epochs: after these epochs")
    max_rounds: PositiveInt = _doc(4, "for when=plateau: most reallocations in a run")
    min_improvement: Fraction = _doc(
        0.01,
        "for when=plateau: share by which validation perplexity must fall from one to the next",
    )
    moves: Moves = _doc("all", "all: to any cell; columns: every word keeps its row")
    solver: SolverName = _doc(
        "auto", "for moves=all: auto is exact for small tables, auction for others"
    )
    stay_bonus: NonNegativeFloat = _doc(
        0.0, "nats a token that leaving a row or a column has to gain at least"
    )
    max_tries: NonNegativeInt = _doc(
        0,
        "tables tried on the validation text, each with twice the bonus, until one is no better "
        "than the last; the best is taken if it helps; 0 takes the first one untried",
    )
    tolerance: NonNegativeFloat = _doc(
        0.0, "nats a token by which a table that is tried may be worse right after the move"
    )
    time_budget_minutes: NonNegativeFloat = _doc(
        0.0, "for each solution; then the best table found counts; 0 for no bound"
    )
    tokens: NonNegativeInt = _doc(
        0, "about how many training tokens make the statistics, from the lanes' start; 0 for all"
    )
    exchange: ExchangeMode = _doc(
        "dense", "dense: all words' statistics on rank 0; sharded: an equal share on every rank"
    )
    transport: Literal["torch", "mpi"] = _doc(
        "torch",
        "what carries a reallocation's messages: torch (gloo), or mpi where that started the run",
    )
    memory_gib: NonNegativeFloat = _doc(
        0.0, "GiB a process for statistics; the rest goes to files in the run; 0 for no bound"
    )
    certificate_gib: NonNegativeFloat = _doc(
        1.0, "largest certificate kept on file for `lightrnn verify`; 0 for none"
    )
    measure_tokens: NonNegativeInt = _doc(
        1_000_000,
        "about how many tokens measure a table that is tried, and the training loss right after "
        "a move; 0 for none",
    )
    timeout_minutes: PositiveFloat = _doc(120.0, "how long ranks wait for the solver on rank 0")


@dataclass(frozen=True, config=_STRICT)
class CheckpointSettings:
    """When the whole state is written, and how many are kept."""

    every_steps: PositiveInt = _doc(
        1000, "steps between checkpoints; one precedes and one follows a reallocation too"
    )
    every_minutes: NonNegativeFloat = _doc(
        30.0, "minutes after which one is written anyway; 0 for no such time"
    )
    keep: PositiveInt = _doc(2, "newest checkpoints kept, besides the best by validation")
    keep_every_steps: NonNegativeInt = _doc(
        0, "those whose step is a multiple of this are kept too; 0 for none"
    )
    mode: Literal["sync", "async"] = _doc(
        "sync", "async: training waits only until the state is copied to the host's memory"
    )
    timeout_minutes: PositiveFloat = _doc(30.0, "how long ranks wait for each other's files")
    seconds_before_end: NonNegativeFloat = _doc(
        120.0, "in a SLURM job: stop with a checkpoint so long before its time is over; 0 for never"
    )


@dataclass(frozen=True, config=_STRICT)
class ProcessSettings:
    """How long processes wait for one of them before the run ends and names it."""

    start_timeout_minutes: PositiveFloat = _doc(
        10.0, "until the first step is taken, and for each checkpoint and report"
    )
    step_timeout_seconds: PositiveFloat = _doc(
        180.0, "in a step, and for a sign of life of a host or process wherever it is"
    )


@dataclass(frozen=True, config=_STRICT)
class MetricsSettings:
    """Where metrics go besides `metrics.jsonl` and TensorBoard."""

    wandb_project: str = _doc("", "project on Weights & Biases; empty for none")


@dataclass(frozen=True, config=_STRICT)
class Settings:
    """All settings of a run."""

    run_dir: str = _doc("", "folder of the run; starting again on it resumes")
    profile: NonNegativeInt = _doc(0, "steps whose time is looked into after the first ones")
    data: DataSettings = field(default_factory=DataSettings)
    table: TableSettings = field(default_factory=TableSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    deepspeed: DeepSpeedSettings = field(default_factory=DeepSpeedSettings)
    allocation: AllocationSettings = field(default_factory=AllocationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    processes: ProcessSettings = field(default_factory=ProcessSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


CONFIG_FILE = "config.toml"
"""Name of the resolved settings in a run directory."""

_ADAPTER = TypeAdapter(Settings)


def load_settings(arguments: Sequence[str]) -> Settings:
    """Resolve `--config FILE --run-dir DIR --section.key value ...`.

    Without `--config`, a run directory's own `config.toml` is taken where there is one.

    Raises:
        SettingsError: anything unknown, wrong, or missing; one line.
    """
    overrides = dict(_parse_options(arguments))
    config = overrides.pop("config", "")
    if not config and overrides.get("run_dir"):
        saved = Path(overrides["run_dir"]) / CONFIG_FILE
        config = str(saved) if saved.is_file() else ""
    tree = read_toml(Path(config)) if config else {}
    for name, value in overrides.items():
        _place(tree, name, value)
    settings = _validate(tree, config)
    for name in ("run_dir", "data.corpus"):
        if not _value_of(settings, name):
            option = name.replace("run_dir", "run-dir")
            raise SettingsError(f"no {name} was given, expected a folder; add --{option} DIR")
    return settings


def read_settings(path: Path) -> Settings:
    """Read the settings of a run from its `config.toml`.

    Raises:
        SettingsError: the file is missing, not TOML, or holds anything unknown or wrong.
    """
    return _validate(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SettingsError: the file is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}), expected a TOML file; change --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}; mend the file") from error


def to_toml(settings: Settings) -> str:
    """Return the settings as TOML; `load_settings` reads it back.

    The run directory is left out, so that a run can be moved, and what concerns one start only.
    """
    tree = dataclasses.asdict(settings)
    del tree["run_dir"], tree["profile"]
    return tomli_w.dumps(_without_none(tree))


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not set: TOML has no word for it."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value is not None
    }


def describe_settings() -> str:
    """Return one line a setting: option, default, meaning."""
    rows = [
        (f"--{name.replace('run_dir', 'run-dir')}", _describe_default(default), doc)
        for name, default, doc in _walk(Settings())
    ]
    width = max(len(option) for option, _, _ in rows)
    return "\n".join(f"  {option:<{width}}  {doc} [{default}]" for option, default, doc in rows)


def _describe_default(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parse_options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or option == "--":
            raise SettingsError(f"found {option!r}, expected an option such as --train.epochs 8")
        name, equals, value = option[2:].partition("=")
        if not equals:
            if not rest:
                raise SettingsError(f"option {option} has no value, expected {option} VALUE")
            value = rest.pop(0)
        yield name.replace("-", "_"), value


def _place(tree: dict[str, Any], name: str, value: str) -> None:
    known = [known_name for known_name, _, _ in _walk(Settings())]
    if name not in known:
        raise SettingsError(f"option --{name} is unknown{_suggest(name, known)}")
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{section}={tree!r}, expected a section [{section}]")
    tree[key] = value


def _validate(tree: Mapping[str, Any], source: str) -> Settings:
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        problems = error.errors()
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        place = f"in {source} or " if source else ""
        raise SettingsError(_explain(problems[0], place) + more) from None


def _explain(problem: ErrorDetails, place: str) -> str:
    name = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    if problem["type"] == "unexpected_keyword_argument":
        known = [known_name for known_name, _, _ in _walk(Settings())]
        return f"setting {name} is unknown{_suggest(name, known)}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name}={problem['input']!r}: {message}; change it {place}by --{name}"


def _suggest(name: str, known: Sequence[str]) -> str:
    section = name.partition(".")[0]
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    if near:
        return f"; did you mean {near[0]}?"
    siblings = [one for one in known if one.partition(".")[0] == section]
    if siblings:
        return f"; [{section}] has {', '.join(one.partition('.')[2] for one in siblings)}"
    sections = dict.fromkeys(one.partition(".")[0] for one in known)
    return f"; expected one of {', '.join(sections)}"


def _walk(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield every setting's dotted name, value and meaning."""
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", value, one.metadata["doc"]


def _value_of(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
