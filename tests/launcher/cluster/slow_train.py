"""Training whose steps take half a second as long as the file named by `SLOW_WHILE` exists."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from launcher import train

learning_rate, slow_while = train.learning_rate, Path(os.environ["SLOW_WHILE"])


def slow_learning_rate(*arguments: Any) -> float:
    if slow_while.exists():
        time.sleep(0.5)
    return learning_rate(*arguments)


train.learning_rate = slow_learning_rate
train.write_report = lambda path: path  # type: ignore[assignment]
sys.exit(train.main())
