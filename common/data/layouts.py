"""Which image files a folder holds, and the part and the class of each, in the layouts that data sets are published in.

A data set is `train/` with `val/` or `test/` beside it, or one folder without parts, as it is or alone in another one.
In each part the class of an image is the folder that it is in, at any depth, or what a table says: `labels.csv`, with
the columns `file` and `label`, or `val_annotations.txt` of Tiny ImageNet; the images are beside it or in `images/`.
A test without class folders, or with `images/` alone, has no labels.
"""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common.system.errors import BadInput
from common.system.log import info
from common.system.text import printable, shell_line

IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # what operating systems leave in folders
NO_PICTURES = (
    ".txt", ".csv", ".tsv", ".xml", ".json", ".yaml", ".yml", ".md", ".html", ".pdf", ".log", ".mat", ".npy", ".npz",
    ".py", ".ipynb", ".zip", ".mp4", ".mov", ".aae", ".xmp",
)  # fmt: skip  # what data sets, phones and programs leave beside their pictures
NAMES_OF_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}  # in any case
TABLE, ANNOTATIONS, COLUMNS = "labels.csv", "val_annotations.txt", ("file", "label")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".heic")  # by which a hint knows them
IMAGES = "images"  # a folder of this name stands for no class, where a table or nobody knows the classes
DEEPEST = 3  # folders that hold nothing but another one
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """The images of a data set.

    `folders` are those of the parts "train" and, where they are there, "val" and "test"; `files` has (path, label) of
    each image of a part, in the order of folders and names, with the label -1 where it is unknown.
    """

    root: Path
    folders: dict[str, Path]
    classes: list[str]
    files: dict[str, list[tuple[Path, int]]]


def find_images(location: str, option: str = "") -> Layout:
    """Return what the folder `location` holds, without opening an image; `option` is how it was given, for errors.

    BadInput is raised if there is no such folder, there are no images, or a class that training does not have.
    """
    root, passed_over = _root(Path(location), option), []
    folders = _part_folders(root)
    named = {"train": _named_files(folders["train"], "train", passed_over)}
    classes = sorted({name for _, name in named["train"]})
    if len(classes) == 1:
        only = f"{folders['train']} has one class only, {classes[0]!r}"
        raise BadInput(f"{only}: nothing to tell apart{_suggestion(root)}")
    for part in sorted(folders.keys() - named.keys()):
        named[part] = _named_files(folders[part], part, passed_over, classes)
    tell_passed_over(passed_over)
    number = {name: label for label, name in enumerate(classes)} | {"": -1}
    files = {part: [(path, number[name]) for path, name in named[part]] for part in folders}
    return Layout(root, folders, classes, files)


def in_their_roles(parts: dict) -> dict:
    """Return parts by what they serve for: with `train` and one of `val` and `test`, that one is the test set."""
    if "val" in parts and "test" not in parts:
        return {"test" if name == "val" else name: part for name, part in parts.items()}
    return parts


def how_to_unpack(path: Path) -> str:
    """Return what to do with an archive, with the command for every system; nothing if it is none by its name."""
    if not (path.is_file() and (ending := ARCHIVE.search(path.name))):
        return ""
    target = path.with_name(path.name[: ending.start()] or "unpacked")
    module = "zipfile" if ending[1].lower() == "zip" else "tarfile"
    command = shell_line(["python", "-m", module, "-e", str(path), str(target)])
    return f"it is an archive: unpack it with `{command}` and give --data {shell_line([str(target)])}"


def _root(given: Path, option: str) -> Path:
    """Return the folder of the data set in the folder that was given, which it need not be itself; a note tells."""
    if what := how_to_unpack(given):
        raise BadInput(f"{option}{given}: {what}")
    if not given.is_dir():
        hint = "; any folder with a folder of images for each class will do, and --dataset digits needs none"
        raise BadInput(f"{option}{given}: there is no such folder{hint if option else ''}")
    root = given
    for _ in range(DEEPEST):
        root = _only_data_set(root) or root
    if root != given:
        info(f"note: {given} is taken for {root}, the data set in it")
    return root


def _only_data_set(folder: Path) -> Path | None:
    """Return the folder in `folder` that is a data set where `folder` is none; BadInput is raised if there are several.

    That is one with `train` and another part, or one that is alone and has folders, but no pictures, in it.
    """
    names = folder_names(folder)
    if _labels(folder) or {name.lower() for name in names} & NAMES_OF_PARTS.keys():
        return None
    parts = {name: {NAMES_OF_PARTS.get(inner.lower()) for inner in folder_names(folder / name)} for name in names}
    inner = [folder / name for name in names if "train" in parts[name] and parts[name] & {"val", "test"}]
    if len(inner) > 1:
        which = ", ".join(str(one) for one in inner[:3])
        raise BadInput(f"{folder} holds {len(inner)} folders with train/ and other parts: say which one ({which}, …)")
    if not inner and len(names) == 1:
        [alone] = [folder / names[0]]
        has_images = any(entry.is_file() and _is_picture(entry) for entry in alone.iterdir())
        inner = [alone] if _labels(alone) or (folder_names(alone) and not has_images) else []
    return inner[0] if inner else None


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the parts below `root`; that of "train" is `root` if there is none."""
    names = folder_names(root)
    folders = {NAMES_OF_PARTS[name.lower()]: root / name for name in names if name.lower() in NAMES_OF_PARTS}
    train = folders.get("train")
    if not train or (len(names) > len(folders) and not folder_names(train) and not _labels(train)):
        return {"train": root}  # where a folder named "train" may be one of the classes
    if others := [name for name in names if root / name not in folders.values()]:
        info(f"warning: {root} has other folders beside {', '.join(sorted(folders))}; not used: {', '.join(others)}")
    return {part: folders[part] for part in ("train", "val", "test") if part in folders}


def _named_files(
    folder: Path, part: str, passed_over: list[Path], classes: list[str] | None = None
) -> list[tuple[Path, str]]:
    """Return (path, name of the class) of every image of a part, sorted; the name is empty where nothing tells it.

    `classes` are those of the training images, or None for these.
    """
    if labels := _labels(folder):
        files = _files_in_table(folder, labels, passed_over)
    else:
        files = _files_in_class_folders(folder, part, passed_over, classes or [])
    names = {name for _, name in files} - {""}
    if classes and (unknown := sorted(names - set(classes))):
        known = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
        extra = f"{folder} has the class {unknown[0]!r}, which the training images do not have"
        raise BadInput(f"{extra} (they have {known}): rename or remove it")
    if classes and names and len(names) < len(classes):
        info(f"warning: {folder} lacks {len(classes) - len(names)} of {len(classes)} classes")
    return files


def _files_in_class_folders(
    folder: Path, part: str, passed_over: list[Path], classes: list[str]
) -> list[tuple[Path, str]]:
    names, files = folder_names(folder), []
    if part == "test" and [name.lower() for name in names] == [IMAGES] and not set(names) & set(classes):
        names = []
    if not names and part != "test":
        lacks = f", and its {TABLE} lacks the columns {' and '.join(COLUMNS)}" if (folder / TABLE).exists() else ""
        if folder.name.lower() not in NAMES_OF_PARTS and _has_class_folders(folder.parent):
            lacks += f"; its parent folder has: did you mean {folder.parent}?"
        raise BadInput(f"{folder} has no class folders{lacks}")
    loose = [entry.name for entry in folder.iterdir() if entry.is_file() and not _is_ignored(entry.name)]
    if names and loose:
        info(f"warning: {len(loose)} file(s) in {folder} are in no class folder, and not used (such as {loose[0]})")
    for name in names or [""]:
        of_class = [(path, name) for path in image_files(folder / name, passed_over)]
        if not of_class and names:
            raise BadInput(f"the class folder {folder / name} is empty: add images or remove it{_suggestion(folder)}")
        files += of_class
    if not files:
        raise BadInput(f"{folder} is empty: remove it, or put the test images there")
    return files


def _files_in_table(folder: Path, labels: dict[str, str], passed_over: list[Path]) -> list[tuple[Path, str]]:
    """Return the images below `folder` that a table in it has `labels` of; those that it lacks are told of."""
    others, wanted = [], {}
    found = {path.relative_to(folder).as_posix(): path for path in image_files(folder, others)}
    for name, label in labels.items():
        place = name if name in found else f"{IMAGES}/{name}"
        if wanted.setdefault(place, label) != label or place not in found:
            what = "is not there" if place not in found else f"is both {wanted[place]!r} and {label!r}"
            raise BadInput(f"{folder}: of its table of labels, the file {printable(name, 100)!r} {what}")
    passed_over += [path for path in others if path not in (folder / TABLE, folder / ANNOTATIONS)]
    if rest := [name for name in found if name not in wanted]:
        info(f"note: {len(rest)} image(s) in {folder} are not in its table of labels, not used (such as {rest[0]})")
    return [(path, wanted[name]) for name, path in found.items() if name in wanted]


def _labels(folder: Path) -> dict[str, str]:
    """Return the label of each file that a table in `folder` names, or nothing if there is no such table.

    BadInput is raised if it cannot be read, a row lacks one of them, or a file has two labels.
    """
    path = next((folder / name for name in (TABLE, ANNOTATIONS) if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
        mark = "\t" if path.name == ANNOTATIONS else next((one for one in ",;\t" if one in "".join(lines[:1])), ",")
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read ({error}): it must be a table in UTF-8") from error
    places, labels = (0, 1), {}
    if path.name == TABLE:
        header = [name.lower() for name in rows.pop(0)] if rows else []
        if not set(COLUMNS) <= set(header):
            return {}  # it tells something else
        places = [header.index(name) for name in COLUMNS]
    for row in filter(any, rows):
        name, label = (row[place] if place < len(row) else "" for place in places)
        if not name or not label:
            raise BadInput(f"{path}: the row {printable(mark.join(row), 100)!r} lacks a file or a label")
        name = name.replace("\\", "/").removeprefix("./")
        if labels.setdefault(name, label) != label:
            raise BadInput(f"{path}: {printable(name, 100)!r} is both {labels[name]!r} and {label!r}")
    return labels


def image_files(folder: Path, passed_over: list[Path]) -> Iterator[Path]:
    """Yield all files below `folder` in sorted order, without hidden ones, litter and what is no picture by its name.

    The latter are added to `passed_over`. Links to other folders are followed, once each.
    """
    followed = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not _is_ignored(name))
        subfolders[:] = [name for name in subfolders if _leads_on(Path(parent, name), folder, followed)]
        for path in (Path(parent, name) for name in sorted(names) if not _is_ignored(name)):
            if _is_picture(path):
                yield path
            else:
                passed_over.append(path)


def _leads_on(subfolder: Path, start: Path, followed: set[Path]) -> bool:
    """Tell whether a walk that began at `start` shall go into `subfolder`: not if that is a link back to where it is.

    The targets of links are added to `followed`.
    """
    if not subfolder.is_symlink():
        return True
    target, start = subfolder.resolve(), start.resolve()
    if target in followed or target.is_relative_to(start) or start.is_relative_to(target):
        info(f"warning: {subfolder} is passed over: it is a link back to {target}, whose images are read anyway")
        return False
    followed.add(target)
    return True


def tell_passed_over(passed_over: list[Path]) -> None:
    """Say how many files `image_files` has passed over."""
    if passed_over:
        info(f"note: {len(passed_over)} file(s) are no pictures by their names, not used (such as {passed_over[0]})")


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted, without hidden ones and litter."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_ignored(entry.name))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _is_picture(path: Path) -> bool:
    """Tell whether a file may be one by its name."""
    return not _is_ignored(path.name) and path.suffix.lower() not in NO_PICTURES


def _suggestion(root: Path) -> str:
    """Return a hint at a folder below `root` that looks more like what is wanted, or nothing."""
    inner = [root / name for name in folder_names(root) if _has_class_folders(root / name)]
    return f"; did you mean {inner[0]}?" if inner else ""


def _has_class_folders(folder: Path) -> bool:
    """Tell whether `folder` has two folders or more, and each of them pictures, or folders of pictures."""
    try:
        inner = [folder / name for name in folder_names(folder)]
    except OSError:  # above what was given there may be what nobody may read
        return False
    files = (chain(one.glob("*.*"), one.glob("*/*.*")) for one in inner)
    return len(inner) > 1 and all(any(file.suffix.lower() in PICTURES for file in some) for some in files)
