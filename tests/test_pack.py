import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT, SIDE, command, noise, read, without_pictures, write_class
from PIL import Image
from torchvision import transforms

import pack
from common.data.hdf5 import load_hdf5
from common.data.images import read_image
from common.data.load import Source
from common.predicting.classifier import load_run
from common.runs.images import UsedImages
from common.system.errors import BadInput, explain
from common.system.files import lock
from tools import packing

SIZE = SIDE


def write_parts(root, *parts, count=4, width=SIDE):
    for place, part in enumerate(parts):
        for label, name in enumerate(("Ant", "bee")):
            write_class(root / part / name, count, 1000 * place + 100 * label, width=width)
    return root


def pack_to(root, *options, size=SIZE):
    """Pack the folder in this process; return the parts that are then in the file."""
    target = root.with_name(f"{root.name}.hdf5")
    assert pack.main([str(root), str(target), "--size", str(size), *options]) == target
    return load_hdf5(str(target))


def refusal(root, *options, target=None):
    target = target or root.with_name(f"{root.name}.hdf5")
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    with pytest.raises(BadInput) as error:
        pack.main([str(root), str(target), "--size", str(SIZE), *options])
    assert before is None or sorted(target.parent.iterdir()) == before
    return str(error.value)


def test_train_val_and_test_are_packed_as_what_they_are_called(tmp_path):
    write_parts(tmp_path / "data", "train", "Validation")
    write_class(tmp_path / "data" / "test", 3, 500)
    parts = pack_to(tmp_path / "data")
    assert set(parts) == {"train", "val", "test"}
    assert parts["train"].dataset.classes == ["Ant", "bee"]
    assert parts["train"].labels == parts["val"].labels == [0] * 4 + [1] * 4 and parts["test"].labels == [-1] * 3
    assert parts["train"].dataset.ids == [f"{name}/{number:03}.png" for name in ("Ant", "bee") for number in range(4)]
    assert parts["test"].dataset.ids == ["000.png", "001.png", "002.png"]
    for part, seeds in {
        "train": [*range(4), *range(100, 104)], "val": [*range(1000, 1004), *range(1100, 1104)], "test": range(500, 503)
    }.items():  # fmt: skip
        expected = np.stack([noise(seed) for seed in seeds])
        assert np.array_equal(parts[part].dataset.pixels, expected)


def test_the_file_is_what_other_programs_expect(tmp_path):
    write_class(write_parts(tmp_path / "data", "train", "val") / "test", 3)
    pack_to(tmp_path / "data")
    with h5py.File(tmp_path / "data.hdf5") as file:
        assert set(file) == {
            "images-train", "labels-train", "files-train", "hashes-train", "images-val", "labels-val", "files-val",
            "hashes-val", "images-test", "files-test", "hashes-test",
        }  # fmt: skip
        images = file["images-train"]
        assert (images.dtype, images.shape) == (np.uint8, (8, SIZE, SIZE, 3))
        assert images.chunks == (1, SIZE, SIZE, 3) and images.compression is None
        assert file["labels-val"].dtype == np.int64 and file["labels-val"][:].tolist() == [0] * 4 + [1] * 4
        assert list(file.attrs["classes"]) == [b"Ant", b"bee"]
        assert h5py.check_string_dtype(file["files-train"].dtype) == ("utf-8", len("Ant/000.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.hdf5"]


def test_a_test_folder_with_classes_has_labels(tmp_path):
    write_parts(tmp_path / "data", "train", "val", "test")
    shutil.rmtree(tmp_path / "data" / "test" / "Ant")
    assert pack_to(tmp_path / "data")["test"].labels == [1] * 4


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("train", "val"), ("train", "test"), ("train",), ("",)])
def test_a_file_is_divided_as_the_folder_that_it_was_made_of(tmp_path, parts):
    root = write_parts(tmp_path / "data", *parts, count=20)
    for number in range(5):  # copies stay together
        shutil.copy(root / parts[0] / "Ant" / f"{number:03}.png", root / parts[0] / "Ant" / f"copy {number}.png")
    file = pack.main([str(root), str(tmp_path / "data.hdf5"), "--size", str(SIZE)])

    def divided(**options):
        sources = Source(["folder"], str(root), **options), Source(["hdf5"], str(file), **options)
        return [source.load(SIZE, 0.1)[0] for source in sources]

    options = [{}, {"split_seed": 3}, {"limit": 10, "seed": 1}, {} if len(parts) == 3 else {"folds": "1/3"}]
    for of_folder, of_file in map(lambda one: divided(**one), options):
        assert of_folder.digest == of_file.digest
        for name, split in of_folder.splits.items():  # in the same order, with the same random numbers
            other = of_file.splits[name]
            assert split.hashes == other.hashes and split.labels == other.labels
            assert torch.equal(split.keys[split.indices], other.keys[other.indices])
            for index, again in zip(split.indices.tolist(), other.indices.tolist(), strict=True):
                assert Path(split.dataset.ids[index]).name == Path(other.dataset.ids[again]).name
    assert divided()[1].digest != divided(split_seed=3)[1].digest or len(parts) == 3


@pytest.mark.parametrize("fits", [True, False])
def test_hashes_that_are_not_of_the_images_are_refused(tmp_path, monkeypatch, fits):
    file = tmp_path / "data.hdf5"
    pack_to(write_parts(tmp_path / "data", "train", "val"))
    if not fits:
        monkeypatch.setattr("common.system.memory.available_memory", lambda: 0)
    with h5py.File(file, "r+") as content:
        content["images-val"][3, 0, 0] ^= 1
    with pytest.raises(BadInput, match="images-val is not what it was when it was packed; pack the folder again"):
        load_hdf5(str(file))
    for hashes, reason in (np.zeros((8, 8), np.uint8), r"of shape \(8, 8\); it must be"), (None, "lacks hashes-val"):
        with h5py.File(file, "r+") as content:
            del content["hashes-val"]
            if hashes is not None:
                content["hashes-val"] = hashes
        with pytest.raises(BadInput, match=reason):
            load_hdf5(str(file))


def test_a_file_from_before_there_were_hashes_has_the_parts_that_it_had(tmp_path):
    pack_to(write_parts(tmp_path / "data", "train", "val"))
    with h5py.File(tmp_path / "data.hdf5", "r+") as content:
        for name in ("hashes-train", "hashes-val"):
            del content[name]
    [data] = Source(["hdf5"], str(tmp_path / "data.hdf5")).load(SIZE, 0.25)
    assert [len(split) for split in data.splits.values()] == [6, 8, 2]  # its own validation, and test images set aside
    assert data.val.indices.tolist() == list(range(8))


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (9, 35), (7, 7)])
def test_pictures_become_squares_as_torchvision_makes_them(tmp_path, height, width):
    for part in ("train", "val"):
        for name in ("a", "b"):
            write_class(tmp_path / "data" / part / name, 1, 7, height, width)
    image, _ = read_image(tmp_path / "data" / "train" / "a" / "000.png")
    by_fit = {
        "crop": transforms.Compose([transforms.Resize(10), transforms.CenterCrop(10)]),
        "squash": transforms.Resize((10, 10)),
    }
    for fit, transform in by_fit.items():
        pixels = pack_to(tmp_path / "data", "--fit", fit, "--overwrite", size=10)["test"].dataset.pixels[0]
        assert np.array_equal(pixels, np.asarray(transform(image)))


def test_the_number_of_threads_changes_nothing(tmp_path):
    write_parts(tmp_path / "data", "train", "val", count=30)
    files = []
    for workers in ("1", "7"):
        pack_to(tmp_path / "data", "--workers", workers, "--overwrite")
        files.append((tmp_path / "data.hdf5").read_bytes())
    assert files[0] == files[1]


def test_a_class_that_training_lacks_is_named(tmp_path):
    write_parts(tmp_path / "data", "train", "val")
    write_class(tmp_path / "data" / "val" / "wasp", 1)
    assert "'wasp'" in refusal(tmp_path / "data")


def test_a_folder_one_level_too_high_is_packed_by_its_own_names(tmp_path):
    write_parts(tmp_path / "data" / "nature", "train", "val")
    assert pack_to(tmp_path / "data")["train"].dataset.ids[0] == "Ant/000.png"


def broken_parts(root, count=1):
    write_parts(root, "train", "val", count=15)
    paths = [root / part / "Ant" / f"{number:03}.png" for number in range(count) for part in ("train", "val")]
    for path in paths:
        path.write_bytes(b"no image")
    return paths


@pytest.mark.parametrize("has_val", [True, False])
def test_all_unreadable_files_are_listed_and_nothing_is_written(tmp_path, capsys, has_val):
    paths = broken_parts(tmp_path / "data", 12)
    if not has_val:
        (tmp_path / "data" / "val").rename(tmp_path / "data" / "test")
        paths = [Path(str(path).replace("/val/", "/test/")) for path in paths]
    assert "24 files cannot be read (the first 20 are listed above)" in refusal(tmp_path / "data")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 and all(any(str(path) in line for path in paths) for line in lines)


def test_one_unreadable_file_is_named(tmp_path):
    write_parts(tmp_path / "data", "train", "val")
    path = tmp_path / "data" / "val" / "bee" / "001.png"
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in refusal(tmp_path / "data")


@pytest.mark.parametrize("has_val", [True, False])
def test_unreadable_files_are_left_out_and_listed_if_that_is_asked_for(tmp_path, capsys, has_val):
    paths = broken_parts(tmp_path / "data", 12)
    if not has_val:
        shutil.rmtree(tmp_path / "data" / "val")
        paths = [path for path in paths if "/train/" in str(path)]
    parts = pack_to(tmp_path / "data", "--skip_unreadable")
    shown = capsys.readouterr()
    assert all(str(path) in shown.err for path in paths)
    assert f"{len(paths)} file(s) that cannot be read are left out" in shown.out
    images = dict(zip(parts["train"].dataset.ids, parts["train"].dataset.pixels, strict=True))
    assert all(np.array_equal(image, noise(int(name[4:7]) + 100 * (name[0] == "b"))) for name, image in images.items())
    assert sum(map(len, parts.values())) == (36 if has_val else 18)


def test_what_was_done_to_the_pictures_is_said(tmp_path, capsys):
    write_parts(tmp_path / "data", "train", "val")
    Image.new("L", (SIZE, SIZE)).save(tmp_path / "data" / "val" / "bee" / "000.png")
    Image.new("I;16", (SIZE, SIZE)).save(tmp_path / "data" / "train" / "bee" / "000.png")
    pack_to(tmp_path / "data")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "converted: 1 16-bit, 1 16-bit, none above 4095, 1 greyscale"
    assert lines[1].startswith("warning: 1 16-bit picture(s) have no value above 4095")


def test_a_class_of_unreadable_files_cannot_be_left_out(tmp_path):
    write_parts(tmp_path / "data", "train", "val", count=2)
    for path in (tmp_path / "data" / "val" / "bee").iterdir():
        path.write_bytes(b"")
    assert "none of the val images of class 'bee' can be read" in refusal(tmp_path / "data", "--skip_unreadable")


def test_places_where_no_file_can_be_are_refused_before_the_work(tmp_path, monkeypatch):
    data = write_parts(tmp_path / "data", "train", "val")
    monkeypatch.setattr(pack, "pack", None)
    (tmp_path / "old.hdf5").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(data)
    assert "exists already" in refusal(data, target=tmp_path / "old.hdf5")
    assert "choose a name that ends in .hdf5 or .h5" in refusal(data, target=tmp_path / "packed.txt")
    assert "something else of that name" in refusal(data, "--overwrite", target=tmp_path)
    assert "there is no folder" in refusal(data, target=tmp_path / "absent" / "a.hdf5")
    assert "among the images" in refusal(data, target=data / "train" / "a.hdf5")
    assert "among the images" in refusal(data, target=tmp_path / "link" / "a.hdf5")
    assert "cannot be written" in refusal(data, target=tmp_path / ("long" * 60 + ".hdf5"))
    assert "there is no such folder" in refusal(tmp_path / "absent")
    assert "there is no such folder" in refusal(tmp_path / "old.hdf5")
    assert (tmp_path / "old.hdf5").read_bytes() == b"precious"


def test_a_disk_without_room_is_told_before_the_work(tmp_path, monkeypatch):
    write_parts(tmp_path / "data", "train", "val")
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    assert "free some space" in refusal(tmp_path / "data")


def test_the_old_file_stays_if_the_new_one_fails(tmp_path):
    broken_parts(tmp_path / "data")
    target = tmp_path / "data.hdf5"
    target.write_bytes(b"precious")
    refusal(tmp_path / "data", "--overwrite")
    assert target.read_bytes() == b"precious"
    shutil.rmtree(tmp_path / "data")
    write_parts(tmp_path / "data", "train", "val")
    assert len(pack_to(tmp_path / "data", "--overwrite")["train"]) == 8


@pytest.mark.parametrize("what", ["pixels", "labels", "names"])
def test_what_does_not_read_back_the_same_gets_no_name(tmp_path, monkeypatch, what):
    write_parts(tmp_path / "data", "train", "val")
    flush = packing._flush_to_disk

    def fade(path):
        flush(path)
        with h5py.File(path, "r+") as file:
            if what == "pixels":
                file["images-val"][7, 0, 0, 0] ^= 1
            elif what == "labels":
                file["labels-train"][0] = 1
            else:
                file["files-train"][3] = "other"

    monkeypatch.setattr(packing, "_flush_to_disk", fade)
    line = refusal(tmp_path / "data")
    assert what in line and "not what was written" in line


def test_more_class_names_than_an_old_header_holds(tmp_path):
    with packing._new_file(tmp_path / "a.hdf5") as file:
        file.attrs["classes"] = packing.fixed_length([f"class {number}" for number in range(30_000)])
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert len(set(file.attrs["classes"])) == 30_000


NAMES = ["with space", "$HOME", "😀", "new\nline", "quo'te\"", "größe", "%d{}", "[a]*?"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow fewer names")
def test_names_may_be_anything(tmp_path):
    names = sorted([*NAMES, os.fsdecode(b"\xff")])
    for place, name in enumerate(names):
        for part in ("train", "val"):
            (tmp_path / "da ta[*]" / part / name).mkdir(parents=True)
            Image.fromarray(noise(place)).save(tmp_path / "da ta[*]" / part / name / f"{name}.png")
    dataset = pack_to(tmp_path / "da ta[*]")["test"].dataset
    readable = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    assert dataset.classes == readable and dataset.ids == [f"{name}/{name}.png" for name in readable]
    assert np.array_equal(dataset.pixels, np.stack([noise(place) for place in range(len(names))]))


@pytest.mark.slow
def test_a_new_user_packs_from_elsewhere_and_is_told_what_to_do(tmp_path):
    write_parts(tmp_path / "my data", "train", "val")
    done = command(ROOT / "pack.py", "my data", "--size", "8", "out file.hdf5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, last = done.stdout.splitlines()
    assert first.startswith("out file.hdf5: 8 train, 8 test (from val) images of 8x8, 2 classes, ")
    assert last == "python ex_3.py --data 'out file.hdf5'"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_full_disk_leaves_nothing(tmp_path):
    write_parts(tmp_path / "data", "train", "val", count=10, width=SIDE + 1)
    words = f"ulimit -f 60; '{sys.executable}' '{ROOT / 'pack.py'}' data a.hdf5 --size 64"
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith("error: a.hdf5 could not be written: the disk is full")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_writing_errors_of_the_library_are_errors_of_the_system(tmp_path):
    with pytest.raises(OSError) as error, packing._new_file(tmp_path / "a.hdf5"):
        raise RuntimeError(
            "Can't decrement id ref count (unable to extend file, errno = 28, error message = 'No space')"
        )
    assert explain(error.value)[0] == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("ended_by", "code"),
    [*(pytest.param(*one, marks=pytest.mark.long) for one in (("SIGINT", 130), ("SIGTERM", 143))), ("SIGKILL", -9)],
)
@pytest.mark.parametrize("parts", [("train", "val"), pytest.param(("train",), marks=pytest.mark.long)])
def test_an_interruption_at_any_moment_leaves_no_half_file_under_the_name(tmp_path, ended_by, code, parts):
    write_parts(tmp_path / "data", *parts, count=600, width=SIDE + 1)  # no squares, which would be kept so small
    ended = []
    for place in range(5):
        target = tmp_path / f"out {place}.hdf5"
        process = subprocess.Popen(
            [sys.executable, ROOT / "pack.py", "data", target.name, "--size", "64", "--workers", "1"],
            cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if place:  # the first one runs to its end
            _wait_for_writing(process, tmp_path)
            time.sleep((place - 1) * 0.1)
            process.send_signal(getattr(signal, ended_by))
        _, error = process.communicate(timeout=60)
        ended.append(process.returncode)
        # A signal that arrives when all is done and Python leaves ends the process as usual: minus its number.
        codes = {0, code, -getattr(signal, ended_by)} if place else {0}
        assert process.returncode in codes and "Traceback" not in error, error
        assert target.exists() or process.returncode != 0
        if target.exists():  # whole, even if the signal came just after the renaming
            assert sum(map(len, load_hdf5(str(target)).values())) == 1200 * len(parts)
        left = list(tmp_path.glob(".out*"))
        assert not left or ended_by == "SIGKILL"
        for path in left:
            path.unlink()
    assert code in ended


def _wait_for_writing(process, folder):
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(folder.glob(".out*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_pack_removes_what_killed_ones_left_and_keeps_others_out(tmp_path):
    root, target = write_parts(tmp_path / "data", "train", "val"), tmp_path / "a.hdf5"
    left, others = tmp_path / ".a.hdf5.0123abcd.partial", tmp_path / ".b.hdf5.0123abcd.partial"
    for path in (left, others):
        path.write_bytes(b"half")
    with lock(tmp_path / ".a.hdf5.lock", "a.hdf5"):
        with pytest.raises(BadInput, match="in use by another process"):
            pack.main([str(root), str(target), "--size", str(SIZE)])
        assert left.exists() and not target.exists()
    pack.main([str(root), str(target), "--size", str(SIZE)])
    assert {path.name for path in tmp_path.iterdir() if path.name[0] == "."} == {others.name}


def test_small_squares_keep_their_size_and_their_place_in_the_split(tmp_path):
    for number, name in enumerate("ab"):
        write_class(tmp_path / "data" / name, 12, first_seed=100 * number, height=8, width=8)
    file = pack.main([str(tmp_path / "data"), str(tmp_path / "data.hdf5"), "--size", "16"])
    options = {"seed": 0, "workers": 1}
    one, other = (
        Source([kind], data=str(place), **options).load(16, 0.25)[0]
        for kind, place in (("folder", tmp_path / "data"), ("hdf5", file))
    )
    assert one.train.hashes == other.train.hashes and one.val.hashes == other.val.hashes


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_a_run_knows_how_a_packed_picture_became_a_square(tmp_path, fit):
    write_parts(tmp_path / "data", "train", "val", width=SIDE + 8)
    file = pack.main([str(tmp_path / "data"), str(tmp_path / "data.hdf5"), "--size", "8", "--fit", fit])
    run = without_pictures(["--data", str(file), "-e", "1", "-b", "4", "--output_dir", str(tmp_path / "out")])
    assert read(run, "config.json")["fit"] == fit
    classifier = load_run(str(run))
    used = UsedImages(run)
    square, digest = classifier.read(tmp_path / "data" / "val" / "Ant" / "000.png")
    assert used.parts_of(square[None], [digest]) == ["test"]
