"""What only a GPU can tell: `pytest -m gpu`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_shards import prepare_corpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

SCRIPT = Path(__file__).parents[2] / "launcher" / "train.py"


def train(corpus: Path, run_dir: Path, **environment_and_options: str) -> list[dict]:
    devices = environment_and_options.pop("devices")
    options = [
        part
        for name, value in environment_and_options.items()
        for part in (f"--{name.replace('__', '.')}", value)
    ]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(SCRIPT)]
    settings = {
        "--data.corpus": str(corpus),
        "--run-dir": str(run_dir),
        "--data.num_lanes": "8",
        "--data.bptt": "10",
        "--model.hidden_size": "32",
        "--model.embedding_size": "32",
        "--train.epochs": "2",
        "--train.log_every_steps": "1",
        "--allocation.epochs": "1",
    }
    flat = [part for pair in settings.items() for part in pair]
    subprocess.run(
        [sys.executable, *command, *flat, *options],
        check=True,
        env={"CUDA_VISIBLE_DEVICES": devices, "PATH": "/usr/bin:/bin"},
        timeout=300,
    )
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["event"] == "train"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\na dog ran over a log and sat\n" * 60)
    prepare_corpus([text], [text], [text], tmp_path / "corpus")
    return tmp_path / "corpus"


def test_nccl_in_float32_gives_the_losses_of_the_cpu(corpus: Path, tmp_path: Path) -> None:
    on_gpu = train(corpus, tmp_path / "gpu", devices="0", train__precision="float32")
    on_cpu = train(corpus, tmp_path / "cpu", devices="", train__precision="float32")
    assert [one["loss"] for one in on_gpu[:20]] == pytest.approx(
        [one["loss"] for one in on_cpu[:20]], rel=1e-3
    )


def test_bfloat16_stays_near_float32(corpus: Path, tmp_path: Path) -> None:
    bfloat16 = train(corpus, tmp_path / "bf16", devices="0", train__precision="bfloat16")
    float32 = train(corpus, tmp_path / "fp32", devices="0", train__precision="float32")
    assert [one["loss"] for one in bfloat16[:20]] == pytest.approx(
        [one["loss"] for one in float32[:20]], rel=2e-2
    )
