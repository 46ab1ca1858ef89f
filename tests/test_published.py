"""Data sets of torchvision by name, from archives that are laid out as theirs are, with a few images each."""

import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from helpers import ROOT, closed_port, command, noise, read, send, serving, without_pictures
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

import common.data.published
import ex_1
from common.data.load import DATASETS, Source
from common.data.published import SETS, load_published
from common.system import download as downloading
from common.system.errors import BadInput

GRAY, SMALL = (28, 28), (32, 32, 3)


def md5(content):
    return hashlib.md5(content).hexdigest()


def picture(seed, ending, width=30, height=20):
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, height, width)).save(buffer, {"ppm": "PPM", "jpg": "JPEG"}[ending])
    return buffer.getvalue()


def pictures(names, first_seed=0):
    return {name: picture(first_seed + place, name[-3:].lower()) for place, name in enumerate(names)}


def tgz(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mat(**arrays):
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


def random_pixels(seed, shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mnist():
    files = {}
    for part, count in (("train", 40), ("t10k", 20)):
        images = struct.pack(">4i", 0x803, count, *GRAY) + random_pixels(count, (count, *GRAY)).tobytes()
        labels = struct.pack(">2i", 0x801, count) + bytes(number % 10 for number in range(count))
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(images)
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(labels)
    return files


def svhn():
    files = {}
    for part, count in (("train", 30), ("test", 20)):
        labels = np.arange(count)[:, None] % 10 + 1  # 10 stands for 0
        files[f"{part}_32x32.mat"] = mat(X=random_pixels(count, (*SMALL, count)), y=labels.astype(np.uint8))
    return files


def stl10_members():
    files = {"class_names.txt": b"airplane\nbird\ncar\n", "unlabeled_X.bin": bytes(3 * 96 * 96)}
    for part, count in (("train", 12), ("test", 6)):
        files[f"{part}_X.bin"] = random_pixels(count, (count, 3, 96, 96)).tobytes()
        files[f"{part}_y.bin"] = bytes(number % 3 + 1 for number in range(count))
    return files


def dtd():
    files = {}
    for part, count in (("train", 3), ("val", 2), ("test", 4)):
        names = [f"{name}/{name}_{part}{number}.jpg" for name in ("banded", "zigzagged") for number in range(count)]
        files |= pictures([f"dtd/images/{name}" for name in names], 10 * count)
        files[f"dtd/labels/{part}1.txt"] = "\n".join(names).encode()
    return {"dtd-r1.0.1.tar.gz": tgz(files)}


def eurosat():
    names = [f"2750/{name}/{name}_{number}.jpg" for name in ("AnnualCrop", "Forest") for number in range(10)]
    return {"EuroSAT.zip": zipped(pictures(names))}


def flowers102():
    labels = np.arange(24) % 3 + 1
    parts = {"trnid": range(1, 7), "valid": range(7, 13), "tstid": range(13, 25)}
    return {
        "102flowers.tgz": tgz(pictures([f"jpg/image_{number:05}.jpg" for number in range(1, 25)])),
        "imagelabels.mat": mat(labels=labels), "setid.mat": mat(**{key: list(ids) for key, ids in parts.items()}),
    }  # fmt: skip


def food101():
    parts = {"train": range(6), "test": range(6, 9)}
    names = {
        part: {c: [f"{c}/{n}" for n in numbers] for c in ("waffles", "baklava")} for part, numbers in parts.items()
    }
    images = [f"food-101/images/{name}.jpg" for of in names.values() for some in of.values() for name in some]
    meta = {f"food-101/meta/{part}.json": json.dumps(of).encode() for part, of in names.items()}
    return {"food-101.tar.gz": tgz(pictures(images) | meta)}


def gtsrb():
    training = [f"GTSRB/Training/0000{label}/0000{number}_00000.ppm" for label in range(3) for number in range(4)]
    rows = ["Filename;Width;Height;ClassId", *(f"0000{number}.ppm;30;20;{number % 3}" for number in range(6))]
    return {
        "GTSRB-Training_fixed.zip": zipped(pictures(training)),
        "GTSRB_Final_Test_Images.zip": zipped(pictures([f"GTSRB/Final_Test/Images/0000{n}.ppm" for n in range(6)], 50)),
        "GTSRB_Final_Test_GT.zip": zipped({"GT-final_test.csv": "\n".join(rows).encode()}),
    }  # fmt: skip


def imagenette():
    names = [
        f"imagenette2-320/{part}/{wnid}/{number}.JPEG".replace("JPEG", "jpeg") for part in ("train", "val")
        for wnid in ("n01440764", "n03000684") for number in range(5)
    ]  # fmt: skip
    content = {name: picture(place, "jpg") for place, name in enumerate(names)}
    return {"imagenette2-320.tgz": tgz(content)}


def oxford_pets():
    names = {"trainval": range(6), "test": range(6, 9)}
    breeds = {"Abyssinian": (1, 1, 1), "american_bulldog": (2, 2, 1)}
    lists = {
        f"annotations/{part}.txt": "\n".join(
            f"{breed}_{number} {' '.join(map(str, ids))}" for breed, ids in breeds.items() for number in numbers
        ).encode() for part, numbers in names.items()
    }  # fmt: skip
    images = pictures([f"images/{breed}_{number}.jpg" for breed in breeds for number in range(9)])
    return {"images.tar.gz": tgz(images), "annotations.tar.gz": tgz(lists)}


def stl10():
    return {"stl10_binary.tar.gz": tgz({f"stl10_binary/{name}": data for name, data in stl10_members().items()})}


# What makes the archives; the images of each part, with those that are set aside; some of the names of the classes.
CASES = {
    "dtd": (dtd, [6, 4, 8], ["banded", "zigzagged"]),
    "eurosat": (eurosat, [12, 4, 4], ["AnnualCrop", "Forest"]),
    "fashion_mnist": (mnist, [30, 10, 20], ["T-shirt/top", "Trouser"]),
    "flowers102": (flowers102, [6, 6, 12], ["pink primrose", "hard-leaved pocket orchid"]),
    "food101": (food101, [8, 4, 6], ["baklava", "waffles"]),
    "gtsrb": (gtsrb, [9, 3, 6], ["0", "1", "2"]),
    "imagenette": (imagenette, [8, 2, 10], ["tench", "chain saw"]),
    "kmnist": (mnist, [30, 10, 20], ["o", "ki"]),
    "mnist": (mnist, [30, 10, 20], ["0 - zero", "1 - one"]),
    "oxford_pets": (oxford_pets, [8, 4, 6], ["Abyssinian", "American Bulldog"]),
    "stl10": (stl10, [9, 3, 6], ["airplane", "bird", "car"]),
    "svhn": (svhn, [20, 10, 20], [str(number) for number in range(10)]),
}


def believe(monkeypatch, files):
    """Give torchvision's classes that check what has been extracted the checksums of these few images."""
    members = stl10_members()
    for name in ("train_list", "test_list"):
        rows = [[member, md5(members[member])] for member, _ in getattr(datasets.STL10, name)]
        monkeypatch.setattr(datasets.STL10, name, rows)
    for part in ("train", "test"):
        monkeypatch.setitem(
            datasets.SVHN.split_list,
            part,
            ["http://svhn", f"{part}_32x32.mat", md5(files.get(f"{part}_32x32.mat", b""))],
        )
    known = {key: (name, md5(files.get(name, b""))) for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", known)


@pytest.fixture
def published(request, monkeypatch, tmp_path):
    """The name of a set and the files that are asked for, which a server on this machine has instead of those."""
    name = request.param
    files, asked = CASES[name][0](), []
    believe(monkeypatch, files)
    monkeypatch.setattr(common.data.published, "DOWNLOAD_FOLDER", tmp_path / "by default")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(lambda handler: send(handler, files[handler.path[1:]])) as (server, _):

        def from_here(url, path, algorithm, checksum):
            assert algorithm == "md5" and len(checksum) == 32 and url.startswith("http")
            asked.append(file := url.rpartition("/")[2] if "svhn" not in url else path.name)
            downloading.download(f"http://127.0.0.1:{server.server_port}/{file}", path, "md5", md5(files[file]))

        monkeypatch.setattr(common.data.published, "download", from_here)
        monkeypatch.setattr(
            common.data.published, "_check", lambda path, *of: check(path, *of[:2], md5(files[path.name]))
        )
        yield name, files, asked


check = common.data.published._check


def load(name, location=None, size=16):
    [data] = Source([name], location and str(location)).load(size, 0.25)
    return data


every_set = pytest.mark.parametrize("published", CASES, indirect=True)


def test_all_sets_are_tried():
    assert set(CASES) == set(SETS) - {"cifar10", "cifar100"}


@every_set
def test_a_set_is_downloaded_once_verified_and_divided_as_it_is_published(published, tmp_path):
    name, files, asked = published
    _, counts, classes = CASES[name]
    data = load(name)
    assert [len(split) for split in data.splits.values()] == counts
    assert data.classes[: len(classes)] == classes
    assert sorted(asked) == sorted(files)
    images, labels = data.test.dataset.batch(data.test.indices)
    assert (
        images.dtype == torch.uint8 and images.shape[1] == 3 and set(labels.tolist()) <= set(range(len(data.classes)))
    )
    assert load(name).digest == data.digest and sorted(asked) == sorted(files)
    assert not [path for path in (tmp_path / "by default").iterdir() if path.name.startswith(".")]
    root = tmp_path / "by default"
    top = root / SETS[name].place.split("/")[0]
    for path in files:  # each archive lies once where torchvision has it
        assert len(list(root.rglob(path))) == 1
    if name != "svhn":
        assert load(name, top).digest == data.digest


@every_set
def test_labels_belong_to_their_images(published):
    """As torchvision itself pairs them."""
    name, _, _ = published
    data = load(name, size=20)
    source = load_published(name, None)["test" if "test" in SETS[name].parts else "train"]
    split = data.test
    images, labels = split.dataset.batch(split.indices)
    expected = {}
    for place in range(len(source)):
        image, label = source[place]
        pixels = np.asarray(image.convert("RGB"))
        expected.setdefault(label, []).append(pixels if len(set(pixels.shape[:2])) == 1 else pixels[:, 5:25])
    for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
        assert any(np.array_equal(image, other) for other in expected[label])


@pytest.mark.parametrize("published", ["gtsrb", "food101", "mnist"], indirect=True)
def test_archives_that_lie_where_they_belong_need_no_network(published, tmp_path, monkeypatch):
    name, files, asked = published
    expected, root = load(name).digest, tmp_path / "by default"
    count = len(asked)
    for path in root.rglob("*"):  # what was extracted goes, the archives stay
        if path.is_file() and path.name not in files:
            path.unlink()
    shutil.rmtree(root / SETS[name].place, ignore_errors=True)
    assert load(name).digest == expected and len(asked) == count
    (root / SETS[name].place).rename(tmp_path / "away")
    monkeypatch.setattr(common.data.published, "_check", check)
    with pytest.raises(BadInput, match="is not the file of .* expected [0-9a-f]{32}"):  # not as torchvision knows it
        load(name)


@pytest.mark.parametrize("published", ["gtsrb", "mnist", "dtd", "oxford_pets"], indirect=True)
def test_what_is_killed_in_the_middle_is_done_anew(published, tmp_path, monkeypatch):
    """Of several archives the first is extracted, and nothing has its name yet."""
    name, files, asked = published
    link, linked = common.data.published.os.link, []

    def killed(archive, staged):
        if len(linked) == len(files) - 1:
            raise KeyboardInterrupt
        linked.append(archive)
        link(archive, staged)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common.data.published.os, "link", killed)
        load(name)
    place = tmp_path / "by default" / SETS[name].place
    assert not place.exists()
    rename, left_to_move = common.data.published.os.rename, []

    def killed_later(entry, there):
        if not left_to_move:
            raise KeyboardInterrupt
        left_to_move.pop()
        rename(entry, there)

    for calls in range(8):  # between two movements
        left_to_move[:] = range(calls)
        with monkeypatch.context() as patch:
            patch.setattr(common.data.published.os, "rename", killed_later)
            try:
                load(name)
                break
            except KeyboardInterrupt:
                assert not place.exists()
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    left = tmp_path / "by default" / f".extracting-{name}-killed"
    left.mkdir()
    _, counts, _ = CASES[name]
    assert [len(split) for split in load(name).splits.values()] == counts and not left.exists()
    assert sorted(asked) == sorted(files)  # what has come is not asked for again


@pytest.mark.parametrize("published", ["stl10", "svhn", "oxford_pets", "flowers102"], indirect=True)
def test_damage_is_told_with_the_way_out(published, tmp_path):
    name, _, _ = published
    load(name)
    files = {"stl10": "stl10_binary/test_X.bin", "svhn": "test_32x32.mat", "oxford_pets":
             "oxford-iiit-pet/annotations/test.txt", "flowers102": "flowers-102/setid.mat"}  # fmt: skip
    path = tmp_path / "by default" / files[name]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match="is incomplete or damaged .* delete that folder or file and start again"):
        load(name)


@pytest.mark.parametrize("published", ["dtd"], indirect=True)
def test_a_file_that_is_not_what_torchvision_knows_is_refused(published, tmp_path, monkeypatch):
    _, files, _ = published
    monkeypatch.setattr(common.data.published, "download", downloading.download)
    with serving(lambda handler: send(handler, files["dtd-r1.0.1.tar.gz"])) as (server, _):
        monkeypatch.setattr(datasets.DTD, "_URL", f"http://127.0.0.1:{server.server_port}/dtd-r1.0.1.tar.gz")
        with pytest.raises(BadInput, match="its md5 is wrong") as error:
            load("dtd")
        line = str(error.value)
        assert datasets.DTD._URL in line and str(tmp_path / "by default" / "dtd" / "dtd-r1.0.1.tar.gz") in line
        assert not (tmp_path / "by default").exists()
        monkeypatch.setattr(datasets.DTD, "_MD5", md5(files["dtd-r1.0.1.tar.gz"]))
        assert len(load("dtd").train) == 6


@pytest.mark.parametrize("published", ["mnist"], indirect=True)
def test_a_second_address_is_tried_and_without_network_the_first_is_named(published, tmp_path, monkeypatch):
    _, files, _ = published
    monkeypatch.setattr(common.data.published, "download", downloading.download)
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, md5(content)) for name, content in files.items()])
    away = f"http://127.0.0.1:{closed_port()}/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{away}one/", f"{away}two/"])
    with pytest.raises(BadInput) as error:
        load("mnist")
    line = str(error.value)
    assert f"{away}one/train-images-idx3-ubyte.gz cannot be downloaded" in line and "\n" not in line
    assert str(tmp_path / "by default" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz") in line
    assert "--data" in line and "--dataset digits" in line and not (tmp_path / "by default").exists()
    with serving(lambda handler: send(handler, files[handler.path[1:]])) as (server, _):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{away}one/", f"http://127.0.0.1:{server.server_port}/"])
        assert len(load("mnist").test) == 20


@pytest.mark.parametrize("published", ["mnist"], indirect=True)
@pytest.mark.slow
def test_an_experiment_runs_on_a_set_by_its_name(published, tmp_path):
    run = without_pictures(["--dataset", "mnist", "-e", "1", "-b", "10", "--output_dir", str(tmp_path / "out")], ex_1)
    assert run.parent == tmp_path / "out" / "ex_1" / "mnist" and read(run, "test.json")["images"] == 20
    done = command(ROOT / "ex_1.py", "--dataset", "mnist", "-e", "1", "--data", tmp_path / "by default", "--output_dir",
                   tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_documents_name_every_set():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in DATASETS if f"`{name}`" not in text] == []
