"""Settings: what wins over what, what is refused and how it says so."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.settings import (
    Settings,
    SettingsError,
    describe_settings,
    load_settings,
    read_settings,
    to_toml,
)
from launcher.setup import dropout_rates
from lightrnn.dropout import DropoutRates

NEEDED = ["--run-dir", "runs/a", "--data.corpus", "corpora/a"]


def settings_of(part: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    config = write(
        tmp_path / "a.toml", "[train]\nepochs = 3\nseed = 7\n[data]\ncorpus = 'corpora/file'\n"
    )
    settings = load_settings(
        ["--config", config, "--train.epochs=5", "--run-dir", "runs/a", "--data.bptt", "20"]
    )
    assert settings.train.epochs == 5
    assert settings.train.seed == 7
    assert settings.data.corpus == "corpora/file"
    assert settings.data.bptt == 20
    assert settings.train.optimizer == "adam"


def test_dashes_and_underscores_name_the_same_option() -> None:
    dashes = load_settings([*NEEDED, "--train.learning-rate", "0.5"])
    underscores = load_settings([*NEEDED, "--train.learning_rate", "0.5"])
    assert dashes == underscores
    assert dashes.train.learning_rate == 0.5


def test_the_last_of_two_options_wins() -> None:
    assert load_settings([*NEEDED, "--data.bptt", "1", "--data.bptt", "2"]).data.bptt == 2


def test_written_settings_are_read_back_alike(tmp_path: Path) -> None:
    changed = [
        *("--train.epochs", "2.5", "--train.precision", "bfloat16", "--allocation.epochs", "1,2.5"),
        *("--model.tied", "true", "--model.cell", "gru", "--data.verify", "false"),
        *("--table.init", 'a "b" \\c.arrow', "--train.learning_rate", "1e-7"),
    ]
    settings = load_settings([*NEEDED, *changed])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(settings))
    assert read_settings(path) == dataclasses.replace(settings, run_dir="")
    assert load_settings(["--config", str(path), "--run-dir", "runs/a"]) == settings


def test_a_run_s_own_settings_are_taken_where_no_config_is_given(tmp_path: Path) -> None:
    first = load_settings([*NEEDED[2:], "--run-dir", str(tmp_path), "--data.bptt", "11"])
    (tmp_path / "config.toml").write_text(to_toml(first))
    assert load_settings(["--run-dir", str(tmp_path)]) == first
    again = load_settings(["--run-dir", str(tmp_path), "--train.epochs", "9"])
    assert (again.data.bptt, again.train.epochs) == (11, 9)
    config = write(tmp_path / "other.toml", "[data]\ncorpus = 'c'\n")
    assert load_settings(["--run-dir", str(tmp_path), "--config", config]).data.bptt == 35


def test_every_setting_is_described_with_its_default() -> None:
    lines = describe_settings().splitlines()
    described = {}
    for line in lines:
        option, text, default = re.fullmatch(r"  --(\S+) +(\S.*) \[(.*)\]", line).groups()  # type: ignore[union-attr]
        described[option] = (text, default)
    names = dict(settings_of(Settings()))
    assert described.keys() == {name.replace("run_dir", "run-dir") for name in names}
    assert described["allocation.epochs"][1] == "2,4"
    assert described["train.learning_rate"][1] == "0.002"
    assert described["data.verify"][1] == "true"
    assert min(len(text) for text, _ in described.values()) > 10


@pytest.mark.parametrize(
    ("text", "epochs"),
    [("2,4", (2, 4)), ("[1.5, 3]", (1.5, 3)), ("7", (7,)), ("0.5,", (0.5,)), ("[]", ())],
)
def test_lists_of_epochs(text: str, epochs: tuple[float, ...]) -> None:
    assert load_settings([*NEEDED, "--allocation.epochs", text]).allocation.epochs == epochs


def test_lists_of_epochs_in_a_file(tmp_path: Path) -> None:
    config = write(tmp_path / "a.toml", "[allocation]\nepochs = [1, 2.5]\n")
    assert load_settings([*NEEDED, "--config", config]).allocation.epochs == (1.0, 2.5)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--train.epoch", "3"], ["train.epoch", "did you mean train.epochs?"]),
        (["--data.nmu_lanes", "3"], ["did you mean data.num_lanes?"]),
        (["--model.width", "3"], ["model.width", "[model] has", "hidden_size"]),
        (["--zebra", "3"], ["--zebra", "expected one of", "run_dir", "checkpoint"]),
        (["--train.epochs"], ["--train.epochs", "no value"]),
        (["train.epochs", "3"], ["'train.epochs'", "expected an option"]),
        (["--"], ["'--'", "expected an option"]),
        (["--train.epochs", "many"], ["train.epochs='many'", "number", "--train.epochs"]),
        (["--train.epochs", "0"], ["train.epochs='0'", "greater than 0"]),
        (["--train.epochs", "nan"], ["train.epochs='nan'", "finite"]),
        (["--train.learning_rate", "inf"], ["train.learning_rate='inf'", "finite"]),
        (["--model.dropout", "1"], ["model.dropout='1'", "less than 1"]),
        (["--data.num_lanes", "2.5"], ["data.num_lanes='2.5'", "integer"]),
        (["--data.shuffle", "yes"], ["data.shuffle='yes'", "'none' or 'documents'"]),
        (["--data.context", "line"], ["data.context='line'", "'carried' or 'sentence'"]),
        (["--train.optimizer", "lion"], ["train.optimizer='lion'", "'adam', 'adamw' or 'sgd'"]),
        (["--model.tied", "perhaps"], ["model.tied='perhaps'", "boolean"]),
        (["--allocation.epochs", "1,x"], ["allocation.epochs='x'", "number"]),
        (["--allocation.epochs", "1,-1"], ["allocation.epochs='-1'", "greater than 0"]),
        (["--config", "no/such.toml"], ["no/such.toml", "cannot be read", "--config"]),
        (["--train", "3"], ["--train is unknown"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], parts: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings([*NEEDED, *arguments])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train]\nepohcs = 3\n", ["train.epohcs", "did you mean train.epochs?"]),
        ("[trian]\nepochs = 3\n", ["trian", "expected one of"]),
        ("epochs = 3\n", ["epochs", "unknown"]),
        ("train = 3\n", ["train=3"]),
        ("[train\n", ["is not TOML", "line 1"]),
        ("[train]\nepochs = -1\n", ["train.epochs=-1", "a.toml", "--train.epochs"]),
        ("[data]\nbptt = 0\nnum_lanes = 0\n", ["data.", "(and 1 more)"]),
        ("[data]\nbptt = true\nx = 1\n", ["data.x"]),
    ],
)
def test_wrong_files_are_told_in_one_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    config = write(tmp_path / "a.toml", text)
    with pytest.raises(SettingsError) as caught:
        load_settings([*NEEDED, "--config", config])
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message, message


def test_an_option_inside_what_a_file_made_no_section(tmp_path: Path) -> None:
    config = write(tmp_path / "a.toml", "train = 3\n")
    with pytest.raises(SettingsError, match=r"expected a section \[train\]"):
        load_settings([*NEEDED, "--config", config, "--train.epochs", "1"])


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe[train]")
    with pytest.raises(SettingsError, match="is not TOML"):
        read_settings(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("arguments", "option"), [(NEEDED[:2], "--data.corpus"), (NEEDED[2:], "--run-dir")]
)
def test_the_two_folders_are_needed(arguments: list[str], option: str) -> None:
    with pytest.raises(SettingsError, match=f"add {option} DIR"):
        load_settings(arguments)


def test_dropout_is_the_common_one_where_a_place_has_none_of_its_own(tmp_path: Path) -> None:
    given = ["--model.dropout", "0.3", "--model.output_dropout", "0", "--model.variational", "true"]
    settings = load_settings(["--run-dir", "r", "--data.corpus", "c", *given])
    expected = DropoutRates(inputs=0.3, hidden=0.3, outputs=0.0, variational=True)
    assert dropout_rates(settings.model) == expected
    # What is not set is not in the file, and is not set when it is read back.
    (tmp_path / "config.toml").write_text(to_toml(settings))
    assert "input_dropout" not in (tmp_path / "config.toml").read_text()
    assert read_settings(tmp_path / "config.toml").model == settings.model
    assert "[none]" in describe_settings().partition("--model.input_dropout")[2].splitlines()[0]
