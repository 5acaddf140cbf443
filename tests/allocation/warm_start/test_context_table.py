"""First tables from a small model of the last two words."""

import re

import torch
import torch.distributed as dist
from distributed import run_distributed
from warm_start_texts import text_of_kinds

from allocation.warm_start import context_table
from allocation.warm_start.context import ContextModel
from lightrnn import WordTable

NUM_WORDS, NUM_LANES, BPTT = 60, 6, 20
TEXT = torch.tensor(text_of_kinds(10, 6, 6001, seed=1))


def batches():
    """Yield this rank's lanes of the text."""
    lanes = slice(dist.get_rank(), None, dist.get_world_size())
    inputs, targets = (part.view(NUM_LANES, -1)[lanes] for part in (TEXT[:-1], TEXT[1:]))
    yield from zip(inputs.split(BPTT, dim=1), targets.split(BPTT, dim=1), strict=True)


def make() -> tuple[WordTable, list[float]]:
    assert dist.group.WORLD is not None
    lines: list[str] = []
    table = context_table(
        batches,
        NUM_WORDS,
        8,
        8,
        seed=3,
        group=dist.group.WORLD,
        device=torch.device("cpu"),
        on_progress=lines.append,
    )
    return table, [float(one) for one in re.findall(r"loss ([\d.]+) nats", "\n".join(lines))]


def test_every_round_has_a_smaller_loss_on_every_rank_alike() -> None:
    for world_size in (1, 2):
        (table, losses), *others = run_distributed(make, world_size)
        assert all(other == (table, losses) for other in others)
        assert (table.num_words, table.num_rows, table.num_columns) == (NUM_WORDS, 8, 8)
        assert len(losses) == 4
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] - 0.1


def test_what_is_read_does_not_hang_on_the_table_nor_on_words_to_come() -> None:
    model = ContextModel(NUM_WORDS, 8, 8)
    model.set_table(WordTable.random(NUM_WORDS, 8, 8, 1))
    words = TEXT[:11].view(1, -1)
    first, _, state = model.hidden_states(words[:, :-1], words[:, 1:], model.initial_state(1))
    model.set_table(WordTable.random(NUM_WORDS, 8, 8, 2))
    changed = words.clone()
    changed[0, 6:] = 0
    second, _, _ = model.hidden_states(changed[:, :-1], changed[:, 1:], state)
    assert torch.equal(first[:6], second[:6])
    assert not torch.equal(first[6:], second[6:])
