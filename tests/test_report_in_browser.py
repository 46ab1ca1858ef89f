"""The page of compare.py, opened and clicked in a real browser. SCREENSHOTS=folder keeps pictures of it."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import small_run
from PIL import Image

import compare

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
PAPER = 1046  # pixels across a page of A4 landscape without its margins
ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><svg onload=alert(1)>",
    "javascript:alert(1)",
    "\u2028$\\frac{$\udcff",
    "={alert(1)}",
    "';alert(1);//",
    "<b>bold</b>",
    "__proto__",
    "n" * 500,
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        # Chromium does not start as root with its sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def picture(chance):
    """Return a PNG picture of 720x480 pixels."""
    pixels = chance.integers(0, 255, (60, 90, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((720, 480), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def fabricate(run, root, count, hostile=False):
    """Copy a run `count` times with other learning rates, seeds, scores and pictures."""
    chance = np.random.default_rng(0)
    config, train, test = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "train", "test"))
    with np.load(run / "predictions.npz") as file:
        arrays = dict(file)
    pictures = [picture(chance) for _ in range(12)]
    for number in range(count):
        folder = root / f"run-{number:03d}"
        folder.mkdir(parents=True)
        config["options"] |= {"lr": 0.001 * (1 + number // 3), "seed": number % 3}
        if hostile:
            config |= {"classes": ATTACKS, "script": ATTACKS[number % len(ATTACKS)], "command": ATTACKS[0]}
            config["options"] |= {ATTACKS[1]: ATTACKS[number % 4], "__proto__": ATTACKS[0]}
            arrays["ids"] = np.array([ATTACKS[place % len(ATTACKS)][:60] for place in range(len(arrays["labels"]))])
        for record in train["epochs"]:
            record["val_accuracy"] = float(chance.uniform(0.5, 0.9))
            record["val_loss"] = float(chance.uniform(0.5, 2))
        best = max(train["epochs"], key=lambda record: record["val_accuracy"])
        train |= {"best_epoch": best["epoch"], "best_val_accuracy": best["val_accuracy"]}
        for name, content in (("config", config), ("train", train), ("test", test)):
            (folder / f"{name}.json").write_text(json.dumps(content))
        np.savez(folder / "predictions.npz", **arrays)
        for place, name in enumerate(("predictions.png", "samples.png")):
            (folder / name).write_bytes(pictures[(number + place) % len(pictures)])
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    return root


class Page:
    """An open report, and all that went wrong in it: messages, errors, dialogs, requests."""

    def __init__(self, browser, report, **settings):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        self.page, self.trouble = self.context.new_page(), []
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("dialog", self._refuse)
        self.page.on("request", self._note)
        self.address = report.resolve().as_uri()
        self.page.goto(self.address)

    def _refuse(self, dialog):
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, request):
        if request.url != self.address and not request.url.startswith("data:image/webp;"):
            self.trouble.append(f"request: {request.url[:100]}")

    def column(self, name):
        """Return the texts of a column of the table of runs, in the order shown, without hidden rows."""
        names = [text.strip() for text in self.page.locator("#runs thead th").all_inner_texts()]
        cells = self.page.locator(f"#runs tbody tr:visible td:nth-child({names.index(name) + 1})")
        return cells.all_inner_texts()

    def sort(self, name):
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def shoot(self, name, **settings):
        """Keep a picture of the page, if somebody wants to look at it."""
        if os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"{name}.png", **settings)


@pytest.fixture
def opened(chromium):
    pages = []

    def opens(report, **settings):
        pages.append(Page(chromium, report, **settings))
        return pages[-1]

    yield opens
    for one in pages:
        assert one.trouble == []
        one.context.close()


@pytest.fixture(scope="module", params=[3, 200])
def report(request, run, tmp_path_factory):
    root = fabricate(run, tmp_path_factory.mktemp("runs"), request.param)
    return request.param, compare.main([str(root), "--out", str(root / "out")]) / "report.html"


def test_headings_sort_numbers_as_numbers(opened, report):
    count, path = report
    page = opened(path)
    accuracies = [float(text) for text in page.column("val_accuracy")]
    assert len(accuracies) == count and accuracies == sorted(accuracies, reverse=True)
    page.sort("val_accuracy")
    assert [float(text) for text in page.column("val_accuracy")] == sorted(accuracies)
    heading = page.page.locator("#runs th", has_text="val_accuracy")
    assert heading.get_attribute("aria-sort") == "ascending"
    page.sort("val_accuracy")
    assert heading.get_attribute("aria-sort") == "descending"
    page.sort("seed")
    assert heading.get_attribute("aria-sort") is None
    if count == 200:
        page.sort("lr")
        rates = [float(text) for text in page.column("lr")]
        assert rates == sorted(rates) and rates[0] == 0.001 and rates[-1] == 0.067


def test_the_filter_hides_rows_curves_and_details(opened, report):
    count, path = report
    page = opened(path)
    assert page.page.locator("#charts polyline").count() == 2 * count
    several = page.page.locator("#charts polyline.seed").count()
    assert (page.page.locator("#charts path.mean").count() > 0) == (several > 0)
    page.page.fill("#filter", "RUN-001")
    assert [text.strip() for text in page.column("run")] == ["run-001"]
    assert page.page.locator("#count").inner_text() == f"1 of {count} runs"
    assert page.page.locator("#charts polyline").count() == 2
    assert page.page.locator("#details > details:visible").count() == 1
    page.page.fill("#filter", "no such run")
    assert page.page.locator("#charts").inner_text().count("nothing to draw") == 2
    page.page.fill("#filter", "")
    assert len(page.column("run")) == count


def test_rows_mark_their_curves(opened, report):
    _, path = report
    page = opened(path)
    row = page.page.locator("#runs tbody tr").nth(1)
    row.locator("td").nth(3).click()
    assert page.page.locator("#charts polyline.marked").count() == 2
    assert row.get_attribute("aria-selected") == "true"
    page.shoot(f"{report[0]}-marked", full_page=False)
    page.page.get_by_role("button", name="unmark all").click()
    assert page.page.locator("#charts polyline.marked").count() == 0
    assert page.page.get_by_role("button", name="unmark all").count() == 0


def test_curves_answer_to_their_switches_and_to_the_pointer(opened, report):
    count, path = report
    page = opened(path)
    page.page.check("#train")
    assert page.page.locator("#charts polyline.train").count() == 2 * count
    page.page.uncheck("#val")
    assert page.page.locator("#charts polyline.val").count() == 0
    page.page.check("#val")
    ticks = page.page.locator("#charts svg").first.text_content()
    page.page.check("#log")
    assert page.page.locator("#charts svg").first.text_content() != ticks
    page.page.select_option("#against", "time")
    assert "training time, s" in page.page.locator("#charts svg").first.text_content()
    chart = page.page.locator("#charts svg").nth(1)
    chart.scroll_into_view_if_needed()
    points = page.page.locator("#charts svg").nth(1).locator("polyline.val").last.get_attribute("points")
    x, y = (float(number) for number in points.split(" ")[-1].split(","))
    box = chart.bounding_box()
    page.page.mouse.move(box["x"] + x / 560 * box["width"], box["y"] + y / 330 * box["height"])
    assert "val_accuracy 0." in page.page.locator("#hover").inner_text()
    page.page.mouse.move(0, 0)
    assert page.page.locator("#hover").inner_text() == ""


def test_a_name_opens_the_run_with_its_mistakes_and_pictures(opened, report):
    count, path = report
    page = opened(path)
    details = page.page.locator("#details > details")
    assert details.count() == count and page.page.locator("#details img").count() == 0
    page.page.locator("#runs tbody .link").first.click()
    first = details.first
    first.locator("img").first.wait_for()
    text = first.inner_text()
    for words in ("Scores", "Options", "Most confused classes", "Worst mistakes", "lower half", "Pictures", "lr"):
        assert words in text
    page.page.wait_for_function(
        "[...document.querySelectorAll('#details img')].some((one) => one.naturalWidth === 720)"
    )
    assert first.locator("img").count() == 2
    page.shoot(f"{count}-run")
    page.page.locator("#notes summary").click()
    assert "config.json is damaged: it is not JSON" in page.page.locator("#notes").inner_text()


def test_groups_and_contrasts_are_told(opened, report):
    count, path = report
    page = opened(path)
    groups = -(-count // 3)
    assert page.page.locator("#groups tbody tr").count() == groups
    assert page.page.locator("#contrasts .contrast").count() == groups - 1
    assert page.page.locator("#contrasts .contrast:visible").count() == min(groups - 1, 10)
    assert "95 % interval of the mean" in page.page.locator("#explanation").inner_text()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_it_fits_any_screen_in_light_and_dark(opened, report, scheme, width):
    count, path = report
    page = opened(path, color_scheme=scheme)
    page.page.set_viewport_size({"width": width, "height": 900})
    page.page.locator("#details summary").first.click()
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    light, text = page.page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        ".map((color) => color.match(/\\d+/g).reduce((sum, one) => sum + Number(one), 0))"
    )
    assert (light > text) == (scheme == "light")
    page.shoot(f"{count}-{scheme}-{width}")
    page.shoot(f"{count}-{scheme}-{width}-full", full_page=True) if count == 3 else None


def test_all_of_it_is_on_paper(opened, report):
    """Printed, no column is cut off, and what one can only click is not there."""
    count, path = report
    page = opened(path)
    page.page.emulate_media(media="print")
    page.page.set_viewport_size({"width": PAPER, "height": 718})
    for table in ("#runs", "#groups"):
        assert page.page.locator(table).evaluate("one => one.getBoundingClientRect().right") <= PAPER
    assert page.page.evaluate("document.documentElement.scrollWidth") == PAPER
    assert page.page.locator("#runs tbody tr").last.evaluate("one => one.getBoundingClientRect().bottom") < (
        page.page.locator("#charts").evaluate("one => one.getBoundingClientRect().top")
    )
    for name in ("#filter", "#against", "#each"):
        assert page.page.locator(name).locator("visible=true").count() == 0
    assert "config.json is damaged" in page.page.locator("#notes").inner_text()  # what is passed over is opened
    page.shoot(f"{count}-print", full_page=True)
    page.page.locator("#details > details").first.evaluate("one => { one.open = true; }")
    page.page.locator("#details td").first.wait_for()
    assert page.page.locator("#details > details:visible").count() == 1
    pdf = page.page.pdf(prefer_css_page_size=True)
    assert b"/MediaBox [0 0 841" in pdf


def test_many_options_are_on_paper_too(opened, run, tmp_path):
    root = fabricate(run, tmp_path / "runs", 6)
    for number, path in enumerate(sorted(root.glob("run-*/config.json"))):
        config = json.loads(path.read_text())
        config["options"] |= {
            f"option_{'long' * (place % 4)}_{place}": f"{number * place}th value" for place in range(12)
        }
        path.write_text(json.dumps(config))
    page = opened(compare.main([str(root), "--out", str(tmp_path / "out")]) / "report.html")
    page.page.emulate_media(media="print")
    page.page.set_viewport_size({"width": PAPER, "height": 718})
    assert page.page.locator("#runs th").count() > 20
    page.shoot("many-options-print", full_page=True)
    assert page.page.locator("#runs").evaluate("one => one.getBoundingClientRect().right") <= PAPER


def test_hostile_names_stay_names(opened, run, tmp_path):
    root = fabricate(run, tmp_path / "<img src=x onerror=alert(2)>", 12, hostile=True)
    page = opened(compare.main([str(root), "--out", str(tmp_path / "out")]) / "report.html")
    for summary in page.page.locator("details > summary").all():
        summary.click()
    page.page.wait_for_timeout(500)
    assert page.page.locator("script").count() == 2
    assert page.page.locator("#runs img, #notes img, #details b, #details svg, iframe").count() == 0
    text = page.page.locator("body").inner_text()
    for attack in ATTACKS[:4]:
        assert attack in text
    page.sort("script")
    page.page.fill("#filter", "<b>")
    assert page.column("script") == ["<b>bold</b>"]
    page.shoot("hostile")


def test_the_policy_of_the_page_stops_scripts(chromium, report, tmp_path):
    """Had something slipped through, the browser would not run it."""
    text = report[1].read_text().replace('<h1 id="title">', '<img src="x" onerror="alert(3)"><h1 id="title">')
    (tmp_path / "report.html").write_text(text)
    page = Page(chromium, tmp_path / "report.html")
    page.page.wait_for_timeout(300)
    assert not any(one.startswith("dialog") for one in page.trouble)
    assert any("Content Security Policy" in one for one in page.trouble)
    page.context.close()
