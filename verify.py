"""Prove that runs happened as their folders claim.

    python verify.py outputs/ex_1/digits/2026-11-21_14-05-33
    python verify.py hand-ins/* --task task.yaml --csv grades.csv --html page.html
    python verify.py RUN --predict                    predictions again, from its weights and the images
    python verify.py RUN --rerun 3 --trust            three epochs again, from its code and the images

Always: checksums, files that belong together, every score from the stored predictions, the history from the state in
last.pth, report.html, looks at the test images, copies among the folders. The folders are only read, and no code in
them is executed, unless --rerun --trust asks for it. The exit code is 0 if nothing is false and everybody has
fulfilled the task, and 2 if not.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import sys
from pathlib import Path

from common.options.parser import Parser
from common.options.types import absolute_path, integer, path
from common.system.errors import BadInput
from common.system.log import progress
from tools.outputs import check_writable
from tools.verifying.again import predict_again, rerun, told
from tools.verifying.claims import check, guarded
from tools.verifying.folder import Folder, find_folders
from tools.verifying.people import people_of
from tools.verifying.pictures import check_drawn
from tools.verifying.results import tell, write_csv, write_page, write_people
from tools.verifying.task import check_options, check_task, read_task
from tools.verifying.together import find_copies, find_not_handed_in

ALL = 0  # epochs of --rerun without a number


def parse_options(argv=None):
    """Return the options."""
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("runs", type=path, nargs="+", metavar="RUN", help="run folders, and folders with run folders below")
    add("-h", "--help", action="help", help="show this and exit")
    add("--pictures", action="store_true", help="draw curves, matrices and ROC again, and compare them pixel by pixel")
    add("--predict", action="store_true", help="make the predictions again, from the weights and the images")
    add("--rerun", type=integer(1), nargs="?", const=ALL, metavar="EPOCHS",
        help="train again, all epochs or so many of them, and compare the weights bit for bit")  # fmt: skip
    add("--trust", action="store_true", help="let --rerun execute the code that lies in the folders")
    add("--this_code", "--this-code", action="store_true", help="let --rerun execute the code of this tree instead")
    add("--data", type=absolute_path, metavar="PATH", help="where the images are, if not where the run found them")
    add("--task", type=path, metavar="FILE.yaml",
        help="what was asked for: script, images, options, seeds, smallest n; each RUN is a person's")  # fmt: skip
    add("--csv", type=path, metavar="FILE",
        help="write a row for each folder, and with --task one for each person to FILE_people beside it")  # fmt: skip
    add("--html", type=path, metavar="FILE", help="write a page with all that was found")
    options = parser.parse_intermixed_args(argv)
    if options.rerun is not None and not (options.trust or options.this_code):
        raise BadInput(
            "--rerun executes code: say --trust for what lies in the folders, or --this_code for this tree's"
        )
    if options.rerun is None and (options.trust or options.this_code):
        raise BadInput("--trust and --this_code belong to --rerun")
    return options


def main(argv=None):
    """Verify, print and write, and return the folders with what was found.

    The process ends with exit code 2 if a claim is false, or somebody has not fulfilled the task.
    """
    options = parse_options(argv)
    task = read_task(options.task) if options.task else {}
    for name in ("csv", "html"):
        if file := getattr(options, name):
            check_writable(Path(file), f"--{name} {file}")
    folders = find_folders(options.runs)
    runs = [folder for folder in folders if folder.is_run]
    check_options(task, runs)
    with progress(len(runs), "verifying", " runs") as bar:
        for folder in runs:
            check(folder)
            bar.update()
    find_not_handed_in(runs)
    _do_again(options, runs)
    find_copies(runs)  # behind, as of two equal ones that may be false of which the predictions are not its own
    check_task(task, runs)
    people = people_of(task, folders) if options.task else []
    tell(folders, people)
    if options.csv:
        write_csv(Path(options.csv), folders)
    if options.csv and people:
        write_people(Path(options.csv), people)
    if options.html:
        write_page(Path(options.html), folders, people)
    if not all(folder.is_as_claimed for folder in folders) or not all(person.has_fulfilled for person in people):
        sys.exit(2)  # without a word more: this is a result, and no error
    return folders


def _do_again(options, folders: list[Folder]) -> None:
    """Draw, predict and train again, as far as that is asked for."""
    folders = [folder for folder in folders if folder.is_finished]
    before = [list(folder.findings) for folder in folders]
    for folder in told(folders, "drawing again") if options.pictures else ():
        guarded(folder, check_drawn)
    for folder in told(folders, "predicting again") if options.predict else ():
        guarded(folder, predict_again, options.data)
    for folder in told(folders, "training again") if options.rerun is not None else ():
        guarded(folder, rerun, options.rerun or None, options.this_code, options.data)
    for folder, known in zip(folders, before, strict=True):
        folder.asked = [one for one in folder.findings if one not in known]


if __name__ == "__main__":
    run_script(main)
