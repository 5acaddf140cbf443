"""How near the best table each solver comes, in what time and memory; see `--help`.

python benchmarks/allocation.py --vocab-size 10000
python benchmarks/allocation.py --quick
python benchmarks/allocation.py --statistics FILE.safetensors --solvers auction,greedy,half
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's folder comes first in the path, where this file hides the package of its name.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.compare_solvers import main

    main()
