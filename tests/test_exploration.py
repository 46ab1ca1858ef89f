import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.arrays import ArrayDataset, Split, whole
from common.data.folders import Reading
from common.data.load import Data, Source
from common.exploring import copies as copying
from common.exploring import explore as exploring
from common.exploring import pixels as sampling
from common.exploring.copies import most_similar, thumbnails
from common.exploring.explore import copied_test_images, explore
from common.exploring.pixels import PixelStatistics, balanced_sample

SIDE = 24
NAMES = ["ant", "bee"]


def scene(seed, side=SIDE):
    """A picture with large shapes and some detail, as photographs have; (side, side, 3) uint8."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    return (np.asarray(coarse) * 0.8 + chance.integers(0, 50, (side, side, 3))).clip(0, 255).astype(np.uint8)


def part_of(pictures, labels, name, classes=NAMES):
    ids = [f"{name}/{number}" for number in range(len(pictures))]
    return whole(ArrayDataset(np.stack(pictures), labels, classes, ids))


def halves(count):
    return [number % 2 for number in range(count)]


def make_data(train, val=None, test=None, classes=NAMES, train_labels=None, test_labels=None, reading=None):
    """A data set of these pictures; of parts that are not given there are four pictures that nothing else has."""
    val = [scene(90_000 + number, len(train[0])) for number in range(4)] if val is None else val
    test = [scene(95_000 + number, len(train[0])) for number in range(4)] if test is None else test
    parts = [
        part_of(train, halves(len(train)) if train_labels is None else train_labels, "train", classes),
        part_of(val, halves(len(val)), "val", classes),
        part_of(test, halves(len(test)) if test_labels is None else test_labels, "test", classes),
    ]
    return Data("planted", list(classes), *parts, reading or Reading())


def scenes(count, first=0):
    return [scene(first + number) for number in range(count)]


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Explore without pictures, whose drawing takes longer than all else."""
    monkeypatch.setattr(exploring, "_draw", lambda *_: None)
    return lambda data: explore(data, tmp_path)


def noted(report, words):
    return any(words in note for note in report["notes"])


def test_a_sound_data_set_is_nothing_unusual(look, tmp_path, capsys):
    report = look(make_data(scenes(240)))
    assert report["notes"] == ["nothing unusual"]
    assert capsys.readouterr().out == "note: nothing unusual\n"
    stored = json.loads((tmp_path / "explore.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report))
    assert stored["parts"]["train"] == {
        "images": 240, "looked_at": 240, "unlabelled": 0, "per_class": {"ant": 120, "bee": 120},
    }  # fmt: skip
    assert stored["balance"] == {"largest_class": 120, "smallest_class": 120, "ratio": 1.0, "entropy": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["explore.json"]


def test_unbalanced_classes_are_noted_with_their_names(look):
    report = look(make_data(scenes(40), train_labels=[0] * 30 + [1] * 10))
    assert report["balance"]["ratio"] == 3 and (report["balance"]["largest_class"] == 30)
    assert report["balance"]["entropy"] == pytest.approx(0.811278, abs=1e-5)  # of shares 3/4 and 1/4, in bits
    assert noted(report, "30 training images of 'ant', 10 of 'bee'")
    assert noted(report, "2 of 2 classes have fewer than 100 training images, the smallest 10")


def test_a_class_without_images_is_no_division_by_zero(look):
    report = look(make_data(scenes(4), classes=["ant", "bee", "cat"], train_labels=[0, 0, 1, 1]))
    assert report["balance"]["ratio"] is None and noted(report, "unbalanced")
    assert noted(report, "1 of 3 classes have no train image") and noted(report, "1 of 3 classes have no test image")


def test_a_test_set_without_labels_is_noted_and_contradicts_nothing(look):
    pictures = scenes(10)
    report = look(make_data(pictures, test=pictures[:3], test_labels=[-1] * 3))
    assert report["parts"]["test"]["unlabelled"] == 3 and noted(report, "3 of 3 test images have no label")
    assert not noted(report, "classes have no test image")
    copies = report["copies"]["exact"]["train/test"]
    assert (copies["images"], copies["labels_differ"]) == (3, 0)
    assert copies["pairs"][1]["classes"] == ["bee", None]


@pytest.mark.parametrize("block", [1, 7 * SIDE**2, 2**19])
def test_pixel_statistics_are_those_of_all_pixels(monkeypatch, block):
    monkeypatch.setattr("common.data.arrays.BLOCK", block)
    part = part_of(scenes(30), halves(30), "train")
    statistics = PixelStatistics(SIDE, len(NAMES))
    for images, labels in part.blocks():
        statistics.add(images, labels)
    pixels = part.dataset.pixels.numpy() / 255
    described, correlations = statistics.describe(), statistics.correlations()
    assert described["mean"] == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-6)
    assert described["std"] == pytest.approx(pixels.std((0, 1, 2)), abs=1e-6)
    for channel, histogram in enumerate(described["histogram"]):
        assert histogram == np.bincount(part.dataset.pixels[..., channel].flatten(), minlength=256).tolist()
    assert described["zero"] == pytest.approx((pixels == 0).mean())
    assert described["near_zero"] == pytest.approx((pixels <= 8 / 255).mean())
    assert np.array(correlations["channels"]) == pytest.approx(np.corrcoef(pixels.reshape(-1, 3).T), abs=1e-4)
    gray = pixels.mean(3)
    for place, distance in enumerate(correlations["distance"]):
        across = np.corrcoef(gray[:, :, distance:].ravel(), gray[:, :, :-distance].ravel())[0, 1]
        down = np.corrcoef(gray[:, distance:].ravel(), gray[:, :-distance].ravel())[0, 1]
        assert correlations["horizontal"][place] == pytest.approx(across, abs=1e-4)
        assert correlations["vertical"][place] == pytest.approx(down, abs=1e-4)
    assert correlations["distance"] == list(range(1, 9))
    for label in range(2):
        mean = statistics.mean_images()[label].permute(1, 2, 0).numpy()
        assert mean == pytest.approx(pixels[label::2].mean(0), abs=1e-5)


def test_columns_correlate_down_and_not_across(look):
    chance = np.random.default_rng(0)
    pictures = [np.repeat(chance.integers(0, 256, (1, SIDE, 3), dtype=np.uint8), SIDE, 0) for _ in range(40)]
    correlation = look(make_data(pictures))["correlation"]
    assert min(correlation["vertical"]) > 0.999 and max(map(abs, correlation["horizontal"])) < 0.2
    assert abs(correlation["channels"][0][1]) < 0.2


def test_exact_copies_are_counted_in_and_between_parts(look):
    train = scenes(40)
    train[7], train[9] = train[3], train[3]  # three the same, all of class bee
    train[20] = train[5]  # ant and bee
    val, test = [train[0], *scenes(3, 500)], [train[1], train[2], *scenes(2, 600)]
    test[3] = val[2]
    found = look(make_data(train, val, test))["copies"]["exact"]
    counts = {name: (count["images"], count["labels_differ"]) for name, count in found.items()}
    assert counts == {
        "train": (3, 1), "train/val": (1, 0), "train/test": (2, 2), "val": (0, 0), "val/test": (1, 1), "test": (0, 0),
    }  # fmt: skip
    assert [pair["ids"] for pair in found["train"]["pairs"]] == [
        ["train/5", "train/20"], ["train/3", "train/7"], ["train/3", "train/9"],
    ]  # fmt: skip
    assert found["train"]["pairs"][0]["classes"] == ["bee", "ant"]


def test_notes_tell_of_copies(look):
    train = scenes(40)
    report = look(make_data(train, test=[train[0], train[0], train[1], scene(77_000)]))
    assert noted(report, "3 test image(s) are the same as a train image: test accuracy is too good")
    assert noted(report, "1 test image(s) are the same as another test image")
    assert noted(report, "at most one of the two can be right")
    assert not noted(report, "nearly")


def test_a_copy_is_paired_with_a_contradiction_if_there_is_one(look):
    train = scenes(6)
    train[1] = train[2] = train[0]
    report = look(make_data(train, test=[train[0]], train_labels=[0, 0, 1, 0, 1, 0], test_labels=[0]))
    (pair,) = report["copies"]["exact"]["train/test"]["pairs"]
    assert pair["ids"] == ["train/2", "test/0"] and pair["classes"] == ["bee", "ant"]


def compressed(pixels, quality=60):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def shifted(pixels):
    larger = np.asarray(Image.fromarray(pixels).resize((SIDE + 1, SIDE + 1), Image.BILINEAR))
    return larger[:SIDE, :SIDE]


CHANGES = {
    "compressed": compressed,
    "brighter": lambda pixels: (pixels * 0.7 + 60).astype(np.uint8),
    "mirrored": lambda pixels: pixels[:, ::-1],
    "mirrored and compressed": lambda pixels: compressed(pixels[:, ::-1]),
    "paler": lambda pixels: (pixels / 2 + pixels.mean(2, keepdims=True) / 2).astype(np.uint8),
    "cut out": shifted,
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_are_found_and_named(look, change):
    train = [np.asarray(Image.fromarray(scene(number, 12)).resize((SIDE, SIDE))) for number in range(30)]
    test = [*scenes(3, 500), CHANGES[change](train[4])]
    copies = look(make_data(train, test=test))["copies"]
    assert copies["exact"]["train/test"]["images"] == 0
    assert {name: count["images"] for name, count in copies["near"].items() if count["images"]} == {"train/test": 1}
    (pair,) = copies["near"]["train/test"]["pairs"]
    assert pair["ids"] == ["train/4", "test/3"] and pair["classes"] == ["ant", "bee"]
    assert pair["mirrored"] == ("mirrored" in change) and copying.NEAR_MOVED <= pair["correlation"] <= 1
    assert copies["near"]["train/test"]["labels_differ"] == 1


def photograph(chance, side=32, power=1.0):
    """A picture with the spectrum of photographs, of an amplitude that falls as 1/f (Field, 1987); (side, side, 3).

    With a smaller `power` it is as sharp as large ones are that were reduced.
    """
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    frequency = np.maximum(np.hypot(rows, columns), 1 / side)[..., None] ** power
    light, color = chance.normal(size=(side, side, 1)), chance.normal(size=(side, side, 3))
    picture = np.fft.irfft2(np.fft.rfft2(light + 0.3 * color, axes=(0, 1)) / frequency, (side, side), axes=(0, 1))
    return (127 + 50 * (picture - picture.mean()) / picture.std()).clip(0, 255).astype(np.uint8)


def planted(picture, chance):
    """The picture moved by up to 2 pixels, at a scale of 0.9 to 1.1, in other light, compressed, mirrored or not."""
    side, scale, moved = len(picture), chance.uniform(0.9, 1.1), chance.uniform(-2, 2, 2)
    wide = Image.fromarray(np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="edge"))
    left, top = moved + 8 + side / 2 * (1 - scale)
    picture = np.asarray(wide.transform((side, side), Image.AFFINE, (scale, 0, left, 0, scale, top), Image.BICUBIC))
    light = (picture - 127.0) * chance.uniform(0.7, 1.3) + 127 + chance.uniform(-30, 30)
    picture = light.clip(0, 255).astype(np.uint8)[:, :: chance.choice([-1, 1])]
    return compressed(np.ascontiguousarray(picture), int(chance.integers(60, 96)))


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_nine_of_ten_planted_copies_are_found_and_nothing_else(look, count):
    chance = np.random.default_rng(0)
    train = [photograph(chance) for _ in range(count)]
    test = [planted(picture, chance) for picture in train[: count // 2]]
    test += [photograph(chance) for _ in range(count // 2)]
    data = make_data(train, val=[photograph(chance) for _ in range(4)], test=test)
    copied, kinds = copied_test_images(data.splits)
    assert kinds == ["exact", "near"]
    assert copied[: count // 2].mean() >= 0.9 and not copied[count // 2 :].any()
    near = look(data)["copies"]["near"]
    assert {name for name, found in near.items() if found["images"]} == {"train/test"}
    for pair in near["train/test"]["pairs"]:
        assert pair["ids"][0].removeprefix("train/") == pair["ids"][1].removeprefix("test/")


def test_nine_of_ten_planted_copies_of_sharp_pictures_are_found():
    chance = np.random.default_rng(0)
    train = [photograph(chance, power=0.8) for _ in range(200)]
    test = [planted(picture, chance) for picture in train] + [photograph(chance, power=0.8) for _ in range(100)]
    copied, _ = copied_test_images(make_data(train, val=train[:1], test=test).splits)
    assert copied[:200].mean() >= 0.9 and not copied[200:].any()


def test_copies_among_test_images_are_told_by_kind(monkeypatch):
    train = scenes(20)
    test = [train[3], scene(500), compressed(train[4]), compressed(train[4]), scene(501)]
    splits = make_data(train, test=test).splits
    copied, kinds = copied_test_images(splits)
    assert (copied.tolist(), kinds) == ([True, False, True, True, False], ["exact", "near"])
    monkeypatch.setattr(exploring, "LONGEST_SCAN", 0)
    copied, kinds = copied_test_images(splits)
    assert (copied.tolist(), kinds) == ([True, False, False, False, False], ["exact"])
    keys = {name: Split(split.dataset, split.indices, [b"1"] * len(split)) for name, split in splits.items()}
    assert copied_test_images(keys) is None


def test_a_near_copy_in_the_same_part_is_counted_once(look):
    train = scenes(20)
    train[11] = compressed(train[2])
    report = look(make_data(train))
    (pair,) = report["copies"]["near"]["train"]["pairs"]
    assert pair["ids"] == ["train/2", "train/11"]
    assert noted(report, "1 train image(s) are nearly the same as another train image")


def test_exact_copies_are_no_near_copies_too(look):
    train = scenes(20)
    train[11] = train[2]
    near = look(make_data(train, test=[train[3], *scenes(2, 500)]))["copies"]["near"]
    assert not any(count["images"] for count in near.values())


def test_pictures_that_share_light_or_a_frame_are_no_copies(look):
    """Their thumbnails correlate: each of two things that look for copies must say no by itself."""
    chance = np.random.default_rng(0)
    slope = np.linspace(0, 200, SIDE)[:, None, None]
    sky = [(slope + chance.integers(0, 40, (SIDE, SIDE, 3))).astype(np.uint8) for _ in range(20)]
    framed = [scene(number) // 4 + 10 for number in range(20)]
    for number, picture in enumerate(framed):
        for edge in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
            picture[edge] = 220 + number  # of different shades, or the set would count as drawings
    for pictures in (sky, framed):
        small = thumbnails(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
        assert len(set(most_similar(small, small, True)[0].tolist())) > 10
        copies = look(make_data(pictures))["copies"]
        assert copies["near_limit"] == copying.NEAR and copies["near"]["train"]["images"] == 0


def test_two_people_writing_one_digit_are_no_copies(look):
    report = look(*Source(["digits"]).load(32, 0.1))
    assert report["copies"]["near_limit"] == copying.NEAR_DRAWINGS
    assert not any(count["images"] for kind in ("exact", "near") for count in report["copies"][kind].values())
    for words in ("grayscale", "49% of all pixel values are exactly 0", "tiny, 8x8 pixels"):
        assert noted(report, words)


@pytest.mark.parametrize("are_same", [True, False])
def test_the_blocked_search_finds_what_comparing_all_finds(monkeypatch, are_same):
    monkeypatch.setattr(copying, "COMPARED", 16)
    monkeypatch.setattr(copying, "GROUP", 4)
    images = [torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8) for count in (75, 53)]
    images[1] = images[0] if are_same else images[1]
    gray = [pixels.float().mean(1).numpy() for pixels in images]
    expected = []
    for query in range(len(gray[0])):
        scores = []
        for other in range(query if are_same else len(gray[1])):
            for picture in (gray[1][other], gray[1][other][:, ::-1]):
                scores.append(np.corrcoef(gray[0][query].ravel(), picture.ravel())[0, 1])
        if scores and max(scores) > 0.25:
            best = int(np.argmax(scores))
            expected.append((query, best // 2, best % 2 == 1))
    found = most_similar(thumbnails(images[0]), thumbnails(images[1]), are_same, 0.25, count=1)
    assert 10 < len(expected) and list(zip(*(numbers.tolist() for numbers in found), strict=True)) == expected


@pytest.mark.parametrize(("gray_images", "words"), [(40, "the images are grayscale"), (10, "25.0% of the training")])
def test_grayscale_images_are_noted(look, gray_images, words):
    pictures = scenes(40)
    pictures[:gray_images] = [np.repeat(picture[..., :1], 3, 2) for picture in pictures[:gray_images]]
    report = look(make_data(pictures))
    assert report["pixels"]["greyscale"] == gray_images / 40 and noted(report, words)


def test_images_of_one_color_are_noted_and_hide_no_near_copies(look):
    pictures = scenes(20)
    for place in (3, 4, 5):
        pictures[place] = np.full((SIDE, SIDE, 3), (place, 80, 200), np.uint8)
    pictures[11] = compressed(pictures[2])
    report = look(make_data(pictures))
    assert report["pixels"]["constant_images"] == 3
    assert noted(report, "3 of 20 training images show one color and nothing else")
    assert [pair["ids"] for pair in report["copies"]["near"]["train"]["pairs"]] == [["train/2", "train/11"]]


@pytest.mark.parametrize("side", [1, 2, SIDE])
def test_what_is_undefined_is_null(look, tmp_path, side):
    blank = [np.full((side, side, 3), 7, np.uint8)] * 4
    report = look(make_data(blank, blank, blank))
    assert noted(report, "4 test image(s) are the same as a val image: the two are not independent")
    stored = json.loads((tmp_path / "explore.json").read_text(encoding="utf-8"))["correlation"]
    assert set(stored["horizontal"] + stored["vertical"]) <= {None} and len(stored["vertical"]) == min(side - 1, 8)
    assert stored["channels"] == [[None] * 3] * 3


def test_sizes_of_the_files_are_described(look):
    reading = Reading()
    reading.sizes.update({(100, 80): 5, (40, 10): 3, (20, 24): 2})
    reading.converted.update({"CMYK": 2})
    report = look(make_data(scenes(10), reading=reading))
    sizes = report["sizes"]
    assert sizes["stored"] == [SIDE, SIDE] and sizes["different"] == 3 and sizes["converted"] == {"CMYK": 2}
    assert sizes["most_frequent"][0] == {"size": [100, 80], "images": 5}
    assert (sizes["smallest"], sizes["largest"]) == ([40, 10], [100, 80])
    ratios = sizes["width_over_height"]
    assert (ratios["lowest"], ratios["median"], ratios["highest"]) == (20 / 24, 1.25, 4)
    assert (sizes["long"], sizes["enlarged"]) == (3, 5)
    assert noted(report, "3 sizes, 40x10 to 100x80") and noted(report, "5 images are smaller than 24 pixels")
    assert noted(report, "3 images are more than 2 times as long as wide")


def test_arrays_have_one_size(look):
    sizes = look(make_data(scenes(10)))["sizes"]
    assert sizes["most_frequent"] == [{"size": [SIDE, SIDE], "images": 18}] and sizes["different"] == 1


def test_a_sample_has_as_many_of_each_class_as_there_are():
    part = part_of(scenes(40), [0] * 33 + [1] * 7, "train")
    sample = balanced_sample(part, 20)
    assert (sample.labels.count(0), sample.labels.count(1)) == (13, 7)
    assert balanced_sample(part, 6).labels.count(1) == 3
    assert sample.indices.tolist() == sorted(set(sample.indices.tolist()))
    assert sample.hashes == [part.hashes[place] for place in sample.indices.tolist()]
    assert balanced_sample(part, 20).indices.equal(sample.indices)
    assert not balanced_sample(part, 20, seed=1).indices.equal(sample.indices)
    assert balanced_sample(part, 40) is part


def test_of_a_large_set_a_sample_is_looked_at_and_that_is_said(look, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_PIXELS", 10 * SIDE**2)
    train = scenes(30)
    train[29] = train[0]
    report = look(make_data(train))
    assert (report["parts"]["train"]["looked_at"], report["parts"]["val"]["looked_at"]) == (10, 4)
    assert sum(report["pixels"]["histogram"][0]) == 10 * SIDE**2
    assert report["copies"]["exact"]["train"]["images"] == 1  # of all 30
    assert noted(report, "18 of 38 images were looked at")


class OnDisk:
    """Images that are not held in memory, and whose hashes are keys."""

    def __init__(self, held):
        self.held, self.labels, self.classes, self.ids, self.size = held, held.labels, held.classes, held.ids, held.size

    def __len__(self):
        return len(self.held)

    def batch(self, indices):
        return self.held.batch(indices)


def test_where_hashes_are_keys_no_exact_copies_are_looked_for(look):
    pictures = scenes(12)
    pictures[5] = pictures[2]
    data = make_data(pictures)
    for name in ("train", "val", "test"):
        part = getattr(data, name)
        setattr(data, name, Split(OnDisk(part.dataset), part.indices, [b"%d" % key for key in range(len(part))]))
    report = look(data)
    assert report["copies"]["exact"] is None and noted(report, "exact copies were not looked for")
    (pair,) = report["copies"]["near"]["train"]["pairs"]
    assert pair["ids"] == ["train/2", "train/5"] and pair["correlation"] == 1


HOSTILE = ["with space", "$x^", "new\nline", "😀" * 30, "x" * 200, "\udcff", "%d{}", "\\frac"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes",
    [HOSTILE, pytest.param([f"class {number}" for number in range(203)], marks=pytest.mark.slow)],
    ids=["hostile", "many"],
)
def test_pictures_are_drawn_whatever_the_names(tmp_path, classes):
    train = scenes(2 * len(classes))
    labels = [number % len(classes) for number in range(len(train))]
    data = make_data(train, test=[train[0], compressed(train[2])], classes=classes, train_labels=labels,
                     test_labels=[-1, -1])  # fmt: skip
    explore(data, tmp_path / "new")
    names = {"class_counts", "explore_samples", "pixel_histogram", "mean_images", "correlation", "duplicates"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"explore.json", *(f"{name}.png" for name in names)}
    for name in names:
        with Image.open(tmp_path / "new" / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
            assert max(picture.size) < 6000 and (pixels != 255).any(2).mean() > 0.005


@pytest.mark.slow
def test_duplicates_of_an_earlier_look_do_not_stay(tmp_path):
    train = scenes(8)
    explore(make_data(train, test=[train[0]]), tmp_path)
    assert (tmp_path / "duplicates.png").exists()
    explore(make_data(train), tmp_path)
    assert not (tmp_path / "duplicates.png").exists()
