"""Train a LightRNN; starting it again on the same run directory resumes.

    torchrun --standalone --nproc-per-node 2 launcher/train.py \\
        --config configs/demo.toml --data.corpus corpora/demo --run-dir runs/demo

The way of a run: processes -> settings -> corpus -> batches -> state -> resume -> steps, with
validations, reallocations and checkpoints between them -> report.
"""

import logging
import math
import platform
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # started as a script: import the folder that holds `launcher`, not its parts
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.distributed as dist
from torch import Tensor

from allocation import Communicator, Method, Storage, TrustRegion, reallocate
from data_shards import Batches, Corpus, count_targets, unigram_perplexity
from launcher.averaging import AveragedParameters
from launcher.batches import DeviceBatch, all_batches, lane_parts, to_device, training_steps
from launcher.bootstrap import find_place
from launcher.checkpoints import Saver, take_snapshot
from launcher.checkpoints.intervals import SaveClock
from launcher.engines import make_engine
from launcher.evaluation import Autocast, evaluate
from launcher.flops import measured_flops_per_second, training_flops_per_word
from launcher.kept_statistics import (
    Interrupted,
    KeptStatistics,
    discard_statistics,
    pass_key,
)
from launcher.logs import log_to_console, log_to_file
from launcher.metrics import Metrics
from launcher.optimization import autocast_for, learning_rate, wants_bfloat16
from launcher.pace import Pace, paces_of_ranks
from launcher.prefetch import Prefetched
from launcher.processes import (
    USER_ERRORS,
    Processes,
    TrainingFailure,
    joined_processes,
)
from launcher.profiling import StepProfiler
from launcher.report import write_report
from launcher.rounds import is_multiple, steps_at
from launcher.run_dir import RunDirectory
from launcher.settings import Settings, describe_settings, load_settings, to_toml
from launcher.setup import (
    SplitBatches,
    check_extras,
    cut_batches,
    end_of_job,
    first_model,
    first_table,
    fixed_settings,
    loader_position,
    open_corpus,
    reallocation_ranks,
    resume,
)
from launcher.skipped import Arriving
from launcher.staging import stage_corpus
from launcher.state import TrainingState
from launcher.stop import STOPPED, StopRequest, leave_status
from launcher.watch import FAILED, Limits
from lightrnn import Losses, WordTable
from lightrnn.dropout import dropout_keys, keys_of_lanes

log = logging.getLogger("lightrnn")

DONE, WRONG_INPUT = 0, 2
"""Exit statuses besides `FAILED`, `INTERRUPTED` and `STOPPED`: the target was reached; the input
is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(f"{__doc__}\nSettings, with their defaults:\n{describe_settings()}\n")
        return DONE
    log_to_console(0, 1)
    try:
        place = find_place()
        log_to_console(place.rank, place.world_size)
        with StopRequest() as stop_request, joined_processes(place) as processes:
            settings = processes.together(lambda: load_settings(arguments))
            return train(settings, processes, stop_request)
    except USER_ERRORS as error:
        log.error("error: %s", " ".join(str(error).split()))
        status = WRONG_INPUT
    except TrainingFailure as error:
        log.error("training failed: %s", error)
        status = FAILED
    leave_status(status)
    return status


def train(settings: Settings, processes: Processes, stop_request: StopRequest) -> int:
    """Train to the last epoch or to a stop request; return the exit status.

    Raises:
        LightRNNError, CorpusError: wrong input; the same on every rank.
        TrainingFailure: the loss or the gradient is not finite.
    """
    run = RunDirectory(Path(settings.run_dir))
    waits = settings.processes
    processes.watch.expect(Limits(60 * waits.start_timeout_minutes, waits.step_timeout_seconds))
    processes.watch.enter("preparation")
    processes.together(lambda: check_extras(settings))
    stop_request.deadline = processes.together(lambda: end_of_job(settings, processes))
    corpus = processes.together(lambda: open_corpus(settings, processes))
    corpus = stage_corpus(corpus, settings, processes)
    rank, world_size = processes.rank, processes.world_size
    batches = processes.together(lambda: cut_batches(corpus, settings, rank, world_size))
    solver_group = processes.new_group(settings.allocation.timeout_minutes)
    processes.watch.enter("first table", seconds=60 * settings.allocation.timeout_minutes)
    communicator = processes.together(lambda: reallocation_ranks(settings, solver_group))
    table = first_table(settings, corpus, batches, run, processes, solver_group)
    processes.watch.enter("resume")
    autocast = processes.together(lambda: autocast_for(settings.train, processes.device))
    model = processes.together(lambda: first_model(settings, table, processes.device))
    engine = make_engine(settings, model, processes)
    state = TrainingState(model, engine, table, batches.train.lanes)
    if settings.train.average_decay:
        state.averaged = AveragedParameters(model, settings.train.average_decay)
    resumed_from = resume(run, state, settings, corpus, processes)

    def prepare_folder() -> None:
        if processes.is_root:
            run.create()
            run.write_config(to_toml(settings))
            run.copy_vocabulary(corpus.path / corpus.manifest.vocabulary.file)
            if resumed_from is None:
                run.rewind(-1, -1)
            run.write_table(state.table, state.table_version)

    processes.together(prepare_folder)
    processes.together(lambda: log_to_file(run.log(processes.rank), processes.rank))
    saving_group = processes.new_group(settings.checkpoint.timeout_minutes)
    with (
        Metrics(
            run,
            state.step,
            enabled=processes.is_root,
            wandb_project=settings.metrics.wandb_project,
        ) as metrics,
        Saver(run, settings.checkpoint, saving_group, processes.device, resumed_from) as saver,
    ):
        trainer = Trainer(
            settings=settings,
            processes=processes,
            run=run,
            corpus=corpus,
            batches=batches,
            state=state,
            metrics=metrics,
            saver=saver,
            autocast=autocast,
            communicator=communicator,
        )
        status = DONE if trainer.train(stop_request) else STOPPED
    processes.watch.enter("report", seconds=processes.watch.patience_seconds)
    if processes.is_root:
        leave_status(status)
        log.info("report: %s", write_report(run.path))
    dist.barrier()  # a launcher ends the others as soon as one has left
    return status


@dataclass
class Interval:
    """Sums since the last line of the training loss.

    Attributes:
        sums: row losses and column losses of this rank's lanes, tokens of all ranks, without steps
            that were left out; float64 [3] on the device.
        pace: of this rank, in steps taken or left out.
        tokens: of all ranks, read.
    """

    sums: Tensor
    pace: Pace
    tokens: int = 0


@dataclass
class Trainer:
    """The loop, and what it needs."""

    settings: Settings
    processes: Processes
    run: RunDirectory
    corpus: Corpus
    batches: SplitBatches
    state: TrainingState
    metrics: Metrics
    saver: Saver
    autocast: Autocast
    communicator: Communicator

    def __post_init__(self) -> None:
        self.steps_per_epoch = self.batches.train.num_steps
        self.total_steps = max(1, round(self.settings.train.epochs * self.steps_per_epoch))
        self.parts = lane_parts(
            len(self.state.lanes),
            # Every rank takes as many parts as that with the fewest lanes can.
            min(
                self.settings.train.accumulate_steps,
                self.settings.data.num_lanes // self.processes.world_size,
            ),
        )
        self.interval = self._new_interval()
        self.save_clock = SaveClock(self.settings.checkpoint.every_minutes)
        self.profiler = StepProfiler(
            self.settings.profile,
            self.run.trace(self.processes.rank),
            self.processes.device,
        )
        self.data_wait_seconds = 0.0
        self.flops_per_word = training_flops_per_word(self.state.model.shape)
        self.ceiling = measured_flops_per_second(
            self.processes.device,
            bfloat16=wants_bfloat16(self.settings.train, self.processes.device),
        )
        self.outcomes: deque[tuple[int, Arriving]] = deque()

    @property
    def epoch(self) -> float:
        """Passes over the training text so far."""
        return self.state.step / self.steps_per_epoch

    @property
    def train_batches(self) -> Batches:
        """This rank's batches of the epoch of the next step."""
        return self.batches.train.at_epoch(self.state.step // self.steps_per_epoch)

    def train(self, stop_request: StopRequest) -> bool:
        """Go on from the state's step; return whether the last epoch was reached."""
        settings, state = self.settings, self.state
        allocation = settings.allocation
        reallocation_steps = (
            steps_at(allocation.epochs, self.steps_per_epoch)
            if allocation.when == "epochs"
            else frozenset()
        )
        self._announce()
        self._rehearse()
        if state.step == 0:
            self._validate()
        stop = state.rounds.due and not self._reallocate_and_save(stop_request)
        steps = range(state.step, self.total_steps)
        upcoming = training_steps(self.batches.train, steps, self.processes.device)
        with Prefetched(upcoming) as prefetched:
            while state.step < self.total_steps and not stop:
                # A checkpoint that failed ends training as a request to stop does, on all ranks.
                stop, save_due = self._step(
                    prefetched, stop_request.received or self.saver.has_failed
                )
                if stop:
                    self.saver.wait()
                stop = stop or state.step == settings.train.max_steps
                at_end = state.step == self.total_steps
                if state.step % settings.train.log_every_steps == 0 or at_end or stop:
                    self._log_interval()
                due = state.step in reallocation_steps
                eval_due = is_multiple(
                    state.step, settings.train.eval_every_epochs, self.steps_per_epoch
                )
                if eval_due or at_end:
                    due = self._validate() or due
                if due and not at_end:
                    stop = not self._reallocate_and_save(stop_request) or stop
                save_due = save_due or state.step % settings.checkpoint.every_steps == 0
                if save_due or eval_due or due or at_end or stop:
                    self._save()
        if state.step == self.total_steps:
            self._finish()
        else:
            log.info("stopped at step %d of %d; start again to go on", state.step, self.total_steps)
        self.profiler.close()
        state.engine.close()
        return state.step == self.total_steps

    def _step(self, prefetched: Prefetched[DeviceBatch], stop_requested: bool) -> tuple[bool, bool]:
        """Take one step; return whether any rank was asked to stop, and whether to save by time."""
        self._profile_step()
        started = time.perf_counter()
        settings, state, watch = self.settings.train, self.state, self.processes.watch
        pace = self.interval.pace
        watch.enter("data", step=state.step)
        inputs, targets, num_tokens = next(prefetched)
        data_wait_seconds = time.perf_counter() - started
        pace.data_wait_seconds += data_wait_seconds
        self.data_wait_seconds += data_wait_seconds
        if state.step % self.steps_per_epoch == 0 or not self.batches.train.carries_state:
            state.reset_lanes()
        keys = dropout_keys(settings.seed, state.step, state.lanes, self.processes.device)
        rate = learning_rate(state.step, self.total_steps, settings)

        # [any rank was asked to stop, time to save by rank 0's clock]; on its way while the
        # gradient is computed.
        save_due = self.processes.is_root and self.save_clock.is_due
        signs = torch.tensor([float(stop_requested), float(save_due)])
        agreed = dist.all_reduce(signs, dist.ReduceOp.MAX, async_op=True)
        nll, new_state = self._accumulate_gradient(inputs, targets, keys, num_tokens)
        agreed.wait()
        norm = state.engine.step(rate)
        finite = norm.isfinite()
        state.lane_state = torch.where(finite, new_state, state.lane_state)
        self.outcomes.append((state.step, Arriving(finite)))
        state.step += 1
        if state.averaged is not None:
            state.averaged.update(state.step)
        state.valid_perplexity = 0.0
        watch.start_steps()

        sums = torch.cat((nll, torch.full_like(nll[:1], num_tokens)))
        self.interval.sums += torch.where(finite, sums, 0.0)
        self.interval.tokens += num_tokens
        pace.steps += 1
        pace.step_seconds += time.perf_counter() - started
        self.last_norm, self.last_rate = norm, rate
        # The outcome of the step before, so that the host need not wait for the device.
        self._settle(unknown=1)
        return bool(signs[0]), bool(signs[1])

    def _profile_step(self) -> None:
        profiled = self.profiler.next_step(self.data_wait_seconds)
        if profiled is not None:
            self._record("profile", **asdict(profiled))

    def _accumulate_gradient(
        self, inputs_BT: Tensor, targets_BT: Tensor, keys: Tensor, num_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of a step, one part of this rank's lanes after the other.

        Returns:
            Summed row and column losses of this rank's lanes, [2], and their new state.
        """
        state, watch = self.state, self.processes.watch
        losses, states = [], []
        for lanes in self.parts:
            watch.enter("forward")
            with self.interval.pace.forward(), self.autocast():
                row_nll, column_nll, new_state = state.engine.forward(
                    inputs_BT[lanes],
                    targets_BT[lanes],
                    state.lane_state[:, :, lanes],
                    keys_of_lanes(keys, lanes),
                )
            watch.enter("gradient all-reduce")
            # The loss is the mean over the tokens of all ranks.
            loss = (row_nll + column_nll) / max(num_tokens, 1)
            state.engine.backward(loss, last=lanes == self.parts[-1])
            losses.append(torch.stack((row_nll, column_nll)).detach())
            states.append(new_state.detach().float())
        return torch.stack(losses).sum(0), torch.cat(states, dim=2)

    def _settle(self, unknown: int = 0) -> None:
        """Count steps that were left out, but for so many of the last ones.

        Raises:
            TrainingFailure: too many in a row were left out.
        """
        state, settings = self.state, self.settings.train
        while len(self.outcomes) > unknown:
            step, finite = self.outcomes.popleft()
            state.skipped = state.skipped.after_step(finite=bool(finite.wait()))
            if not state.skipped.in_a_row:
                continue
            if state.skipped.in_a_row > settings.max_skipped_steps:
                raise TrainingFailure(
                    f"the loss or its gradient is not finite at step {step}; the parameters of "
                    "the last checkpoint are whole: lower train.learning_rate or train.clip_norm, "
                    "or let train.max_skipped_steps be left out"
                )
            log.warning("the loss or its gradient is not finite at step %d: left out", step)

    def _rehearse(self) -> None:
        """Run one step forwards and backwards and throw its gradient away.

        DDP orders its messages by the first backward pass. Rehearsing it lets a resumed run order
        them as the uninterrupted run does, so that sums over ranks round alike; it also finds out
        before the first step whether the memory suffices.
        """
        self.processes.watch.enter("rehearsal")
        inputs, targets = to_device(self.train_batches.batch(0), self.processes.device)
        keys = dropout_keys(0, 0, self.state.lanes, self.processes.device)
        lanes = self.parts[0]
        lane_state = torch.zeros_like(self.state.lane_state[:, :, lanes])
        with self.autocast():
            losses = self.state.engine.forward(
                inputs[lanes], targets[lanes], lane_state, keys_of_lanes(keys, lanes)
            )
        self.state.engine.rehearse(losses.row_nll + losses.column_nll)

    def _validate(self) -> bool:
        """Measure the validation perplexity; return whether it calls for a reallocation."""
        if self.batches.valid is None:
            return False
        self._settle()
        losses = self._evaluate(self.batches.valid)
        self.state.valid_perplexity = losses.perplexity
        self.state.rounds, due = self.state.rounds.after_validation(
            losses.perplexity, self.settings.allocation
        )
        self._record("valid", **_as_values(losses))
        return due

    def _valid_perplexity(self) -> float | None:
        return self._evaluate(self.batches.valid).perplexity if self.batches.valid else None

    def _evaluate(self, batches: Batches, max_tokens: int | None = None) -> Losses:
        self.processes.watch.enter("evaluation", step=self.state.step)
        with self.state.best_parameters():
            return evaluate(self.state.model, batches, self.processes, self.autocast, max_tokens)

    def _reallocate_and_save(self, stop_request: StopRequest) -> bool:
        """Reallocate between two checkpoints; return whether it went to its end.

        Where it is cut off, a resumed run goes straight to it.
        """
        self.state.rounds = self.state.rounds.before_reallocation()
        self._save()
        kept = self._kept_statistics(stop_request)
        try:
            self._reallocate(kept)
        except Interrupted:
            return False
        self._save()
        self.saver.wait()
        if self.processes.is_root:
            discard_statistics(self.run)
        return True

    def _kept_statistics(self, stop_request: StopRequest) -> KeptStatistics:
        state, settings = self.state, self.settings
        key = pass_key(
            state.model,
            step=state.step,
            table=state.table.fingerprint,
            corpus=self.corpus.fingerprint,
            max_tokens=settings.allocation.tokens,
            arithmetic=f"{self.processes.device.type} {settings.train.precision}",
        )
        return KeptStatistics(
            self.run,
            key,
            state.lanes,
            self.communicator,
            SaveClock(settings.checkpoint.every_minutes),
            lambda: stop_request.received,
        )

    def _reallocate(self, kept: KeptStatistics) -> None:
        """Move words where that helps; tell what was promised and what came of it.

        Raises:
            Interrupted: on every rank, where any was asked to stop while it added up.
        """
        state, settings = self.state, self.settings.allocation
        watch = self.processes.watch
        before = state.valid_perplexity or self._valid_perplexity()
        train = self.train_batches
        batches = all_batches(
            train, self.processes.device, settings.tokens or None, first=kept.num_batches
        )
        with self.autocast():
            table, report = reallocate(
                state.model,
                state.table,
                watch.through(batches),
                communicator=self.communicator,
                method=self._reallocation_method(),
                held_out_loss=self._held_out_loss,
                certificate=self.run.certificate(state.table_version + 1),
                on_progress=lambda line: log.info("  reallocation: %s", line),
                on_step=self._enter_step_of_reallocation,
                carry_state=train.carries_state,
                keeper=kept,
            )
        state.rounds = state.rounds.after_reallocation()
        if not report.accepted:
            self._record("kept", **asdict(report))
            return
        watch.enter("reallocation: commit")
        state.set_table(table, state.table_version + 1)
        after = self._valid_perplexity()
        state.valid_perplexity = after or 0.0
        loss_after = None
        if settings.measure_tokens:
            loss_after = self._evaluate(train, settings.measure_tokens).loss
        if self.processes.is_root:
            self.run.write_table(table, state.table_version)
        self._record(
            "reallocation",
            **asdict(report),
            loss_after=loss_after,
            valid_perplexity_before=before,
            valid_perplexity_after=after,
        )

    def _enter_step_of_reallocation(self, step: str) -> None:
        watch = self.processes.watch
        solver_seconds = 60 * self.settings.allocation.timeout_minutes
        seconds = solver_seconds if step == "solve" else watch.patience_seconds
        watch.enter(f"reallocation: {step}", seconds=seconds)

    def _reallocation_method(self) -> Method:
        settings = self.settings.allocation
        return Method(
            solver=settings.solver,
            exchange=settings.exchange,
            trust_region=TrustRegion(
                settings.moves, settings.stay_bonus, settings.tolerance, settings.max_tries
            ),
            time_budget_seconds=60 * settings.time_budget_minutes or None,
            storage=Storage(settings.memory_gib or math.inf, self.run.path),
            certificate_gib=settings.certificate_gib,
        )

    def _held_out_loss(self, table: WordTable) -> float:
        """Return the loss with another table, on the validation text, or else on training text."""
        state, max_tokens = self.state, self.settings.allocation.measure_tokens
        state.model.set_table(table)
        try:
            return self._evaluate(self.batches.valid or self.train_batches, max_tokens or None).loss
        finally:
            state.model.set_table(state.table)

    def _log_interval(self) -> None:
        self.processes.watch.enter("log", step=self.state.step)
        interval, self.interval = self.interval, self._new_interval()
        pace, started = interval.pace, time.perf_counter()
        self._settle()
        *nll, tokens = interval.sums.tolist()
        pace.step_seconds += time.perf_counter() - started  # the device has caught up
        if not tokens:
            return
        paces_W3 = torch.zeros(self.processes.world_size, 3, dtype=torch.float64)
        paces_W3[self.processes.rank] = pace.a_step()
        sums = torch.cat([torch.tensor(nll, dtype=torch.float64), paces_W3.flatten()])
        row_nll, column_nll, *paces = self.processes.sum(sums).tolist()
        losses = Losses(row_nll, column_nll, round(tokens))
        norm = float(self.last_norm)
        speed = interval.tokens / pace.step_seconds
        remaining = (self.total_steps - self.state.step) * pace.step_seconds / pace.steps
        self._record(
            "train",
            **_as_values(losses),
            learning_rate=self.last_rate,
            grad_norm=norm if math.isfinite(norm) else None,
            skipped_steps=self.state.skipped.total or None,
            tokens_per_second=speed,
            mfu=speed * self.flops_per_word / (self.ceiling * self.processes.world_size),
            data_wait_share=pace.data_wait_seconds / pace.step_seconds,
            **paces_of_ranks(torch.tensor(paces, dtype=torch.float64).reshape_as(paces_W3)),
            seconds_left=remaining,
            total_steps=self.total_steps,
        )

    def _save(self) -> None:
        state, watch = self.state, self.processes.watch
        watch.enter("checkpoint", step=state.step, seconds=watch.patience_seconds)
        self._settle()
        snapshot = take_snapshot(
            state,
            loader=loader_position(self.corpus, self.batches.train, state.step),
            fixed=fixed_settings(self.settings, state),
        )
        self.saver.save(snapshot)
        self.save_clock.restart()

    def _announce(self) -> None:
        """Tell what was derived from the settings."""
        state, data = self.state, self.settings.data
        unigram = None
        if self.batches.valid is not None:
            counts = torch.from_numpy(count_targets(self.batches.valid, state.table.num_words))
            unigram = unigram_perplexity(
                self.corpus.vocabulary.counts, self.processes.sum(counts).numpy()
            )
        late = [one for one in self.settings.allocation.epochs if one >= self.settings.train.epochs]
        if self.settings.allocation.when == "epochs" and late:
            log.info("allocation.epochs after the run's end are left out: %s", late)
        self._record(
            "start",
            num_parameters=state.model.num_parameters,
            vocab_size=state.table.num_words,
            num_rows=state.table.num_rows,
            num_columns=state.table.num_columns,
            world_size=self.processes.world_size,
            num_lanes=data.num_lanes,
            bptt=data.bptt if data.context == "carried" else None,
            context=data.context,
            shuffle=data.shuffle,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
            tokens_per_epoch=self.corpus.manifest.splits["train"].tokens,
            flops_per_word=self.flops_per_word,
            ceiling_flops_per_second=self.ceiling,
            unigram_perplexity=unigram,
            device=self.processes.device.type,
            versions={"python": platform.python_version(), "torch": torch.__version__},
        )

    def _finish(self) -> None:
        """Measure the final perplexities."""
        results = {
            f"{name}_perplexity": self._evaluate(batches).perplexity
            for name, batches in (("valid", self.batches.valid), ("test", self.batches.test))
            if batches is not None
        }
        self._record("end", **results)

    def _record(self, event: str, **values: object) -> None:
        values = {name: value for name, value in values.items() if value is not None}
        self.metrics.record(
            event, self.state.step, self.state.table_version, epoch=self.epoch, **values
        )

    def _new_interval(self) -> Interval:
        device = self.processes.device
        return Interval(torch.zeros(3, dtype=torch.float64, device=device), Pace(device))


def _as_values(losses: Losses) -> dict[str, float]:
    return {
        "loss": losses.loss,
        "row_loss": losses.row_loss,
        "column_loss": losses.column_loss,
        "perplexity": losses.perplexity,
        "tokens": losses.tokens,
    }


if __name__ == "__main__":
    sys.exit(main())
