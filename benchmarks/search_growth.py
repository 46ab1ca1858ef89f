"""What does a search do for each trial besides running it, and does that grow with the number of trials?

    python benchmarks/search_growth.py                     1,000 trials, a few minutes
    python benchmarks/search_growth.py --trials 200        a quick look

The experiment of the trials, tests/toy.py, trains nothing and writes what a run would. Counted is the CPU time of the
search's own process: proposing, starting, watching, the database and the table. Prints it for each tenth of the trials.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import sweep  # noqa: E402
from common.system.device import cpu_name  # noqa: E402
from tools.searching.trials import Launcher  # noqa: E402

SWEEP = """program: {toy}
method: {method}
metric: {{name: val_accuracy, goal: maximize}}
parameters:
  lr: {{min: 0.0, max: 1.0}}
  kind: {{values: [good, better]}}
"""
TENTHS = 10


def main(argv=None):
    """Run a search, print what each trial cost, and return {"method", "milliseconds_of_a_trial" by tenths, ...}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--method", choices=("random", "bayes"), default="random", help="(default: random)")
    options = parser.parse_args(argv)
    if options.trials < TENTHS:
        parser.error(f"--trials: {TENTHS} or more")
    starts, start = [], Launcher.start

    def noted(*arguments, **named):
        starts.append(time.process_time())  # of this process alone: the trials are others
        return start(*arguments, **named)

    Launcher.start = noted
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "growth.yaml")
        file.write_text(SWEEP.format(toy=ROOT / "tests" / "toy.py", method=options.method))
        sweep.main([str(file), "-n", str(options.trials), "--output_dir", folder])
    Launcher.start = start
    result = {"cpu": cpu_name(), "cores": os.cpu_count(), "method": options.method, "trials": options.trials,
              "milliseconds_of_a_trial": by_tenths(starts)}  # fmt: skip
    print(json.dumps(result, indent=2))
    return result


def by_tenths(moments: list[float]) -> list[float]:
    """Return the median distance in ms between neighbors, for each tenth of `moments`, which are in seconds."""
    size = len(moments) // TENTHS
    parts = (moments[first : first + size] for first in range(0, size * TENTHS, size))
    return [round(1000 * statistics.median(b - a for a, b in zip(p, p[1:], strict=False)), 1) for p in parts]


if __name__ == "__main__":
    main()
