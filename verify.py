"""Prove that runs happened as their folders claim.

    python verify.py outputs/ex_1/digits/2026-11-21_14-05-33
    python verify.py hand-ins/* --task task.yaml --csv grades.csv --html page.html
    python verify.py RUN --predict                    predictions again, from its weights and the images
    python verify.py RUN --rerun 3 --trust            three epochs again, from its code and the images

Always: checksums, files that belong together, every score from the stored predictions, the history from the state in
last.pth, looks at the test images, copies among the folders. The folders are only read, and no code in them is
executed, unless --rerun --trust asks for it. The exit code is 0 if all is as claimed, and 2 if not.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

from pathlib import Path

from common.options.parser import Parser
from common.options.types import absolute_path, integer, path
from common.system.errors import BadInput
from common.system.log import progress
from tools.outputs import check_writable
from tools.verifying.again import predict_again, rerun, told
from tools.verifying.claims import check, guarded
from tools.verifying.folder import find_folders
from tools.verifying.pictures import check_drawn
from tools.verifying.results import find_copies, tell, write_csv, write_page
from tools.verifying.task import check_task, read_task

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
    add("--task", type=path, metavar="FILE.yaml", help="what was asked for: script, images, options, seeds, smallest n")
    add("--csv", type=path, metavar="FILE", help="write a row for each folder")
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
    """Verify, print and write, and return the folders with what was found; BadInput is raised if a claim is false."""
    options = parse_options(argv)
    task = read_task(options.task) if options.task else {}
    for name in ("csv", "html"):
        if file := getattr(options, name):
            check_writable(Path(file), f"--{name} {file}")
    folders = find_folders(options.runs)
    with progress(len(folders), "verifying", " runs") as bar:
        for folder in folders:
            check(folder)
            bar.update()
    find_copies(folders)
    check_task(task, folders)
    for folder in told(folders, "drawing again") if options.pictures else ():
        guarded(folder, check_drawn)
    for folder in told(folders, "predicting again") if options.predict else ():
        guarded(folder, lambda one: predict_again(one, options.data))
    for folder in told(folders, "training again") if options.rerun is not None else ():
        guarded(folder, lambda one: rerun(one, options.rerun or None, options.this_code, options.data))
    tell(folders)
    if options.csv:
        write_csv(Path(options.csv), folders)
    if options.html:
        write_page(Path(options.html), folders)
    wrong = sum(not folder.is_as_claimed for folder in folders)
    if wrong:
        raise BadInput(f"{wrong} of {len(folders)} run(s) have false claims, see above")
    return folders


if __name__ == "__main__":
    run_script(main)
