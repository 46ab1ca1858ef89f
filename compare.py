"""Compare finished runs: a table, curves over each other, and whether a difference is significant.

    python compare.py
    python compare.py outputs/ex_1/cifar10 --by lr
    python compare.py "outputs/*/digits" --metric f1_score --out comparison

Runs that differ in the seed alone are grouped. Run folders are only read: without --out, all goes to a new folder
below outputs/compare/. Its report.html is one page with everything, to be opened in any browser.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

from pathlib import Path

from common.comparing.finished_runs import read_runs
from common.comparing.folder import check_folder, write_comparison
from common.comparing.mistakes import read_all_mistakes
from common.comparing.overview import check_metric, compare, option_to_draw
from common.comparing.tables import print_overview
from common.options.parser import Parser
from common.options.types import path
from common.system.log import info

OUTPUTS = "outputs"  # where runs are, unless they were sent elsewhere
METRIC = "val_accuracy"  # which chose the weights of each run; choosing runs by test scores would spoil these


def parse_options(argv=None):
    """Return the options."""
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("runs", type=path, nargs="*", default=[OUTPUTS], metavar="RUN",
        help="run folders, folders with run folders below, and patterns of them (default: outputs)")  # fmt: skip
    add("-h", "--help", action="help", help="show this and exit")
    add("--by", metavar="OPTION",
        help="draw results against this option (default: the one that differs, if there is just one)")  # fmt: skip
    add("--metric", default=METRIC, metavar="NAME",
        help="sort by this: a name in the epochs of train.json (of the epoch whose weights were kept), or of "
             "test.json, there test_accuracy, test_loss")  # fmt: skip
    add("--out", type=path, metavar="DIR", help="where to write (default: outputs/compare/<time>)")
    return parser.parse_intermixed_args(argv)


def main(argv=None):
    """Compare, print and write, and return the folder that was written.

    Raises:
        BadInput: before anything is written, if there is nothing to compare or no place to write to.
    """
    options = parse_options(argv)
    if options.out:
        check_folder(Path(options.out))
    runs, passed = read_runs(options.runs)
    metric = options.metric.replace("-", "_")
    check_metric(runs, metric)
    by = option_to_draw(runs, options.by)

    mistakes, damaged = read_all_mistakes(runs)
    overview = compare(runs, metric, mistakes, [*passed, *damaged])
    print_overview(overview)
    target = write_comparison(options.out, overview, by)
    info(f"\nwritten to {target}: report.html, compare.md, compare.csv, compare_groups.csv and pictures")
    return target


if __name__ == "__main__":
    run_script(main)
