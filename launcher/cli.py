"""The command `lightrnn`."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from data_shards import EOS, CorpusError
from launcher.corpus_commands import add_corpus_commands
from launcher.logs import log_to_console

if TYPE_CHECKING:  # both import torch, which what makes a corpus need not wait for
    from launcher.inference import TrainedRun
    from launcher.processes import Processes

log = logging.getLogger("lightrnn")

Command = Callable[[argparse.Namespace], int]


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    log_to_console(0, 1)
    if arguments[:1] == ["train"]:
        return _train(arguments[1:])
    if arguments[:1] == ["submit"]:
        return _submit(arguments[1:])
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130  # as the shell reports a command ended by Ctrl-C
    except BrokenPipeError:  # who reads what is printed has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except CorpusError as error:
        log.error("error: %s", error)
        return 2
    except Exception as error:
        # Imported here, for it imports torch: what makes a corpus need not wait for that.
        from launcher.processes import USER_ERRORS

        if not isinstance(error, USER_ERRORS):
            raise
        log.error("error: %s", " ".join(str(error).split()))
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="lightrnn", description="LightRNN: enormous vocabularies, small.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)

    add_corpus_commands(commands.add_parser)
    commands.add_parser("train", help="train on this machine: see `lightrnn train --help`")

    commands.add_parser("submit", help="train as a SLURM job: see `lightrnn submit --help`")

    evaluate = commands.add_parser("evaluate", help="perplexity of a split")
    evaluate.set_defaults(command=_evaluate)
    _add_run(evaluate)
    evaluate.add_argument("--split", choices=("train", "valid", "test"), default="test")
    evaluate.add_argument("--corpus", default="", help="corpus folder, where it has moved")

    evaluate.add_argument(
        "--details",
        action="store_true",
        help="perplexity by frequency, an interval by bootstrap, and the unknown words' share",
    )
    evaluate.add_argument(
        "--words", type=Path, metavar="FILE", help="write a line a word with its log-probability"
    )

    generate = commands.add_parser("generate", help="sampled text")
    generate.set_defaults(command=_generate)
    _add_run(generate)
    generate.add_argument("--prompt", default="", help="words to go on from")
    generate.add_argument("--num-words", type=_whole_number, default=100, help="words to draw")
    generate.add_argument(
        "--seed", type=_whole_number, default=1, help="the same seed draws the same words"
    )
    generate.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier words")

    report = commands.add_parser("report", help="write report.html and its pictures")
    report.set_defaults(command=_report)
    report.add_argument("run", type=Path, metavar="RUN", help="run directory")

    verify = commands.add_parser("verify", help="check every checksum and invariant")
    verify.set_defaults(command=_verify)
    verify.add_argument("path", type=Path, metavar="CORPUS_OR_RUN", help="folder to check")
    verify.add_argument("--workers", type=int, default=1, help="processes that check a corpus")
    return parser


def _whole_number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text}, expected a whole number from 0 on")
    return number


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--checkpoint", default="latest", help="latest, best (by validation), or step-XXXXXXXX"
    )


def _train(arguments: list[str]) -> int:
    from launcher.processes import USER_ERRORS
    from launcher.settings import load_settings
    from launcher.train import main as train
    from launcher.workers import start_workers, take_num_workers

    try:
        num_workers, rest = take_num_workers(arguments)
        if num_workers == 1 or {"-h", "--help"} & set(rest):
            return train(rest)
        load_settings(rest)  # wrong settings are told before any worker starts
        return start_workers(num_workers, rest)
    except USER_ERRORS as error:
        log.error("error: %s", " ".join(str(error).split()))
        return 2


def _submit(arguments: list[str]) -> int:
    from launcher.processes import USER_ERRORS
    from launcher.slurm.submit import submit

    try:
        return submit(arguments)
    except USER_ERRORS as error:
        log.error("error: %s", " ".join(str(error).split()))
        return 2


def _evaluate(options: argparse.Namespace) -> int:
    from launcher.inference import evaluate_run, load_run
    from launcher.processes import joined_processes
    from launcher.run_dir import RunDirectory

    with joined_processes() as processes:
        trained = load_run(RunDirectory(options.run), options.checkpoint, processes)
        losses = evaluate_run(trained, options.corpus, options.split, processes)
        result = {
            "split": options.split,
            "perplexity": losses.perplexity,
            "nll": losses.loss,
            "row_nll": losses.row_loss,
            "column_nll": losses.column_loss,
            "tokens": losses.tokens,
        }
        if options.details or options.words:
            result |= _details(options, trained, processes)
        if processes.is_root:
            sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _details(
    options: argparse.Namespace, trained: "TrainedRun", processes: "Processes"
) -> dict[str, object]:
    """Write and tell on rank 0 what the perplexity is made of; return it for the last line."""
    from launcher.details import describe, details_of, losses_by_word, write_words
    from launcher.inference import split_of

    batches, autocast = split_of(trained, options.corpus, options.split, processes)
    losses = losses_by_word(trained.model, batches, processes, autocast)

    def tell() -> dict[str, object]:
        if not processes.is_root:
            return {}
        if options.words:
            write_words(options.words, losses, list(trained.vocabulary.words))
        if not options.details:
            return {}
        details = details_of(losses, trained.vocabulary)
        sys.stdout.write(describe(details))
        return asdict(details)

    return processes.together(tell)


def _generate(options: argparse.Namespace) -> int:
    from launcher.inference import generate, load_run
    from launcher.processes import joined_processes
    from launcher.run_dir import RunDirectory

    with joined_processes() as processes:
        trained = load_run(RunDirectory(options.run), options.checkpoint, processes)
        words = generate(
            trained,
            options.prompt,
            options.num_words,
            seed=options.seed,
            temperature=options.temperature,
        )
        text = " ".join([options.prompt, *words]).strip()
        lines = (line.strip() for line in text.split(EOS))
        sys.stdout.write("\n".join(lines).rstrip() + "\n")
    return 0


def _report(options: argparse.Namespace) -> int:
    from launcher.report import write_report

    sys.stdout.write(f"{write_report(options.run)}\n")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from launcher.verify import verify

    verify(options.path, log.info, options.workers)
    sys.stdout.write(f"{options.path}: everything is as it was written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
