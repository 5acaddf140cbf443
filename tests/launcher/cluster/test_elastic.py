"""torchrun over hosts: a lost one is gone on without, and a returned one is taken up again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import Agents
from cluster_runs import start_on_hosts
from hosts import Hosts, why_no_hosts
from launcher_runs import read_records

from launcher.verify import verify

Options = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts())


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(3) as hosts:
        yield hosts


def test_a_lost_host_is_gone_on_without_and_taken_up_again(
    hosts: Hosts, tiny: Options, tmp_path: Path
) -> None:
    """Started with three hosts; one is lost with all on it, and comes back."""
    shared = {
        "train__epochs": 3,
        "train__log_every_steps": 1,
        "checkpoint__every_steps": 5,
        "data__eval_lanes": 3,
    }
    start_on_hosts(hosts, tiny(tmp_path / "whole", **shared), tmp_path / "logs").wait().check()
    run_dir = tmp_path / "run"
    agents = Agents(hosts, tiny(run_dir, **shared), tmp_path / "agents", run_dir)
    try:
        for host in range(3):
            agents.start(host)
        agents.wait_for_steps_of(3)
        agents.kill(2, with_worker=True)
        agents.wait_for_steps_of(2)
        agents.start(2)
        agents.wait_for_steps_of(3)
        statuses = agents.finish()
    finally:
        agents.close()
    assert statuses == {0: 0, 1: 0, 2: 0}, agents.tell()
    assert "training failed: rank " in agents.tell()
    verify(run_dir, lambda _: None)
    losses = {
        name: [record["loss"] for record in read_records(tmp_path / name, "train")]
        for name in ("whole", "run")
    }
    assert len(losses["run"]) == 180
    assert losses["run"] == pytest.approx(losses["whole"], rel=1e-4)
    ends = [read_records(tmp_path / name, "end")[0] for name in ("whole", "run")]
    for split in ("valid", "test"):
        name = f"{split}_perplexity"
        assert ends[1][name] == pytest.approx(ends[0][name], rel=1e-4)
