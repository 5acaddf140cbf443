"""Before training, each host copies what its ranks read to a disk of its own."""

import hashlib
import logging
import socket
from pathlib import Path

from allocation import TorchCommunicator, run_together
from allocation.collectives import gather_bytes
from data_shards import Corpus, Shard, stage_shards
from data_shards.corpus import check_rows
from launcher.processes import USER_ERRORS, Processes
from launcher.settings import Settings
from launcher.setup import cut_batches

log = logging.getLogger("lightrnn")

COPYING_MINUTES = 24 * 60.0
"""How long ranks wait for the copies of all hosts."""


def stage_corpus(corpus: Corpus, settings: Settings, processes: Processes) -> Corpus:
    """Return the corpus that reads copies on this host where the settings want any.

    Of each host the process of local rank 0 copies the shards that any rank of the host has under
    its lanes, to `data.stage_dir/<corpus fingerprint>`. Called by all ranks.

    Raises:
        CorpusError: there is no room or no permission for a copy, or a shard is damaged; the same
            on every rank.
    """
    if not settings.data.stage_dir:
        return corpus
    processes.watch.enter("staging", seconds=60 * COPYING_MINUTES)
    communicator = TorchCommunicator(processes.new_group(COPYING_MINUTES))
    folder = Path(settings.data.stage_dir) / corpus.fingerprint
    # Names differ in length, their hashes do not.
    host = hashlib.sha256(socket.gethostname().encode()).digest()
    hosts = gather_bytes(host, communicator)

    def shards_of(rank: int) -> list[Shard]:
        return cut_batches(corpus, settings, rank, processes.world_size).shards()

    def copy() -> None:
        if processes.local_rank != 0:
            return
        ranks = [rank for rank, name in enumerate(hosts) if name == host]
        shards = list(dict.fromkeys(shard for rank in ranks for shard in shards_of(rank)))
        num_bytes = stage_shards(corpus.path, shards, folder)
        for shard in shards if settings.data.verify else ():
            check_rows(folder, shard, corpus.manifest.vocabulary.words)
        log.info(
            "%d shards under this host's lanes lie in %s; %.1f MiB of them were copied now",
            len(shards),
            folder,
            num_bytes / 2**20,
        )

    run_together(copy, communicator, USER_ERRORS)
    return processes.together(lambda: corpus.with_copies(folder, shards_of(processes.rank)))
