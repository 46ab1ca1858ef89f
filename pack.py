"""Pack class folders into one HDF5 file, which is read many times as fast as photographs are decoded.

    python pack.py photographs/ photographs.hdf5
    python pack.py photographs/ small.hdf5 --size 64 --fit squash --skip_unreadable

The folder is laid out as one that is given with --data. Each part of it keeps its role: with the same size of images
and the same seed, a run on the file has the training, validation and test images of a run on the folder. Every image
becomes a square; all are read back and compared before the file gets its name.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

from pathlib import Path

from common.options.parser import Parser
from common.options.types import integer, one_of, path
from common.system.distributed import usable_cores
from tools.packing import check_target, find_splits, pack, report

SIZE = 96  # pixels: that of Medium ImageNet
FITS = ("crop", "squash")
LARGEST_SIZE = 4096


def parse_options(argv=None):
    """Return the options."""
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("folder", type=path, metavar="FOLDER", help="the folder with train/, val/ and test/, or with class folders")
    add("file", type=path, metavar="OUT.hdf5", help="the file to write")
    add("-h", "--help", action="help", help="show this and exit")
    add("--size", type=integer(1, LARGEST_SIZE), default=SIZE, metavar="N", help="side of the squares in pixels")
    add("--fit", type=one_of(FITS), default=FITS[0], metavar="NAME",
        help="how a picture becomes a square: crop takes its middle, squash all of it, out of proportion")  # fmt: skip
    add("--workers", type=integer(1, 1024), default=usable_cores(), metavar="N", help="threads that decode files")
    add("--skip_unreadable", "--skip-unreadable", action="store_true",
        help="leave out image files that cannot be read, and list them")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the file if it exists")
    return parser.parse_intermixed_args(argv)


def main(argv=None):
    """Pack, verify, say what was packed, and return the path of the file.

    Raises:
        BadInput: before the work, if anything is missing; after it, if some images cannot be read. There is no file
            then.
    """
    options = parse_options(argv)
    target = Path(options.file)
    splits = find_splits(options.folder, options.size, options.fit, options.workers)
    pixels = sum(split.dataset.size**2 * len(split) for split in splits.values())
    check_target(target, Path(options.folder), options.overwrite, 3 * pixels)
    report(target, pack(splits, target, options.skip_unreadable))
    return target


if __name__ == "__main__":
    run_script(main)
