"""Search over an experiment's options, as a Weights & Biases sweep file says, or change one thing at a time.

    python sweep.py sweeps/trainA.yaml --program trainA.py --trials 30 -- -p nature_12K -e 5
    python sweep.py sweeps/alexnet_lr.yaml --jobs 2 -- --data cifar10-jpeg --limit 5000 -e 3
    python sweep.py sweeps/trainA.yaml --program trainA.py --storage postgresql://user@host/name    on each machine
    python sweep.py ex_2.py --vary augment image_size=32 width=12 --seeds 5 -- --dataset digits

What stands behind -- goes to every trial. The same command continues a search that was ended in any way. The best
configuration, by its mean over the seeds, is chosen on validation images; the test images are looked at by it alone, at
the end.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path

from common.evaluation.repeats import mean_in_words
from common.options.parser import Parser
from common.options.types import integer, one_of, path
from common.system.errors import BadInput
from common.system.files import read_json
from common.system.log import info
from common.system.text import shell_line
from tools.searching.results import Results
from tools.searching.search import Search
from tools.searching.spaces import Bands, sampler_for
from tools.searching.storage import open_search_folder, open_storage
from tools.searching.sweep_file import ALIASES, COMMAND, METRICS, read_sweep
from tools.searching.trials import Experiment, Launcher, run_in, slots_for
from tools.searching.varying import vary

TRIALS = 20  # where neither the command, nor the file, nor a grid says how many
MOST_TRIALS = 100_000
SEEDS, MOST_SEEDS = 3, 1000
DEAD_AFTER = 120  # seconds
SAMPLERS = ("tpe", "gp")


def parse_options(argv=None):
    """Return the options, and the words behind `--`."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("file", type=path, metavar="FILE.yaml", help="the sweep file; with --vary the experiment, such as ex_2.py")
    add("-h", "--help", action="help", help="show this and exit")
    add("--program", type=path, metavar="SCRIPT.py", help="the experiment (default: what the file names)")
    add("--metric", type=one_of((*METRICS, *ALIASES)), metavar="NAME",
        help="what the search is about, in place of what the file names, such as val_accuracy")  # fmt: skip
    add("--vary", nargs="+", metavar="NAME=VALUES",
        help="change one option at a time from its default, and say what each change is worth: NAME=VALUE,VALUE, or "
             "NAME alone for a switch")  # fmt: skip
    add("--grid", action="store_true", help="with --vary: try all combinations")
    add("--seeds", type=integer(1, MOST_SEEDS), metavar="N",
        help=f"runs of each configuration, with seeds from 0 on (default: {SEEDS} with --vary, else 1)")  # fmt: skip
    add("--test", action="store_true", help="look at the test images with all configurations, once, at the end")
    add("-n", "--trials", type=integer(1), metavar="N",
        help="configurations of all starts together; run_cap of the file and the size of a grid limit it (default: "
             f"{TRIALS}, where nothing limits it)")  # fmt: skip
    add("-j", "--jobs", type=integer(1, 1024), metavar="N",
        help="trials at a time (default: one for each GPU, or one); on a CPU they share its threads")  # fmt: skip
    add("--name", metavar="NAME", help="of the search (default: what the file says, or the file's own name)")
    add("--output_dir", type=path, default="outputs", metavar="DIR", help="the search goes to DIR/sweeps/NAME")
    add("--storage", metavar="URL", help="database of a search that several machines share")
    add("--dead_after", type=integer(4), default=DEAD_AFTER, metavar="SECONDS",
        help="with --storage: trials of a machine silent for so long are continued by another")  # fmt: skip
    add("--bayes", type=one_of(SAMPLERS), default=SAMPLERS[0], metavar="NAME",
        help="method bayes: tpe, or gp, a Gaussian process, for few numbers and long trials")  # fmt: skip
    add("-s", "--seed", type=integer(0), default=0, metavar="N", help="of the proposals")
    return parser.parse_intermixed_args(words[:end]), [word for word in words[end:] if word != "--"]


def main(argv=None):
    """Search, write down what was found, test the best, and return the folder of the search."""
    options, fixed = parse_options(argv)
    sweep, experiment, launcher = varied(options, fixed) if options.vary else searched(options, fixed)
    experiment.check(sweep.parameters, launcher.option_words)
    check_seeds(sweep, experiment, launcher)
    launcher.slots = slots_for(options.jobs, on_cpu=experiment.options(launcher.option_words({}))["device"] == "cpu")
    from common.evaluation.looks import FOLDER  # imports PyTorch, which checking options does not need

    account = {FOLDER: os.path.abspath(options.output_dir)}  # of looks at test images, of all searches there
    launcher.slots = [slot | account for slot in launcher.slots]
    cap = number_of_trials(options.trials, sweep)

    with open_search_folder(options.output_dir, options.name or sweep.name, options.storage is None) as folder:
        storage = open_storage(options.storage, folder, folder.name, sweep.maximize, options.dead_after)
        storage.check_same_search(sweep, experiment.path.name, fixed)
        storage.study.sampler = sampler_for(sweep.method, options.bayes, options.seed, storage)
        storage.study.pruner = Bands(sweep.bands, sweep.eta, sweep.is_strict)
        search = Search(Results(sweep, storage, folder), launcher, cap, options.test)
        runs = f"{cap} trials" if sweep.seeds == 1 else f"{cap} configurations with {sweep.seeds} seeds"
        info(f"{folder}: {sweep.method}, {runs} of {experiment.path.name}, {len(launcher.slots)} at a time")
        with launcher.decoding_once(folder):
            search.run()
            report(search, experiment)
    return folder


def searched(options, fixed):
    """Return the sweep of a file, its experiment, and what starts trials of it."""
    if options.grid:
        raise BadInput("--grid belongs to --vary; in a sweep file it is `method: grid`")
    sweep = read_sweep(options.file, options.metric)
    if not options.program and not sweep.program:
        raise BadInput(f"{options.file} names no program: add --program, such as --program trainA.py")
    if sweep.metric.endswith("accuracy") and not sweep.maximize:
        info(f"note: the file minimizes {sweep.metric}, W&B's goal where none is named; did you mean goal: maximize?")
    experiment = Experiment(options.program or sweep.program)
    sweep = replace(sweep, seeds=options.seeds or 1)
    return sweep, experiment, Launcher(sweep.command, experiment.path, fixed)


def varied(options, fixed):
    """Return the sweep that --vary means, its experiment, and what starts trials of it."""
    if options.program:
        raise BadInput("--program belongs to a sweep file; with --vary the experiment stands first")
    if options.metric:
        raise BadInput("--metric belongs to a sweep file; --vary compares by val_accuracy")
    experiment = Experiment(options.file)
    # What stands behind -- comes first, so that a change of the same option counts.
    launcher = Launcher([*COMMAND[:-1], *fixed, COMMAND[-1]], experiment.path, [])
    sweep = vary(options.file, options.vary, lambda v: experiment.options(launcher.option_words(v)), options.grid)
    return replace(sweep, seeds=options.seeds or SEEDS), experiment, launcher


def check_seeds(sweep, experiment, launcher):
    """Refuse several seeds where something else says the seed."""
    if sweep.seeds == 1:
        return
    if "seed" in sweep.parameters:
        raise BadInput(f"--seeds {sweep.seeds}: the sweep file has the parameter seed; leave it to one of the two")
    said, default = launcher.option_words({}), experiment.options([])["seed"]
    another = experiment.options(launcher.option_words({"seed": 1}))["seed"]
    if experiment.options(said)["seed"] != default or another != 1:
        raise BadInput(f"--seeds {sweep.seeds}: the seed is fixed in the command or after --; leave it out there")


def number_of_trials(typed, sweep):
    """Return how many trials there are to be: the least that anyone says."""
    limits = [typed, sweep.run_cap, sweep.grid_size() if sweep.method == "grid" else None]
    cap = min((limit for limit in limits if limit), default=TRIALS)
    if cap > MOST_TRIALS:
        raise BadInput(f"the grid has {cap:,} points: say with --trials how many of them, at most {MOST_TRIALS:,}")
    return cap


def report(search, experiment):
    """Write and draw what was found, and look at the test images with the best configuration, or with all."""
    from tools.searching.plots import draw_search  # imports Matplotlib and SciPy, which the search does not need

    results = search.results
    best, count = results.best(), results.sweep.seeds
    if not best:
        what = "trial has finished" if count == 1 else f"configuration has finished with all {count} seeds"
        raise BadInput(f"no {what}; {results.folder / 'trials.csv'} gives the reason of each")
    words = search.launcher.option_words(results.configuration_of(best[0]))
    results.write_best(experiment.changed_options(words, results.sweep.searched))
    results.say_best()
    for trial in best:
        search.test(trial, f", {'' if count == 1 else 'of '}the best on validation images")
    tell_mean(best)
    if search.tests_all:
        for trial in itertools.chain(*results.groups()[1:]):
            search.test(trial)
        results.remove_states(results.storage.trials())
    draw_search(results)
    command = ["python", os.path.relpath(experiment.path), "--config", str(results.folder / "best.yaml")]
    info(f"to run the best again: {shell_line(command)}")
    if count > 1:
        answer(results)


def tell_mean(trials):
    """Print what the seeds of a configuration come to on the test images, if more than one has a score here."""
    runs = [run_in(Path(trial.user_attrs["folder"])) for trial in trials]
    scores = [read_json(run / "test.json")["accuracy"] for run in runs if run and (run / "test.json").is_file()]
    if len(scores) > 1:
        mean, interval = mean_in_words(scores)
        info(f"mean of these {len(scores)} seeds on the test images: {mean} (95 % interval {interval}, of new seeds)")


def answer(results):
    """Compare the configurations seed by seed: with --vary each change with the defaults, else the best with all."""
    from compare import main as compare  # imports SciPy, which the search does not need

    groups, points, words = results.groups(), results.sweep.points, []
    if points is not None:
        unchanged = next((group[0] for group in groups if results.configuration_of(group[0]) == points[0]), None)
        run = unchanged and run_in(Path(unchanged.user_attrs["folder"]))
        if run is None:
            info("the defaults have not finished here with all seeds, so that nothing can be compared with them")
            return
        words = ["--baseline", str(run)]
    runs = [run_in(Path(trial.user_attrs["folder"])) for group in groups for trial in group]
    if None in runs:
        info(f"{runs.count(None)} of {len(runs)} runs are on other machines, and are not compared here")
    if not any(runs):
        return
    compare([str(results.folder / "trials"), *words, "--out", str(results.folder / "comparison")])


if __name__ == "__main__":
    run_script(main)
