"""Compare finished runs: a table, curves over each other, and whether a difference is significant.

    python compare.py
    python compare.py outputs/ex_1/cifar10 --by lr
    python compare.py outputs/ex_2 --by augment,width --baseline augment=True,width=16 --margin 0.005
    python compare.py "outputs/*/digits" --metric f1_score --out comparison

Runs that differ in the seed alone are grouped, and groups are compared seed by seed; so are the folds of a
cross-validation, fold by fold. docs/statistics.md says how.
Run folders are only read: without --out, all goes to a new folder below outputs/compare/. Its report.html is one page
with everything, to be opened in any browser.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import time
from pathlib import Path

from common.options.parser import Parser
from common.options.types import number, one_of, path
from common.system.errors import DISK_FULL, BadInput
from common.system.files import PICTURE_KINDS, first_free, pictures_also_as
from common.system.log import info
from tools.comparing.finished_runs import read_runs
from tools.comparing.overlays import draw_pictures
from tools.comparing.overview import Question, check_metric, compare, options_to_draw
from tools.comparing.predictions import read_all_predictions
from tools.comparing.report import is_our_report, write_report
from tools.comparing.tables import print_overview, write_csvs, write_latex, write_markdown
from tools.outputs import check_writable

OUTPUTS = "outputs"  # where runs are, unless they were sent elsewhere
DEFAULT = Path("outputs", "compare")
METRIC = "val_accuracy"  # which chose the weights of each run; choosing runs by test scores would spoil these
WRITTEN = ("report.html", "compare.md", "compare.tex", "compare.csv", "compare_groups.csv", "compare_effects.csv",
           "loss.png", "accuracy.png", "accuracy_by_time.png", "differences.png")  # fmt: skip


def parse_options(argv=None):
    """Return the options."""
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("runs", type=path, nargs="*", default=[OUTPUTS], metavar="RUN",
        help="run folders, folders with run folders below, and patterns of them (default: outputs)")  # fmt: skip
    add("-h", "--help", action="help", help="show this and exit")
    add("--by", action="append", default=[], metavar="OPTION,...",
        help="draw results against these options and tell the effect of each (default: the one that differs, if there "
             "is just one)")  # fmt: skip
    add("--baseline", metavar="WHAT",
        help="compare each group with this one, which you named before you saw a result, and not with the best: "
             "option=value, several separated by commas, or the folder of one of its runs")  # fmt: skip
    add("--name", action="append", default=[], metavar="GROUP=NAME",
        help="call a group so in tables, pictures and the page, which is named as for --baseline: lr=0.01=high, or "
             "outputs/ex_1/digits/<time>=mine; several times")  # fmt: skip
    add("--margin", type=number(above=0), metavar="X",
        help="differences below this do not matter: say what is equivalent, different, or undecided")  # fmt: skip
    add("--metric", default=METRIC, metavar="NAME",
        help="sort by this: a name in the epochs of train.json (of the epoch whose weights were kept), or of "
             "test.json, there test_accuracy, test_loss")  # fmt: skip
    add("--figures", type=one_of(PICTURE_KINDS), default="png", metavar="KIND",
        help=f"{', '.join(PICTURE_KINDS)}: the others are for papers, and beside each PNG")  # fmt: skip
    add("--out", "--output_dir", type=path, metavar="DIR", help="where to write (default: outputs/compare/<time>)")
    return parser.parse_intermixed_args(argv)


def main(argv=None):
    """Compare, print and write, and return the folder. BadInput is raised before anything is written."""
    options = parse_options(argv)
    if options.out:
        check_folder(Path(options.out))
    runs, passed = read_runs(options.runs)
    metric = options.metric.replace("-", "_")
    check_metric(runs, metric)
    by = options_to_draw(runs, options.by)

    told = read_all_predictions(runs, metric)
    question = Question(metric, by, options.baseline, options.margin, tuple(options.name))
    overview = compare(runs, question, told, passed)
    print_overview(overview)
    folder = make_folder(options.out)
    with pictures_also_as(options.figures):
        pictures = draw_pictures(folder, overview, by)
    write_csvs(folder, overview)
    write_markdown(folder / "compare.md", overview, pictures)
    write_latex(folder / "compare.tex", overview)
    write_report(folder / "report.html", overview)
    info("", f"written to {folder}: report.html, compare.md, compare.tex, compare.csv, compare_groups.csv and pictures")
    return folder


def check_folder(folder):
    """Raise BadInput if a comparison cannot be written to `folder`, or would take the place of other files there."""
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise BadInput(f"--out {folder} is no folder")
        return
    report = folder / "report.html"
    foreign = ["config.json"] if (folder / "config.json").exists() else []
    if not (report.is_file() and is_our_report(report)):
        foreign += sorted(path.name for path in _written(folder))
    if foreign:
        raise BadInput(f"--out {folder} has a {foreign[0]} that is no comparison's; choose another folder")
    check_writable(report, f"--out {folder}: report.html")


def _written(folder):
    """Return the files in a folder that are named as those of a comparison."""
    as_png = {path: path.with_suffix(".png") if path.suffix[1:] in PICTURE_KINDS else path for path in folder.glob("*")}
    return [path for path, named in as_png.items() if named.name in WRITTEN or named.match("by_*.png")]


def make_folder(out):
    """Make and return the folder `out`, or one of its own for this second."""
    try:
        parent = Path(out or DEFAULT)
        parent.mkdir(parents=True, exist_ok=True)
        for path in _written(parent) if out else ():
            path.unlink()  # of an older comparison, which may have had pictures that this one has not
        return parent if out else first_free(parent, time.strftime("%Y-%m-%d_%H-%M-%S"), Path.mkdir)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise BadInput(f"--out {out or DEFAULT}: nothing can be written there ({error.strerror})") from error


if __name__ == "__main__":
    run_script(main)
