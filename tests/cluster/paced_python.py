"""Stands for the interpreter in a job whose training is to last until something happens to it.

In the first life of the job every step from `FIRST_SLOW_STEP` on takes seconds; after that training
runs at its own speed. Copied by `write_paced_python`, with a first line that names the interpreter.
"""

import os
import sys
import time
from pathlib import Path

FIRST_SLOW_STEP = 40
SECONDS = 6.0


def write_paced_python(path: Path) -> Path:
    """Write an executable that takes the place of this interpreter; return its path.

    Its name becomes the processes' name, which may hold no blank: where SLURM keeps no control
    groups it does not find such processes in the kernel's tables, and cannot end them.
    """
    path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    path.chmod(0o755)
    return path


def train_slowly(arguments: list[str]) -> int:
    """Train, with slow steps in the first life of the job."""
    from launcher import train

    learning_rate = train.learning_rate

    def slow(step: int, *others: object) -> float:
        if step >= FIRST_SLOW_STEP and "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(SECONDS)
        return learning_rate(step, *others)

    train.learning_rate = slow
    return train.main(arguments)


def main() -> None:
    """Do as the interpreter would; torchrun starts its workers by this file again."""
    module = sys.argv.index("-m") + 1
    if sys.argv[module] == "launcher.train":
        sys.exit(train_slowly(sys.argv[module + 1 :]))
    os.environ["PYTHON_EXEC"] = __file__
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
