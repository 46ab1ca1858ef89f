"""report.html of a run: all that is asked of such a page, in its order, and nothing from elsewhere."""

import re
import shutil

import pytest
from helpers import read, small_run

from common.runs.report import _classes, limits, write_report
from common.system.files import write_json

SECTIONS = ["Question", "Data", "Network", "Training", "Result", "Classes", "Mistakes", "Limits", "Again"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("outputs"))


def page_of(run):
    return (run / "report.html").read_text(encoding="utf-8")


def test_a_run_ends_with_its_page(run):
    page, test = page_of(run), read(run, "test.json")
    low, high = test["accuracy_interval_95"]
    assert f"Test accuracy {test['accuracy']:.2%}</b> (95 % interval {low:.2%} to {high:.2%}, n = 359 images" in page
    assert "EX-1: how far does a small BatchNorm CNN get" in page
    assert "50,326 parameters" in page and "Conv2d-1" in page  # the table of layers
    assert read(run, "config.json")["code_sha256"] in page
    assert f"{test['f1_score']:.4f}" in page and f"{test['auc_score']:.4f}" in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == [name for name in SECTIONS if name != "Mistakes"]  # nothing was drawn


def test_pictures_are_in_the_page_and_nothing_is_loaded(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for name in ("val_predictions.png", "loss.png"):
        (copy / name).write_bytes(b"\x89PNG" + bytes(20))
    write_report(copy, "Why?", {})
    page = page_of(copy)
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    assert page.count("data:image/png;base64,iVBORw") == 2
    assert (
        not re.search(r"(src|href)=\"(?!data:)", page)
        and "<script" not in page
        and "http:" not in page
        and "https:" not in page
    )


def test_without_a_test_the_validation_images_tell(tmp_path):
    page = page_of(small_run(tmp_path, "-e", "1", "--test", "False"))
    assert "Test accuracy" not in page and "The test images were not scored." in page and "By F1" in page


def test_hostile_names_are_text(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "<b>copy")
    attack = '<img src=x onerror="alert(1)">'
    config, test = read(copy, "config.json"), read(copy, "test.json")
    config |= {"name": attack, "command": attack, "model": attack, "classes": [attack] * 10}
    test["per_class"] = {attack: test["per_class"]["3"]}
    write_json(copy / "config.json", config)
    write_json(copy / "test.json", test)
    (copy / "log.txt").write_text(f"note: {attack}\n")
    write_report(copy, attack, {attack: attack})
    assert "<img src=x" not in page_of(copy) and "<b>copy" not in page_of(copy)
    assert page_of(copy).count("&lt;img src=x") >= 5


def test_limits_are_told_in_words(run):
    val, test = (read(run, f"{name}.json") for name in ("validation", "test"))
    said = " ".join(limits(val, test))
    assert "best of 2 epochs" in said and "359 test images alone" in said and "looked at" not in said
    test |= {"looks_at_images": 7, "recipes_looking": 3}
    test["accuracy_without_copies"] |= {"copies": 5, "accuracy": 0.5}
    said = " ".join(limits(val, test))
    assert "looked at 7 times, by 3 recipe(s)" in said and "5 test images have a copy elsewhere" in said


# As the terminal tells them, and with numbers that are none of config.json
IMAGES = (
    "images: 300 training, 143 validation, 359 test (val/)",
    "images: 90,000 training, 143 validation, 359 test (val/)",
    "images: 300 training (of 90,000), 143 validation, 359 test",
)


def test_what_the_terminal_has_noted_is_among_the_limits(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    noted = ["note: few images", "warning: look", "null test, with shuffled labels: 0.1", "note: no better than chance"]
    others = ["device: cpu", "epoch 1/2  note: none", *IMAGES]
    (copy / "log.txt").write_text("\n".join([*noted, *others, *noted]))
    write_report(copy, "Why?", {})
    page = page_of(copy)
    [listed] = re.findall(r"<ul>(.*?)</ul>", page, re.DOTALL)
    assert re.findall("<li>(.*?)</li>", listed)[:5] == [*noted, limits({}, {})[0]]
    assert "digits, 10 classes; images: 300 training, 143 validation, 359 test (val/)</p>" in page
    (copy / "log.txt").unlink()
    write_report(copy, "Why?", {})
    assert "digits, 10 classes; images: 300 training, 143 validation, 359 test</p>" in page_of(copy)


def test_running_averages_that_are_not_ready_are_told_of(run):
    """After six steps 0.9 to the sixth power of them is what they began with."""
    assert "53 % of the running averages of batch norm are still what they began with" in page_of(run)


def test_the_page_has_own_options_and_those_that_are_not_as_usual(run):
    config, rows = read(run, "config.json"), dict(re.findall("<tr><td>(.*?)</td><td>(.*?)</td></tr>", page_of(run)))
    assert (rows["batch_norm"], rows["dropout"], rows["limit"], rows["epochs"]) == ("True", "0.0", "300", "2")
    assert rows["precision"].startswith(f"{config['machine']['precision']} (") and "mixup" not in rows
    assert "of the highest validation accuracy, the earliest of equals" in page_of(run)


def test_the_command_gives_what_the_page_shows(run, tmp_path):
    copy, config = shutil.copytree(run, tmp_path / "copy"), read(run, "config.json")
    resumed = ["python ex_1.py --resume r", "python ex_1.py --resume r --test -e 7"]
    config |= {"command": "python ex_1.py -e3 -lr 0.1 --test=False", "resumed": [{"command": one} for one in resumed]}
    config["options"] |= {"epochs": 7, "test": True}
    write_json(copy / "config.json", config)
    write_report(copy, "Why?", {})
    assert page_of(copy).count("<pre>python ex_1.py -lr 0.1 --epochs 7 --test True\n") == 1
    assert page_of(copy).count("<pre>python ex_1.py -lr 0.1 --epochs 7 --test True<") == 1


def test_notes_say_of_which_images_they_are(run):
    val, test = (read(run, f"{name}.json") for name in ("validation", "test"))
    both, own = "without images, so left out of all means: 1", "never predicted, so with a precision of 0: 2"
    val["notes"], test["notes"] = ["the best of 2 epochs", f"{own}, 8", both], [own, both]
    assert limits(val, test)[-3:] == [
        f"On the test images: {own}.",
        f"On the test and validation images: {both}.",
        f"On the validation images: {own}, 8.",
    ]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_a_phone_and_a_screen(run, width):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((run / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(url.startswith(("file:", "data:")) for url in requests)
        pdf = page.pdf(format="A4")
        assert pdf.startswith(b"%PDF") and 1 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page/") <= 12
        browser.close()


def test_classes_without_test_images_are_none_of_the_worst():
    classes = {"none": {"f1_score": None, "images": 0}, "bad": {"f1_score": 0.1}, "good": {"f1_score": 0.9}}
    table = _classes({"per_class": classes})
    assert "none" not in table and table.index("bad") < table.index("good")
