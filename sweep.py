"""Search over an experiment's options, as a Weights & Biases sweep file says, offline and without an account.

    python sweep.py sweeps/trainA.yaml --program trainA.py --trials 30 -- -p nature_12K -e 5
    python sweep.py sweeps/alexnet_lr.yaml --jobs 2 -- --data cifar10-jpeg --limit 5000 -e 3
    python sweep.py sweeps/trainA.yaml --program trainA.py --storage postgresql://user@host/name    on each machine

What stands behind -- goes to every trial. The same command continues a search that was ended in any way. The best trial
is chosen on validation images; the test images are looked at by the best alone, at the end.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import os
import sys

from common.options.parser import Parser
from common.options.types import integer, one_of, path
from common.system.errors import BadInput
from common.system.log import info
from common.system.text import shell_line
from tools.searching.results import Results, draw_search
from tools.searching.search import Search
from tools.searching.spaces import Bands, sampler_for
from tools.searching.storage import open_search_folder, open_storage
from tools.searching.sweep_file import read_sweep
from tools.searching.trials import Experiment, Launcher, slots_for

TRIALS = 20  # where neither the command, nor the file, nor a grid says how many
MOST_TRIALS = 100_000
DEAD_AFTER = 120  # seconds
SAMPLERS = ("tpe", "gp")


def parse_options(argv=None):
    """Return the options, and the words behind `--`."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("file", type=path, metavar="FILE.yaml", help="the sweep file")
    add("-h", "--help", action="help", help="show this and exit")
    add("--program", type=path, metavar="SCRIPT.py", help="the experiment (default: what the file names)")
    add("-n", "--trials", type=integer(1), metavar="N",
        help=f"trials of all starts together; run_cap of the file and the size of a grid limit it (default: {TRIALS}, "
             "where nothing limits it)")  # fmt: skip
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
    sweep = read_sweep(options.file)
    if not options.program and not sweep.program:
        raise BadInput(f"{options.file} names no program: add --program, such as --program trainA.py")
    if sweep.metric.endswith("accuracy") and not sweep.maximize:
        info(f"note: the file minimizes {sweep.metric}, W&B's goal where none is named; did you mean goal: maximize?")
    experiment = Experiment(options.program or sweep.program)
    launcher = Launcher(sweep.command, experiment.path, fixed)
    experiment.check(sweep.parameters, launcher.option_words)
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
        search = Search(Results(sweep, storage, folder), launcher, cap)
        info(f"{folder}: {sweep.method}, {cap} trials of {experiment.path.name}, {len(launcher.slots)} at a time")
        with launcher.decoding_once(folder):
            search.run()
            report(search, experiment)
    return folder


def number_of_trials(typed, sweep):
    """Return how many trials there are to be: the least that anyone says."""
    limits = [typed, sweep.run_cap, sweep.grid_size() if sweep.method == "grid" else None]
    cap = min((limit for limit in limits if limit), default=TRIALS)
    if cap > MOST_TRIALS:
        raise BadInput(f"the grid has {cap:,} points: say with --trials how many of them, at most {MOST_TRIALS:,}")
    return cap


def report(search, experiment):
    """Write and draw what was found, and look at the test images with the best weights of the best trial."""
    results = search.results
    best = results.storage.best()
    if best is None:
        raise BadInput(f"no trial has finished; {results.folder / 'trials.csv'} gives the reason of each")
    results.write_best(experiment.changed_options(search.launcher.option_words(results.values_of(best))))
    results.say_best()
    search.test_best()
    draw_search(results)
    command = ["python", os.path.relpath(experiment.path), "--config", str(results.folder / "best.yaml")]
    info(f"to run the best again: {shell_line(command)}")


if __name__ == "__main__":
    run_script(main)
