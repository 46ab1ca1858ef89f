"""Folders as data sets are published: what is found in them, and what is told where nothing is."""

import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from helpers import SIDE, command, noise, write_class
from PIL import Image

import ex_1
import pack
from common.data.hdf5 import load_hdf5
from common.data.layouts import find_images, how_to_unpack
from common.data.load import Source
from common.system.errors import BadInput
from common.system.text import shell_line


def write_classes(root, *names, count=4, **options):
    for place, name in enumerate(names):
        write_class(root / name, count, 100 * place, **options)
    return root


def write_table(folder, rows, name="labels.csv", header="file,label"):
    (folder / name).write_text("\n".join([header, *rows] if header else rows) + "\n", encoding="utf-8")
    return folder


def load(root):
    [data] = Source(["folder"], str(root)).load(SIDE, 0.25)
    return data


def refusal(root):
    with pytest.raises(BadInput) as error:
        find_images(str(root), "--data ")
    return str(error.value)


def told(part, layout):
    """Return the names of the files of a part, below its folder, by the names of their classes."""
    names = [*layout.classes, None]
    rows = [(names[label], path.relative_to(layout.folders[part]).as_posix()) for path, label in layout.files[part]]
    return {name: [file for other, file in rows if other == name] for name in dict.fromkeys(name for name, _ in rows)}


@pytest.fixture
def tiny_imagenet(tmp_path):
    """Tiny ImageNet with two classes: 4 training images of each, 4 that validate, 3 for the test."""
    root, wnids = tmp_path / "tiny-imagenet-200", ["n01443537", "n02058221"]
    for place, wnid in enumerate(wnids):
        write_class(root / "train" / wnid / "images", 4, 100 * place, suffix=".JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("000.JPEG\t0\t0\t62\t62\n")
    for place, part in enumerate(("val", "test")):
        write_class(root / part / "images", 4 - place, 500 + 100 * place, suffix=".JPEG")
    rows = [f"{number:03}.JPEG\t{wnids[number % 2]}\t0\t32\t44\t62" for number in range(4)]
    write_table(root / "val", rows, "val_annotations.txt", header=None)
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    return root


def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny_imagenet, capsys):
    layout = find_images(str(tiny_imagenet))
    first, second = layout.classes
    assert told("val", layout) == {
        first: ["images/000.JPEG", "images/002.JPEG"], second: ["images/001.JPEG", "images/003.JPEG"]
    }  # fmt: skip
    assert told("train", layout)[second] == [f"{second}/images/{number:03}.JPEG" for number in range(4)]
    assert told("test", layout) == {None: ["images/000.JPEG", "images/001.JPEG", "images/002.JPEG"]}
    [line] = capsys.readouterr().out.splitlines()
    boxes = tiny_imagenet / "train" / first / f"{first}_boxes.txt"
    assert line == f"note: 2 file(s) are no pictures by their names, not used (such as {boxes})"
    assert [len(split) for split in load(tiny_imagenet).splits.values()] == [8, 4, 3]


def test_tiny_imagenet_is_packed(tiny_imagenet):
    file = pack.main([str(tiny_imagenet), str(tiny_imagenet.with_suffix(".hdf5")), "--size", str(SIDE)])
    parts = load_hdf5(str(file))
    assert parts["val"].labels == [0, 1, 0, 1] and parts["test"].labels == [-1] * 3
    assert Source(["hdf5"], str(file)).load(SIDE, 0.1)[0].digest == load(tiny_imagenet).digest


@pytest.mark.parametrize("name", ["images", "Images"])
def test_images_alone_in_test_are_a_test_without_labels(tmp_path, name):
    write_classes(tmp_path / "train", "ant", "bee")
    write_class(tmp_path / "test" / name, 3, 900)
    assert load(tmp_path).test.labels == [-1] * 3
    write_class(tmp_path / "train" / name, 3, 800)  # now it is the name of a class
    assert load(tmp_path).test.labels == [2 if name == "images" else 0] * 3
    shutil.rmtree(tmp_path / "train" / name)
    (tmp_path / "test").rename(tmp_path / "val")  # a validation without labels is of no use
    assert f"has the class '{name}', which the training images do not have" in refusal(tmp_path)


@pytest.mark.parametrize("below", ["", "images", "images/some"])
def test_a_table_tells_the_classes_of_the_images_beside_it(tmp_path, capsys, below):
    write_class(tmp_path / below, 20)
    inner = below.removeprefix("images").strip("/")
    names = [f"{inner}/{number:03}.png".strip("/") for number in range(20)]
    write_table(tmp_path, [f"{name},{'größe' if place % 2 else 'ant, red'!r}".replace("'", '"')
                           for place, name in enumerate(names)])  # fmt: skip
    layout = find_images(str(tmp_path))
    assert layout.classes == ["ant, red", "größe"]
    assert told("train", layout)["größe"] == [f"{below}/{number:03}.png".strip("/") for number in range(1, 20, 2)]
    assert capsys.readouterr().out == ""
    data = load(tmp_path)
    counts = [[split.labels.count(label) for label in (0, 1)] for split in data.splits.values()]
    assert counts == [[6, 6], [2, 2], [2, 2]]
    folders = write_classes(tmp_path / "as folders", "ant, red", "größe", count=0)
    for path, label in layout.files["train"]:
        shutil.copy(path, folders / layout.classes[label])
    assert load(folders).digest == data.digest


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path, mark):
    write_class(tmp_path / "images" / "a b", 4)
    rows = [mark.join((str(number), f".\\a b\\{number:03}.png", f" {'xy'[number % 2]} ")) for number in range(4)]
    text = "\r\n".join([mark.join(("No", "File", "LABEL")), *rows, "", mark * 2])
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert told("train", find_images(str(tmp_path))) == {
        "x": ["images/a b/000.png", "images/a b/002.png"], "y": ["images/a b/001.png", "images/a b/003.png"]
    }  # fmt: skip


def test_parts_may_have_a_table_each(tmp_path):
    for part, first in (("train", 0), ("test", 50)):
        write_class(tmp_path / part, 4, first)
        write_table(tmp_path / part, [f"{number:03}.png,{'xy'[number % 2]}" for number in range(4)])
    assert load(tmp_path).test.labels == [0, 1, 0, 1]
    write_table(tmp_path / "test", [f"{number:03}.png,z" for number in range(4)])
    assert "has the class 'z', which the training images do not have" in refusal(tmp_path)


def test_images_that_a_table_lacks_are_told_of(tmp_path, capsys):
    write_class(tmp_path, 6)
    write_table(tmp_path, [f"{number:03}.png,{'xy'[number % 2]}" for number in range(4)])
    assert sum(map(len, find_images(str(tmp_path)).files.values())) == 4
    assert "note: 2 image(s)" in (line := capsys.readouterr().out) and "such as 004.png" in line


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["000.png,x", "nobody.png,y"], "'nobody.png' is not there"),
        (["000.png,x", "../outside.png,y"], "'../outside.png' is not there"),
        (["000.png,x", "001.png,y", "000.png,y"], "'000.png' is both 'x' and 'y'"),
        (["000.png,x", "images/000.png,y"], "'images/000.png' is not there"),
        (["000.png,x", "001.png"], "the row '001.png' lacks a file or a label"),
        (["000.png,x", ",y"], "the row ',y' lacks a file or a label"),
        (["000.png,x", "001.png,x"], "has one class only, 'x'"),
    ],
)
def test_tables_that_contradict_the_images_are_refused(tmp_path, rows, reason):
    write_class(tmp_path / "data", 2)
    write_class(tmp_path, 1)
    (tmp_path / "000.png").rename(tmp_path / "outside.png")
    assert reason in (line := refusal(write_table(tmp_path / "data", rows))) and str(tmp_path / "data") in line


def test_a_table_of_something_else_is_none(tmp_path):
    root = write_classes(tmp_path / "a", "ant", "bee")
    write_table(root, ["0,ant", "1,bee"], header="number,name")
    assert find_images(str(root)).classes == ["ant", "bee"]
    write_table(write_class(tmp_path / "b", 4) or tmp_path / "b", ["0,ant", "1,bee"], header="number,name")
    assert "has no class folders, and its labels.csv lacks the columns file and label" in refusal(tmp_path / "b")
    (tmp_path / "b" / "labels.csv").write_bytes("file,label\nö.png,x".encode("utf-16"))
    assert "labels.csv cannot be read" in refusal(tmp_path / "b")


@pytest.mark.parametrize("parts", [["train", "val"], ["train"], [""]])
@pytest.mark.parametrize("above", ["photographs", "a/b/c"])
def test_a_data_set_that_is_alone_in_a_folder_is_taken_and_told(tmp_path, capsys, parts, above):
    for part in parts:
        write_classes(tmp_path / above / part, "ant", "bee")
    (tmp_path / "README.txt").write_text("words")
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    layout = find_images(str(tmp_path))
    assert layout.root == tmp_path / above and list(layout.files) == (parts if parts[0] else ["train"])
    assert capsys.readouterr().out == f"note: {tmp_path} is taken for {tmp_path / above}, the data set in it\n"
    assert load(tmp_path).digest == load(tmp_path / above).digest


def test_a_data_set_among_other_things_is_taken_if_it_has_parts(tmp_path, capsys):
    for part in ("train", "val"):
        write_classes(tmp_path / "nature_12K" / part, "ant", "bee")
    write_class(tmp_path / "others", 3)
    (tmp_path / "nature_12K.zip").write_bytes(b"")
    assert find_images(str(tmp_path)).root == tmp_path / "nature_12K"
    shutil.copytree(tmp_path / "nature_12K", tmp_path / "nature 2")
    assert "holds 2 folders with train/ and other parts: say which one" in refusal(tmp_path)


def test_what_may_be_a_class_is_not_taken_for_the_data_set(tmp_path):
    root = write_classes(tmp_path / "a", "ant")
    write_classes(root / "ant", "summer", "winter")
    assert "one class only, 'ant'" in (line := refusal(root)) and f"did you mean {root / 'ant'}?" in line
    write_classes(tmp_path / "b" / "test", "ant", "bee")
    assert "one class only, 'test'" in refusal(tmp_path / "b")
    (tmp_path / "c" / "round").mkdir(parents=True)
    (tmp_path / "c" / "round" / "again").symlink_to(tmp_path / "c")
    assert refusal(tmp_path / "c")  # and it ends


@pytest.mark.parametrize(
    ("name", "target"),
    [("my photos.zip", "my photos"), ("a.b.tar.gz", "a.b"), ("x.TAR.XZ", "x"), ("x.tgz", "x"), (".zip", "unpacked")],
)
@pytest.mark.slow
def test_the_command_that_unpacks_an_archive_does_so(tmp_path, name, target):
    for part in ("train", "val"):
        write_classes(tmp_path / "nature" / part, "ant", "bee")
    archive = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted((tmp_path / "nature").rglob("*.png")):
                file.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:gz" if "g" in name else "w:xz") as file:
            file.add(tmp_path / "nature", "nature")
    line = refusal(archive)
    assert line.startswith(f"--data {archive}: it is an archive: unpack it with `python -m ")
    _, *words = shlex.split(line.split("`")[1], posix=sys.platform != "win32")
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert line.endswith(f" and give --data {shell_line([str(tmp_path / target)])}")
    assert find_images(str(tmp_path / target)).root == tmp_path / target / "nature"


@pytest.mark.parametrize("words", [[], ["--dataset", "folder"]])
def test_an_archive_is_told_how_to_be_unpacked_by_every_script(tmp_path, words):
    archive = tmp_path / "photographs.tar.gz"
    archive.write_bytes(b"")
    with pytest.raises(BadInput, match="it is an archive: unpack it with `python -m tarfile -e ") as error:
        options = ex_1.parse_options(["--data", str(archive), *words])
        Source.of(vars(options)).read(SIDE)
    assert "\n" not in str(error.value) and str(tmp_path / "photographs") in str(error.value)
    with pytest.raises(BadInput, match="unpack it with"):
        pack.main([str(archive), str(tmp_path / "a.hdf5")])
    assert how_to_unpack(tmp_path / "absent.zip") == how_to_unpack(tmp_path) == ""


@pytest.mark.slow
def test_an_archive_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "my photos.zip").write_bytes(b"")
    done = command("ex_1.py", "--data", tmp_path / "my photos.zip")
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1


def test_many_heic_files_are_one_line_with_the_package_that_reads_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.data.images.formats", lambda: ("JPEG", "PNG"))
    write_classes(tmp_path, "ant", "bee", count=3)
    for number in range(30):
        (tmp_path / "ant" / f"IMG_{number:04}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(BadInput, match=r"^30 files are like this one: .*IMG_0000.HEIC .*`pip install pillow-heif`"):
        load(tmp_path)
    assert capsys.readouterr().err == ""


def test_animated_pictures_are_told_of(tmp_path, capsys):
    write_classes(tmp_path, "ant", "bee", count=5)
    frames = [Image.fromarray(noise(number)) for number in range(3)]
    for name in ("a.gif", "b.png", "c.webp"):
        frames[0].save(tmp_path / "ant" / name, save_all=True, append_images=frames[1:])
    data = load(tmp_path)
    assert data.reading.converted["first frame"] == 3
    note = "note: of 3 picture(s) with several frames (animated, say) the first one is used"
    assert note in capsys.readouterr().out.splitlines()


def test_a_hint_names_only_folders_that_hold_class_folders(tmp_path):
    (tmp_path / "a" / "kit" / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "a" / "kit" / "benchmarks" / "results" / "run.sh").write_text("")
    (tmp_path / "a" / "kit" / "docs").mkdir()
    assert "did you mean" not in refusal(tmp_path / "a")
    write_classes(tmp_path / "a" / "photographs", "ant", "bee")
    (tmp_path / "a" / "empty").mkdir()
    (tmp_path / "a" / "kit" / "docs" / "x.png").write_bytes(b"")
    assert f"did you mean {tmp_path / 'a' / 'photographs'}?" in refusal(tmp_path / "a")


def test_one_class_folder_is_told_that_its_parent_is_meant(tmp_path):
    write_classes(tmp_path / "train", "ant", "bee")
    line = refusal(tmp_path / "train" / "ant")
    assert "has no class folders; its parent folder has: did you mean " in line and f"{tmp_path / 'train'}?" in line
