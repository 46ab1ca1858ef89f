import functools
import itertools
import os
import pickle
import random
import shutil
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SIDE as SIZE
from helpers import noise, table, without_pictures, write_class
from PIL import Image

import common.data.folders
import common.data.images
import common.data.index
import common.data.layouts
import common.system.memory
import ex_2
from common.data.arrays import ArrayDataset
from common.data.batches import make_batches
from common.data.folders import FolderDataset, load_folder
from common.data.load import Source, tell_of_images
from common.system.checkpoints import load_checkpoint, save_checkpoint
from common.system.device import Machine
from common.system.errors import BadInput
from common.system.files import lock
from common.transforms.basic import Compose, RandomCrop


def write_classes(root, counts, first_seed=0, **options):
    """Write so many pictures of each class, all different, and return `root`."""
    for name, count in counts.items():
        write_class(root / name, count, first_seed, **options)
        first_seed += count
    return root


def write_parts(root, *parts, count=6):
    for place, part in enumerate(parts):
        write_classes(root / part, {"ant": count, "bee": count}, first_seed=1000 * place)
    return root


def load(root, image_size=SIZE, val_fraction=0.2, fit="crop", **options):
    [data] = Source(["folder"], str(root), **options).load(image_size, val_fraction, fit)
    return data


def refusal(root, **options):
    with pytest.raises(BadInput) as error:
        load(root, **options)
    return str(error.value)


def parts_of(root, size=SIZE, **options):
    parts, _ = load_folder(str(root), size, 2, **options)
    return parts


def ids_of(part):
    return [part.dataset.ids[sample] for sample in part.indices]


def pixels_by_id(part):
    images, _ = part.dataset.batch(part.indices)
    return dict(zip(ids_of(part), images.permute(0, 2, 3, 1).numpy(), strict=True))


@pytest.fixture
def never_fits(monkeypatch):
    monkeypatch.setattr(common.system.memory, "available_memory", lambda: 0)


def test_class_names_are_sorted_and_labels_follow_them(tmp_path):
    write_classes(tmp_path, {"cat": 3, "Ant": 2, "bee": 4})
    (part,) = parts_of(tmp_path).values()
    assert part.dataset.classes == ["Ant", "bee", "cat"]
    assert part.labels == [0] * 2 + [1] * 4 + [2] * 3
    assert ids_of(part)[0] == "Ant/000.png" and ids_of(part)[-1] == "cat/002.png"


def test_train_val_and_test_are_what_they_are_called(tmp_path):
    data = load(write_parts(tmp_path, "train", "val", "test"))
    for name in ("train", "val", "test"):
        part = getattr(data, name)
        assert len(part) == 12
        assert all(identifier.startswith(f"{name}/") for identifier in ids_of(part))


@pytest.mark.parametrize("other", ["val", "test"])
def test_with_train_and_one_other_that_one_is_the_test_set(tmp_path, other):
    data = load(write_parts(tmp_path, "train", other, count=10))
    assert len(data.test) == 20 and {identifier.split("/")[0] for identifier in ids_of(data.test)} == {other}
    assert (len(data.train), len(data.val)) == (16, 4)
    assert sorted(ids_of(data.train) + ids_of(data.val)) == sorted(
        f"train/{name}/{number:03}.png" for name in ("ant", "bee") for number in range(10)
    )


@pytest.mark.parametrize("inner", ["", "train"])
def test_class_folders_alone_are_divided_in_three(tmp_path, inner):
    write_classes(tmp_path / inner, {"ant": 20, "bee": 40})
    data = load(tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [39, 9, 12]
    assert data.test.labels.count(0) == 4 and data.val.labels.count(0) == 3
    together = sorted(ids_of(data.train) + ids_of(data.val) + ids_of(data.test))
    assert together == sorted(set(together)) and len(together) == 60


def test_the_test_images_are_the_same_whatever_the_split_seed_and_the_validation_images_are_not(tmp_path):
    write_classes(tmp_path, {"ant": 30, "bee": 30})
    one, other = load(tmp_path, split_seed=0), load(tmp_path, split_seed=1)
    assert ids_of(one.test) == ids_of(other.test)
    assert ids_of(one.val) != ids_of(other.val)
    assert one.digest != other.digest
    assert one.digest == load(tmp_path, split_seed=0, seed=1).digest


@pytest.mark.parametrize(
    "names", [("Train", "Val", "TEST"), ("train", "valid", "test"), ("train", "Validation", "test")]
)
def test_parts_go_by_their_other_names_too(tmp_path, names):
    data = load(write_parts(tmp_path, *names))
    for name, part in zip(names, (data.train, data.val, data.test), strict=True):
        assert {identifier.split("/")[0] for identifier in ids_of(part)} == {name}


def test_folds_need_training_images_that_validate(tmp_path):
    root = write_parts(tmp_path, "train", "val", "test")
    assert "--folds: " in (line := refusal(root, folds="1/2")) and "validation images of its own" in line
    assert len(load(root / "train", folds="1/2").val) == 5  # of ten that are left of twelve


def test_folders_beside_the_parts_are_not_used_and_that_is_said(tmp_path, capsys):
    data = load(write_parts(tmp_path, "train", "test", "extra"))
    assert "not used: extra" in capsys.readouterr().out
    assert len(data.train) + len(data.val) + len(data.test) == 24


def test_a_class_may_be_called_like_a_part(tmp_path):
    write_classes(tmp_path, {"bus": 5, "test": 5, "train": 5})
    assert load(tmp_path).classes == ["bus", "test", "train"]


def test_test_images_without_class_folders_have_no_labels(tmp_path):
    write_parts(tmp_path, "train")
    write_class(tmp_path / "test", 5, 500)
    data = load(tmp_path)
    assert data.test.labels == [-1] * 5
    assert ids_of(data.test) == [f"test/{number:03}.png" for number in range(5)]
    assert data.classes == ["ant", "bee"]


def test_classes_are_taken_from_train_alone_and_applied_by_name(tmp_path):
    write_classes(tmp_path / "train", {"ant": 5, "bee": 5, "cat": 5})
    write_classes(tmp_path / "test", {"bee": 2, "cat": 3}, 500)
    data = load(tmp_path)
    assert data.classes == ["ant", "bee", "cat"]
    assert data.test.labels == [1] * 2 + [2] * 3


def test_a_class_that_the_test_set_lacks_is_allowed_and_said(tmp_path, capsys):
    write_classes(tmp_path / "train", {"ant": 5, "bee": 5, "cat": 5})
    write_classes(tmp_path / "test", {"bee": 2}, 500)
    load(tmp_path)
    assert f"{tmp_path / 'test'} lacks 2 of 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_training_lacks_is_named(tmp_path, part):
    write_parts(tmp_path, "train", "val", "test")
    write_class(tmp_path / part / "wasp", 2, 900)
    line = refusal(tmp_path)
    assert "'wasp'" in line and str(tmp_path / part) in line and "ant, bee" in line


@pytest.mark.parametrize(("name", "image_size"), [("8x8", 8), ("8x8", 32), ("12x12", 12)])
def test_small_squares_of_one_size_keep_their_pixels(tmp_path, name, image_size):
    side = int(name.split("x")[0])
    write_classes(tmp_path, {"ant": 6, "bee": 6}, height=side, width=side)
    pixels = pixels_by_id(parts_of(tmp_path, image_size)["train"])
    for place, identifier in enumerate(sorted(pixels)):
        assert np.array_equal(pixels[identifier], noise(place, side, side))


@pytest.mark.parametrize(
    ("shapes", "image_size", "expected"),
    [
        ([(20, 20), (20, 20)], 10, 10),
        ([(8, 10), (8, 10)], 16, 16),
        ([(8, 8), (9, 9)], 16, 16),
        ([(40, 30), (7, 9)], 16, 16),
        ([(8, 8), (8, 8)], 16, 8),
        ([(9, 9), (9, 9)], 16, 16),
    ],
)
def test_other_sizes_become_squares_of_the_wanted_size(tmp_path, shapes, image_size, expected):
    for name, (height, width) in zip(("ant", "bee"), shapes, strict=True):
        write_class(tmp_path / name, 3, 0, height, width)
    images, labels = parts_of(tmp_path, image_size)["train"].dataset.batch(torch.arange(6))
    assert images.shape == (6, 3, expected, expected)
    assert images.dtype == torch.uint8 and labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_all_parts_have_one_size(tmp_path):
    write_classes(tmp_path / "train", {"ant": 4, "bee": 4}, height=8, width=8)
    write_classes(tmp_path / "test", {"ant": 4, "bee": 4}, first_seed=100, height=9, width=9)
    data = load(tmp_path, image_size=16)
    for part in (data.train, data.val, data.test):
        assert part.dataset.batch(part.indices)[0].shape[1:] == (3, 16, 16)


def test_hidden_files_and_litter_are_passed_over(tmp_path):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    expected = ids_of(parts_of(tmp_path)["train"])
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (tmp_path / "ant" / name).write_bytes(b"litter")
        (tmp_path / name).write_bytes(b"litter")
    for folder in (tmp_path / ".git", tmp_path / "bee" / ".ipynb_checkpoints"):
        write_class(folder, 2, 100)
    (tmp_path / "README.txt").write_text("loose files beside the class folders are no images")
    part = parts_of(tmp_path)["train"]
    assert part.dataset.classes == ["ant", "bee"]
    assert ids_of(part) == expected


def test_images_in_folders_of_a_class_folder_belong_to_the_class(tmp_path):
    write_classes(tmp_path, {"ant": 2, "bee": 2})
    write_class(tmp_path / "ant" / "2023" / "summer", 2, 100)
    part = parts_of(tmp_path)["train"]
    assert part.labels == [0, 0, 0, 0, 1, 1]
    assert "ant/2023/summer/001.png" in ids_of(part)


NAMES = ["with space", "$HOME", "😀", "new\nline", "quo'te\"", "-dash", "größe", "ends.with.dots..", "%d{}", "#*?"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows few of these names")
def test_names_of_classes_and_files_may_be_anything(tmp_path):
    names = [*NAMES, os.fsdecode(b"not utf-8: \xff")] if sys.platform == "linux" else NAMES
    for place, name in enumerate(names):
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(noise(10 * place + number)).save(tmp_path / name / f"{number} {name}.png")
    data = load(tmp_path)
    assert data.classes == sorted(names)
    for part in (data.train, data.val, data.test):
        for identifier, label in zip(ids_of(part), part.labels, strict=True):
            assert identifier.split("/")[0] == data.classes[label]


def test_no_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(BadInput, match="--data FOLDER"):
        load_folder(None, SIZE, 2)
    for path in (tmp_path / "absent", write_class(tmp_path, 1) or tmp_path / "000.png"):
        assert refusal(path).startswith(f"--data {path}: there is no such folder; any folder with")


@pytest.mark.parametrize("inner", ["", "train"])
def test_a_folder_without_class_folders_is_named(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    assert f"{tmp_path / inner} has no class folders" in refusal(tmp_path)
    write_class(tmp_path / inner, 3)
    assert f"{tmp_path / inner} has no class folders" in refusal(tmp_path)


@pytest.mark.parametrize("part", ["", "train", "val", "test"])
def test_an_empty_class_folder_is_named(tmp_path, part):
    write_parts(tmp_path, *(("train", "val", "test") if part else ("",)))
    shutil.rmtree(tmp_path / part / "bee")
    (tmp_path / part / "bee" / ".hidden").mkdir(parents=True)
    assert f"{tmp_path / part / 'bee'} is empty" in refusal(tmp_path)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_without_images_is_named(tmp_path, part):
    write_parts(tmp_path, "train", "val", "test")
    shutil.rmtree(tmp_path / part)
    (tmp_path / part).mkdir()
    assert str(tmp_path / part) in refusal(tmp_path)


def test_validation_images_need_class_folders(tmp_path):
    write_parts(tmp_path, "train", "test")
    write_class(tmp_path / "val", 5, 500)
    assert str(tmp_path / "val") in refusal(tmp_path)


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    write_classes(tmp_path, {"ant": 5})
    line = refusal(tmp_path)
    assert "'ant'" in line and str(tmp_path) in line


def test_a_class_with_one_image_is_named_where_it_has_to_be_divided(tmp_path):
    write_classes(tmp_path / "train", {"ant": 5, "bee": 1})
    assert "'bee' has 1 image" in refusal(tmp_path)
    write_classes(tmp_path / "val", {"ant": 2, "bee": 1}, 500)
    write_classes(tmp_path / "test", {"ant": 2, "bee": 1}, 600)
    assert sorted(load(tmp_path).train.labels) == [0] * 5 + [1]


SHORT_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\x0cIHDR" + bytes(20)


@pytest.mark.parametrize("memory", ["fits", "does not fit"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"just words", "it is no image"),
        (SHORT_HEADER, "cannot be read"),
        (None, "(?i)truncated"),
    ],
    ids=["empty", "words", "header", "half"],
)
def test_files_that_cannot_be_read_are_named_before_anything_starts(tmp_path, monkeypatch, memory, content, reason):
    if memory != "fits":
        monkeypatch.setattr(common.system.memory, "available_memory", lambda: 0)
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    broken = tmp_path / "bee" / "003.png"
    broken.write_bytes(broken.read_bytes()[:300] if content is None else content)
    with pytest.raises(BadInput, match=reason) as error:
        load(tmp_path)
    assert str(broken) in str(error.value)
    assert str(tmp_path / "bee" / "002.png") not in str(error.value)


def test_a_link_to_nowhere_is_named(tmp_path):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    (tmp_path / "ant" / "link.png").symlink_to(tmp_path / "absent.png")
    assert str(tmp_path / "ant" / "link.png") in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("labeled", [True, False])
def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path, labeled):
    write_parts(tmp_path, "train", "test")
    if not labeled:
        shutil.rmtree(tmp_path / "test" / "ant")
        (tmp_path / "test" / "bee").rename(tmp_path / "bees")
        shutil.copytree(tmp_path / "bees", tmp_path / "test", dirs_exist_ok=True)
    pipe = tmp_path / "test" / ("ant/pipe.png" if labeled else "pipe.png")
    os.mkfifo(pipe)
    assert f"{pipe} cannot be read: it is no file" in refusal(tmp_path)


def test_files_that_are_no_pictures_by_their_names_are_told_of_once(tmp_path, capsys):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    expected = load(tmp_path).digest
    for name in ("ant/000.txt", "ant/more/boxes.XML", "bee/labels.json", "bee/table.csv", "bee/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("words")
    capsys.readouterr()
    assert load(tmp_path).digest == expected
    first = tmp_path / "ant" / "000.txt"
    note = f"note: 5 file(s) are no pictures by their names, not used (such as {first})"
    assert capsys.readouterr().out.splitlines() == [note]


def test_a_class_of_other_files_only_is_empty(tmp_path):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("words")
    assert f"{tmp_path / 'cat'} is empty" in refusal(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need permission there")
def test_linked_folders_of_a_class_are_followed_once_and_never_in_circles(tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    write_class(elsewhere / "summer", 3, 100)
    write_class(elsewhere, 4, 200)
    data = tmp_path / "data"
    write_classes(data, {"ant": 5, "bee": 5})
    links = {
        data / "ant" / "linked": elsewhere, data / "ant" / "linked again": elsewhere, elsewhere / "up": data / "ant",
        elsewhere / "round": elsewhere, data / "bee" / "all": data, data / "bee" / "here": data / "bee",
    }  # fmt: skip
    for link, target in links.items():
        link.symlink_to(target)
    part = parts_of(data)["train"]
    assert sorted(ids_of(part)) == ids_of(part) and part.labels == [0] * 12 + [1] * 5
    assert "ant/linked/summer/002.png" in ids_of(part) and "ant/linked/003.png" in ids_of(part)
    lines = capsys.readouterr().out.splitlines()
    passed_over = ["ant/linked/round", "ant/linked/up", "ant/linked again", "bee/all", "bee/here"]
    assert len(lines) == 5 and all(f"{data / name} is passed over: " in "".join(lines) for name in passed_over)


def test_of_many_broken_files_twenty_are_named_and_all_counted(tmp_path, capsys):
    write_parts(tmp_path, "train", "test", count=15)
    broken = [tmp_path / part / "ant" / f"{number:03}.png" for part in ("test", "train") for number in range(14)]
    for path in broken:
        path.write_bytes(b"")
    assert "28 files cannot be read" in refusal(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 and all(any(str(path) in line for path in broken) for line in lines)


def test_broken_files_are_skipped_and_listed_if_that_is_asked_for(tmp_path, capsys):
    write_classes(tmp_path, {"ant": 9, "bee": 9})
    (tmp_path / "ant" / "003.png").write_bytes(b"")
    data = load(tmp_path, skip_unreadable=True)
    assert len(data.train) + len(data.val) + len(data.test) == 17
    (skipped,) = data.reading.skipped
    assert str(tmp_path / "ant" / "003.png") in skipped and skipped in capsys.readouterr().err
    for part in (data.train, data.val, data.test):
        assert "ant/003.png" not in ids_of(part)


def test_a_class_of_broken_files_only_cannot_be_skipped(tmp_path):
    write_classes(tmp_path, {"ant": 9, "bee": 2})
    for path in (tmp_path / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadInput, match="none of the train images of class 'bee' can be read"):
        load(tmp_path, skip_unreadable=True)


def test_what_was_done_to_the_pictures_is_counted(tmp_path):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    Image.new("L", (SIZE, SIZE)).save(tmp_path / "ant" / "000.png")
    Image.new("P", (SIZE, SIZE)).save(tmp_path / "ant" / "001.png")
    Image.new("CMYK", (SIZE, SIZE)).save(tmp_path / "ant" / "c.jpg")
    Image.new("RGBA", (SIZE, SIZE)).save(tmp_path / "bee" / "000.png")
    Image.new("I;16", (SIZE, SIZE), 5000).save(tmp_path / "bee" / "001.png")
    turned = Image.new("RGB", (SIZE, SIZE))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "bee" / "t.jpg", exif=turned.getexif())
    expected = dict.fromkeys(["greyscale", "palette", "CMYK", "transparent", "16-bit", "rotated"], 1)
    assert load(tmp_path).reading.converted == expected


def test_images_decoded_on_demand_equal_those_held_in_memory(tmp_path, request):
    write_classes(tmp_path, {"ant": 7, "bee": 5}, height=20, width=15, suffix=".jpg")
    held = parts_of(tmp_path, 10)["train"]
    request.getfixturevalue("never_fits")
    decoded = parts_of(tmp_path, 10)["train"]
    assert isinstance(held.dataset, ArrayDataset) and isinstance(decoded.dataset, FolderDataset)
    assert held.hashes == decoded.hashes and ids_of(held) == ids_of(decoded)
    assert held.dataset.classes == decoded.dataset.classes and len(held.dataset) == len(decoded.dataset) == 12
    for indices in (torch.arange(12), torch.tensor([11, 0, 5, 5]), torch.tensor([3])):
        for one, other in zip(held.dataset.batch(indices), decoded.dataset.batch(indices), strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("memory", ["fits", "does not fit"])
def test_training_sees_all_of_a_long_photograph_and_the_others_its_middle(tmp_path, monkeypatch, memory):
    """Columns of a photograph tell where a square of it was cut out."""
    if memory != "fits":
        monkeypatch.setattr(common.system.memory, "available_memory", lambda: 0)
    columns = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None], (SIZE, 40, 3))
    for number, name in itertools.product(range(12), ("ant", "bee")):
        pixels = columns.copy()
        pixels[0, :2, 1] = number, name == "ant"  # no two alike
        path = tmp_path / name / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    data = load(tmp_path, fit="slide")
    identity = Compose([lambda images, draws: images])
    train, _, test = make_batches(data, identity, identity, 5, Machine(torch.device("cpu"), None), seed=0)
    starts = {image[0, 1, 0].item() for epoch in range(1, 40) for images, _ in train.epoch(epoch) for image in images}
    assert starts == set(range(40 - SIZE + 1))
    assert {image[0, 1, 0].item() for images, _ in test.epoch(0) for image in images} == {(40 - SIZE) // 2}
    first, again = (torch.cat([images for images, _ in train.epoch(7)]) for _ in range(2))
    assert torch.equal(first, again)


def test_a_division_does_not_depend_on_where_the_images_are(tmp_path, request):
    write_classes(tmp_path, {"ant": 20, "bee": 20})
    digest = load(tmp_path).digest
    request.getfixturevalue("never_fits")
    assert load(tmp_path).digest == digest


def test_a_file_that_breaks_during_the_run_is_named(tmp_path, never_fits):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    part = parts_of(tmp_path)["train"]
    (tmp_path / "ant" / "001.png").write_bytes(b"")
    part.dataset.batch(torch.tensor([0, 2]))
    with pytest.raises(BadInput, match="001.png"):
        part.dataset.batch(torch.tensor([0, 1, 2]))


def test_a_file_that_becomes_another_picture_during_the_run_is_named(tmp_path, never_fits):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    part = parts_of(tmp_path)["train"]
    expected, _ = part.dataset.batch(torch.arange(10))
    os.utime(tmp_path / "ant" / "000.png", (1, 1))  # touched only
    shutil.copy(tmp_path / "ant" / "001.png", tmp_path / "ant" / "002.png")
    assert torch.equal(part.dataset.batch(torch.tensor([0, 1]))[0], expected[:2])
    with pytest.raises(BadInput, match="002.png has been replaced by another picture"):
        part.dataset.batch(torch.tensor([0, 1, 2]))


def test_pictures_with_12_bits_in_16_are_warned_of(tmp_path, capsys):
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    for number in range(3):
        Image.new("I;16", (SIZE, SIZE), 4000 + number).save(tmp_path / "ant" / f"dim {number}.png")
    assert load(tmp_path).reading.converted == {"16-bit": 3, "16-bit, none above 4095": 3}
    assert "warning: 3 16-bit picture(s) have no value above 4095" in capsys.readouterr().out


def test_copies_of_an_image_are_never_on_two_sides(tmp_path):
    write_classes(tmp_path, {"ant": 15, "bee": 15})
    for number in range(15):  # copies in the same class, in the other class, and in another format
        source = tmp_path / "ant" / f"{number:03}.png"
        shutil.copy(source, tmp_path / "ant" / f"copy {number}.png")
        Image.open(source).save(tmp_path / "ant" / f"copy {number}.bmp")
        if number % 5 == 0:
            shutil.copy(source, tmp_path / "bee" / f"copy {number}.png")
    for seed in range(5):
        data = load(tmp_path, val_fraction=0.3, seed=seed)
        train, val, test = (set(part.hashes) for part in (data.train, data.val, data.test))
        assert train and val and test
        assert not train & val and not train & test and not val & test
        assert len(data.train) + len(data.val) + len(data.test) == 63


def test_unbalanced_and_few_images_are_told_with_what_helps(tmp_path, capsys):
    for name, count in (("ant", 60), ("bee", 12)):
        write_class(tmp_path / "data" / name, count, first_seed=100 * count)
    words = ["--data", str(tmp_path / "data"), "-e", "1", "--output_dir", str(tmp_path)]
    with pytest.raises(BadInput, match="do the same thing twice"):
        without_pictures([*words, "--class_weights", "auto", "--balanced_sampling", "True"])
    without_pictures([*words, "--balanced_sampling", "True"])
    run = without_pictures([*words, "--class_weights", "auto"])
    said = capsys.readouterr().out
    assert "note: the classes are unbalanced: 43 training images of 'ant', 9 of 'bee'" in said
    assert "--class_weights auto" in said and "note: few images: 2 of 2 classes have fewer than 100" in said
    assert "the classes are unbalanced" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    ("parts", "origins"),
    [
        (("train", "val"), "8 training, 4 validation (set aside from training), 12 test (val/, as there is no test/)"),
        (("train", "val", "test"), "12 training, 12 validation, 12 test"),
    ],
)
def test_where_images_come_from_is_told(tmp_path, capsys, parts, origins):
    tell_of_images(load(write_parts(tmp_path, *parts), val_fraction=0.3), None, {"resume": None, "limit": 100})
    assert capsys.readouterr().out.splitlines()[-1] == f"images: {origins}"


def test_images_shared_by_parts_that_the_person_made_are_warned_of(tmp_path, capsys):
    write_parts(tmp_path, "train", "val", "test")
    load(tmp_path)
    assert "warning" not in capsys.readouterr().out
    for number in range(3):
        shutil.copy(tmp_path / "train/ant" / f"{number:03}.png", tmp_path / "test/ant" / f"shared {number}.png")
    load(tmp_path)
    assert "warning: 3 test image(s)" in capsys.readouterr().out


def test_the_order_of_the_files_on_the_disk_changes_nothing(tmp_path, monkeypatch):
    write_classes(tmp_path / "train", {"ant": 20, "bee": 20, "cat": 20})
    for number in range(6):
        write_class(tmp_path / "train" / "ant" / f"more {number}", 3, 100 + 10 * number)
    data = load(tmp_path)
    chance = random.Random(0)

    def shuffled_walk(folder, followlinks):
        for parent, subfolders, names in os.walk(folder, followlinks=followlinks):
            chance.shuffle(subfolders)
            chance.shuffle(names)
            yield parent, subfolders, names

    shuffled_disk = SimpleNamespace(
        walk=shuffled_walk,
        scandir=lambda folder: nullcontext(sorted(os.scandir(folder), key=lambda entry: chance.random())),
    )
    monkeypatch.setattr(common.data.layouts, "os", shuffled_disk)
    again = load(tmp_path)
    assert again.classes == data.classes and again.digest == data.digest
    for part in ("train", "val", "test"):
        assert ids_of(getattr(again, part)) == ids_of(getattr(data, part))


def test_the_names_of_the_files_change_nothing(tmp_path):
    write_classes(tmp_path, {"ant": 20, "bee": 20})
    data = load(tmp_path, limit=10)
    for place, path in enumerate(sorted(tmp_path.rglob("*.png"))):
        path.rename(path.with_name(f"{97 * place % 40} renamed.png"))
    again = load(tmp_path, limit=10)
    assert again.digest == data.digest
    for part in ("train", "val", "test"):
        assert set(getattr(again, part).hashes) == set(getattr(data, part).hashes)


def test_one_changed_pixel_changes_the_digest(tmp_path):
    write_classes(tmp_path, {"ant": 10, "bee": 10})
    digest = load(tmp_path).digest
    pixels = noise(0)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "ant" / "000.png")
    assert load(tmp_path).digest != digest


def test_limit_takes_as_many_of_each_class_from_the_training_images_only(tmp_path):
    write_classes(tmp_path, {"ant": 30, "bee": 50})
    full, limited = load(tmp_path), load(tmp_path, limit=10)
    assert sorted(limited.train.labels) == [0] * 5 + [1] * 5
    assert set(ids_of(limited.train)) < set(ids_of(full.train))
    assert ids_of(limited.val) == ids_of(full.val) and ids_of(limited.test) == ids_of(full.test)
    assert load(tmp_path, limit=10_000).digest == full.digest
    assert "--limit 1" in refusal(tmp_path, limit=1)


def renamed(root, target):
    """The same pictures under other names, so that they come in another order."""
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        copy = target / path.parent.relative_to(root) / f"{number * 7919 % 100:02}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(path)
    return target


@pytest.mark.parametrize("memory", ["fits", "does not fit"])
def test_renaming_files_changes_neither_order_nor_augmentation(tmp_path, memory, request):
    """Copies included, also where one is in two classes; `slide` draws where along a photograph the square is."""
    if memory == "does not fit":
        request.getfixturevalue("never_fits")
    root = write_classes(tmp_path / "a", {"ant": 20, "bee": 20}, height=SIZE, width=SIZE + 9)
    for number, name in enumerate(("ant/97.png", "ant/98.png", "bee/99.png")):
        (root / name).hardlink_to(root / "ant" / f"00{number // 2}.png")
    batches = []
    for folder in (root, renamed(root, tmp_path / "b")):
        data = load(folder, fit="slide", limit=24)
        sides = make_batches(
            data, Compose([RandomCrop(SIZE, padding=2)]), Compose([]), 8, Machine(torch.device("cpu"), None), 3
        )
        batches.append([batch for side in sides[:2] for epoch in (1, 2) for batch in side.epoch(epoch)])
        assert len(set(data.train.keys[data.train.indices].tolist())) == 24
        assert ids_of(data.test) == sorted(ids_of(data.test))
    assert len(batches[0]) == 8
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--schedule", "plateau", "--mixup", "1"], ["--ema", "0.5"]])
def test_renaming_files_changes_no_bit_of_the_weights(tmp_path, options):
    root = write_classes(tmp_path / "a", {"ant": 30, "bee": 30})
    words = ["--image_size", "16", "--width", "2", "-e", "3", "-b", "16", "--output_dir", str(tmp_path), *options]
    runs = [without_pictures(["--data", str(folder), *words], ex_2) for folder in (root, renamed(root, tmp_path / "b"))]
    one, other = (load_checkpoint(run / "best.pth")["model"] for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for run in runs:
        ids = [row["id"] for row in table(run / "val_predictions.csv")]
        assert ids == sorted(ids) and len(ids) == 4
        label_of = {row["id"]: row["true"] for row in table(run / "val_predictions.csv")}
        assert all(identifier.startswith(f"{label}/") for identifier, label in label_of.items())


@pytest.fixture
def indexed(monkeypatch):
    """Let few files that were written just now be worth an index."""
    monkeypatch.setattr(common.data.index, "WORTHWHILE", 1)
    monkeypatch.setattr(common.data.index, "SETTLED", -(10**12))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that have been decoded."""
    honest, names = common.data.folders.read_frame, []

    def read_frame(path, *how):
        names.append(path.name)
        return honest(path, *how)

    monkeypatch.setattr(common.data.folders, "read_frame", read_frame)
    return names


def all_that_is_told(root, output_dir, size=SIZE, **options):
    """Return what there is to know of a folder, to be compared."""
    data = load(root, size, output_dir=output_dir and str(output_dir), **options)
    parts = [(ids_of(part), part.labels, part.hashes, part.dataset.batch(part.indices)[0].tolist())
             for part in data.splits.values()]  # fmt: skip
    return data.digest, data.reading, parts


def index_files(output_dir):
    return sorted((output_dir / ".index").iterdir())


@pytest.mark.parametrize(
    ("fit", "memory"), [("crop", "fits"), ("crop", "does not fit"), ("slide", "fits"), ("slide", "does not fit")]
)
def test_a_second_start_is_the_same_and_decodes_only_pixels_that_it_needs(
    tmp_path, monkeypatch, indexed, decoded, fit, memory
):
    if memory != "fits":
        monkeypatch.setattr(common.system.memory, "available_memory", lambda: 0)
    write_parts(tmp_path / "images", "train", "test")
    write_classes(tmp_path / "images/train", {"ant": 5}, 500, height=20, width=31)
    Image.new("L", (SIZE, SIZE), 7).save(tmp_path / "images/train/ant/grey.png")
    names = len(list(tmp_path.rglob("*.png")))
    expected = all_that_is_told(tmp_path / "images", None, fit=fit)
    load(tmp_path / "images", fit=fit, output_dir=str(tmp_path / "out"))
    decoded.clear()
    needed = names if (fit, memory) == ("slide", "fits") else 0  # whose pixels are not kept
    with monkeypatch.context() as patch:
        if not needed:
            patch.setattr(common.data.images, "opened", lambda path: pytest.fail("opened again"))
        load(tmp_path / "images", fit=fit, output_dir=str(tmp_path / "out"))
    assert len(decoded) == needed
    assert all_that_is_told(tmp_path / "images", tmp_path / "out", fit=fit) == expected
    assert expected[1].converted["greyscale"] == 1
    assert len(index_files(tmp_path / "out")) == 2


def test_squares_that_are_too_many_to_be_kept_are_decoded_again(tmp_path, monkeypatch, indexed, decoded):
    monkeypatch.setattr(common.data.index, "SMALL", 100)
    write_classes(tmp_path / "images", {"ant": 5, "bee": 5})
    told = [all_that_is_told(tmp_path / "images", tmp_path / "out") for _ in range(2)]
    assert told[0] == told[1] and len(decoded) == 20


@pytest.mark.parametrize("memory", ["fits", "does not fit"])
def test_only_what_has_changed_is_decoded_again(tmp_path, monkeypatch, indexed, decoded, memory):
    if memory != "fits":
        monkeypatch.setattr(common.system.memory, "available_memory", lambda: 0)
    folder = write_classes(tmp_path / "images", {"ant": 9, "bee": 9})

    def again(*names):
        load(folder, output_dir=str(tmp_path / "out"))
        assert sorted(decoded) == sorted(names)
        decoded.clear()
        expected = all_that_is_told(folder, None)
        decoded.clear()
        told = all_that_is_told(folder, tmp_path / "out")
        assert told == expected
        decoded.clear()

    again(*(f"{number:03}.png" for _ in "ab" for number in range(9)))
    again()
    paths = [folder / "ant" / f"{number:03}.png" for number in range(9)]
    paths[0].unlink()
    again()
    paths[1].rename(folder / "bee" / "renamed.png")
    Image.fromarray(noise(77)).save(folder / "bee" / "added.png")
    again("added.png", "renamed.png")
    state = paths[2].stat()
    other = Image.fromarray(255 - np.asarray(Image.open(paths[2])))
    other.save(paths[2])
    os.utime(paths[2], ns=(state.st_atime_ns, state.st_mtime_ns))  # as copying tools do it
    again("002.png")
    os.utime(paths[3], (1, 1))
    again("003.png")


def test_what_was_written_a_moment_ago_is_decoded_again(tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(common.data.index, "WORTHWHILE", 1)
    write_classes(tmp_path / "images", {"ant": 5, "bee": 5})
    told = [all_that_is_told(tmp_path / "images", tmp_path / "out") for _ in range(2)]
    assert told[0] == told[1] and len(decoded) == 20


def test_a_broken_file_is_named_at_every_start(tmp_path, indexed, decoded):
    folder = write_classes(tmp_path / "images", {"ant": 9, "bee": 9})
    (folder / "ant" / "003.png").write_bytes((folder / "ant" / "003.png").read_bytes()[:-40])
    expected = refusal(folder)
    for _ in range(2):
        decoded.clear()
        assert refusal(folder, output_dir=str(tmp_path / "out")) == expected
    assert decoded == ["003.png"]
    told = [all_that_is_told(folder, out, skip_unreadable=True) for out in (None, tmp_path / "out", tmp_path / "out")]
    assert told[0] == told[1] == told[2] and len(told[0][1].skipped) == 1


def test_other_squares_have_another_index(tmp_path, indexed):
    folder = write_classes(tmp_path / "images", {"ant": 5, "bee": 5}, height=20, width=31)
    for size, fit in itertools.product((9, 7), ("crop", "squash")):
        for _ in range(2):
            told = all_that_is_told(folder, tmp_path / "out", size, fit=fit)
            assert told == all_that_is_told(folder, None, size, fit=fit)
    assert len(index_files(tmp_path / "out")) == 4


def test_squares_that_keep_their_size_until_another_comes_are_made_anew(tmp_path, indexed):
    folder = write_classes(tmp_path / "images", {"ant": 5, "bee": 5})
    for image_size in (2 * SIZE, 2 * SIZE):
        told = all_that_is_told(folder, tmp_path / "out", image_size)
        assert np.shape(told[2][0][3])[-1] == SIZE
    write_class(folder / "ant", 1, 99, height=40, width=31)
    told = all_that_is_told(folder, tmp_path / "out", 2 * SIZE)
    assert told == all_that_is_told(folder, None, 2 * SIZE)
    assert np.shape(told[2][0][3])[-1] == 2 * SIZE


def _with_content(path, **changes):
    content = load_checkpoint(path)
    save_checkpoint(path, {name: value for name, value in (content | changes).items() if value is not None})


HOSTILE = {
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:99] + b"\xff" + path.read_bytes()[100:]),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "nothing": lambda path: path.write_bytes(b""),
    "no seal": lambda path: path.write_bytes(path.read_bytes()[:-80]),
    "code": lambda path: save_checkpoint(path, pickle.dumps(print)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no names": lambda path: _with_content(path, names=None),
    "names of nothing": lambda path: _with_content(path, names=torch.zeros(0, dtype=torch.uint8)),
    "names that are none": lambda path: _with_content(path, names=["a"]),
    "other facts": lambda path: _with_content(path, facts=torch.zeros(3, 7)),
    "many facts": lambda path: _with_content(path, facts=torch.zeros(50, 52, dtype=torch.uint8)),
    "other pixels": lambda path: _with_content(path, pixels=torch.zeros(3)),
    "pixels that are none": lambda path: _with_content(path, pixels="pixels"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_an_index_that_is_damaged_is_told_of_and_made_anew(tmp_path, indexed, decoded, capsys, fault):
    folder = write_classes(tmp_path / "images", {"ant": 5, "bee": 5})
    expected = all_that_is_told(folder, tmp_path / "out")
    [path] = index_files(tmp_path / "out")
    capsys.readouterr()
    HOSTILE[fault](path)
    decoded.clear()
    assert all_that_is_told(folder, tmp_path / "out") == expected
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"note: {path} ") and line.endswith(": the images are read anew")
    assert len(decoded) == 10
    if path.is_file():
        decoded.clear()
        assert all_that_is_told(folder, tmp_path / "out") == expected
        assert decoded == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize("changes", [{"rules": "1.0"}, {"made_as": "3 crop"}, {"pixels": torch.zeros(10, 2, 2, 3)}])
def test_an_index_of_another_program_or_other_squares_is_not_used(tmp_path, indexed, decoded, capsys, changes):
    folder = write_classes(tmp_path / "images", {"ant": 5, "bee": 5})
    expected = all_that_is_told(folder, tmp_path / "out")
    _with_content(*index_files(tmp_path / "out"), **changes)
    capsys.readouterr()
    decoded.clear()
    assert all_that_is_told(folder, tmp_path / "out") == expected
    assert capsys.readouterr().out == "" and len(decoded) == 10


def test_an_index_needs_no_place_in_the_folder_of_the_images_and_leaves_nothing_behind(tmp_path, indexed, decoded):
    folder, out = write_classes(tmp_path / "images", {"ant": 5, "bee": 5}), tmp_path / "out"
    before = sorted(folder.rglob("*"))
    load(folder, output_dir=str(out))
    [path] = index_files(out)
    left = out / ".index" / f".{path.name}.0123abcd.partial"  # by a process that was killed
    left.write_bytes(b"half")
    Image.fromarray(noise(77)).save(folder / "ant" / "000.png")
    load(folder, output_dir=str(out))
    assert sorted(folder.rglob("*")) == before
    assert index_files(out) == [path]
    (tmp_path / "file").write_bytes(b"")
    load(folder, output_dir=str(tmp_path / "file"))  # where no folder can be made: without an index
    with lock(path.with_suffix(".lock"), "the index"):  # another process is writing
        path.unlink()
        decoded.clear()
        load(folder, output_dir=str(out))
        assert len(decoded) == 10 and not path.exists()


def test_few_files_have_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(common.data.index, "SETTLED", -(10**12))
    load(write_classes(tmp_path / "images", {"ant": 5, "bee": 5}), output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_decoded_images_are_kept_for_the_processes_that_come_after(tmp_path, monkeypatch, indexed):
    for number, name in enumerate("ab"):
        write_class(tmp_path / "images" / name, 5, first_seed=10 * number)
    Image.new("L", (SIZE, SIZE), 7).save(tmp_path / "images" / "a" / "grey.png")
    load = functools.partial(load_folder, str(tmp_path / "images"), SIZE, 2)
    plain, told = load()
    monkeypatch.setenv("DECODED_IMAGES", str(tmp_path / "decoded"))
    load()
    [kept] = (tmp_path / "decoded").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("common.data.folders.read_frame", lambda *_: pytest.fail("decoded again"))
        again, told_again = load()
    assert torch.equal(again["train"].dataset.pixels, plain["train"].dataset.pixels)
    assert again["train"].hashes == plain["train"].hashes and again["train"].labels == plain["train"].labels
    assert told_again == told and told.converted["greyscale"] == 1
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)  # damaged: decoded anew
    assert torch.equal(load()[0]["train"].dataset.pixels, plain["train"].dataset.pixels)
    Image.fromarray(noise(99)).save(tmp_path / "images" / "a" / "000.png")  # another picture
    changed = load()[0]["train"]
    assert not torch.equal(changed.dataset.pixels, plain["train"].dataset.pixels)
    assert list((tmp_path / "decoded").iterdir()) == [kept]
