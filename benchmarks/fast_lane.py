"""Run a script of the fast lane by its rules (docs/fast_lane.md): several seeds, the last weights, two clocks.

    python benchmarks/fast_lane.py ex_6.py --seeds 5 -- --dataset cifar10 --data cifar-10-python.tar.gz --target 0.80

What stands behind -- goes to every run. A run that the folder has already is not run again, so that an interrupted
series goes on.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(argv=None):
    """Run all seeds, print the row of the table, and return it."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", help="the submission, such as ex_6.py")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs with the seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--output_dir", default="outputs/fast_lane", metavar="DIR", help="where the runs go")
    options = parser.parse_args(words[:end])
    if options.seeds < 2:
        parser.error("--seeds: an interval needs two or more")
    rest = words[end + 1 :]
    series = hashlib.sha256(repr(rest).encode()).hexdigest()[:8]  # other options are another series
    folder = Path(options.output_dir, f"{Path(options.script).stem}-{series}")
    runs = [run(options.script, seed, rest, folder) for seed in range(options.seeds)]
    result = row(runs)
    print(json.dumps(result, indent=2))
    return result


def run(script, seed, words, folder):
    """Return the run folder of one seed, after running it unless it is there."""
    folder = folder / f"seed-{seed}"
    finished = [path.parent for path in folder.glob("*/*/*/clock.json")]
    if not finished:
        command = [sys.executable, str(ROOT / script), *words, "-s", str(seed), "--output_dir", str(folder)]
        subprocess.run(command, check=True)
        finished = [path.parent for path in folder.glob("*/*/*/clock.json")]
    if not finished:
        sys.exit(f"error: {script} has written no clock.json; see the rules in docs/fast_lane.md")
    return finished[0]


def row(folders):
    """Return what the rules ask for of the runs in `folders`."""
    from common.evaluation.repeats import t_interval

    tests, clocks, configs = ([json.loads((folder / f"{name}.json").read_text()) for folder in folders]
                              for name in ("test", "clock", "config"))  # fmt: skip
    selected = {test["selected_on"] for test in tests}
    if any(not text.startswith("nothing") for text in selected):
        sys.exit(f"error: the weights were selected on {', '.join(sorted(selected))}: the rules want the last ones")
    of_one_view = [test["accuracy"] for test in tests]
    accuracies = [test["tta"]["accuracy"] if "tta" in test else test["accuracy"] for test in tests]
    machine = configs[0]["machine"]
    return {
        "seeds": [config["seed"] for config in configs],
        "test_accuracy": statistics.mean(accuracies),
        "interval_95_of_the_mean": t_interval(accuracies),
        "views": tests[0]["tta"]["views"] if "tta" in tests[0] else 1,
        "test_accuracy_of_one_view": statistics.mean(of_one_view),
        "interval_95_of_one_view": t_interval(of_one_view),
        **{f"{name}_median": statistics.median(clock[name] for clock in clocks) for name in clocks[0]},
        **{f"{name}_range": [f(clock[name] for clock in clocks) for f in (min, max)] for name in clocks[0]},
        "train_images": configs[0]["images"]["train"],
        **{name: machine[name] for name in ("cpu", "threads", "precision")},
        "torch": configs[0]["versions"]["torch"],
    }


if __name__ == "__main__":
    main()
