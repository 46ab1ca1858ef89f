"""`report.html`: the comparison as one page that needs no server and loads nothing from anywhere."""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from common.runs.page import page
from common.system.files import write_bytes
from common.system.log import progress
from common.system.text import printable
from tools.comparing.contrasts import Effect, in_plain_words, network_verdict, verdict
from tools.comparing.finished_runs import FinishedRun
from tools.comparing.groups import Group, short_names, shown, words
from tools.comparing.overview import Overview
from tools.comparing.tables import Column, explanation, group_columns, run_columns

TEMPLATE = Path(__file__).with_name("report.html")
GENERATOR = b'<meta name="generator" content="compare.py">'  # by which an older report is known to be ours
CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
MOST_POINTS = 300  # of a curve
LONGEST_OPTION, LONGEST_NAME = 2000, 200  # characters
LEGEND = 10  # groups that have a color in the page
BUDGET = 24 * 2**20  # bytes of pictures in the page; with the data of 200 runs it stays below 30 MB
LARGEST_FILE, LARGEST_PICTURE, WIDEST = 20 * 2**20, 40_000_000, 900  # bytes; pixels; pixels in the page
# First of every run the picture that shows its worst mistakes, then the others, run by run from the best on; * stands
# for what is there of the validation images too.
FIRST_PICTURE = ("*predictions.png",)
PICTURES = (
    "*confusion_matrix.png", "class_predictions.png", "samples.png", "grad_cam.png", "loss.png", "accuracy.png",
)  # fmt: skip


class _Album:
    """The pictures of the page as data URIs: each once, however many runs have it, and no more than BUDGET."""

    def __init__(self):
        self.uris, self.left_out, self._place_of = [], 0, {}

    def add(self, path: Path) -> int | None:
        """Return the place of the picture in `uris`; None if it is not there, cannot be read, or is beyond BUDGET."""
        try:
            if not path.is_file() or path.stat().st_size > LARGEST_FILE:
                return None
            content = path.read_bytes()
        except OSError:
            return None
        digest = hashlib.sha256(content).digest()
        if digest not in self._place_of:
            if sum(map(len, self.uris)) >= BUDGET:
                self.left_out += 1
                return None
            uri = _data_uri(content)
            self._place_of[digest] = len(self.uris) if uri else None
            self.uris += [uri] if uri else []
        return self._place_of[digest]


def write_report(path: Path, overview: Overview) -> None:
    """Write the page."""
    album, data = _Album(), _content(overview)
    with progress(2 * len(overview.runs), "pictures of", " runs") as bar:
        for names in (FIRST_PICTURE, PICTURES):
            for run, shown_run in zip(overview.runs, data["runs"], strict=True):
                names_here = [name.replace("*", run.looked_at) for name in names]
                places = [(name, album.add(run.folder / name)) for name in names_here]
                shown_run["pictures"] += [(name, place) for name, place in places if place is not None]
                bar.update()
    data["album"] = album.uris
    if album.left_out:
        reason = f"because the page would be larger than {BUDGET // 2**20} MB; they are in the run folders"
        data["notes"].append(f"{album.left_out} pictures of the runs that rank lower are left out, {reason}")
    write_bytes(path, _page(json.dumps(data, allow_nan=False)).encode())


def is_our_report(path: Path) -> bool:
    """Tell whether a file was written by `write_report`."""
    with open(path, "rb") as file:
        return GENERATOR in file.read(500)


def _page(text: str) -> str:
    """Return the page with its data."""
    # Nothing in the data can end its block or begin another: JSON has these three letters in texts only.
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return page(TEMPLATE, DATA=text)


def _content(overview: Overview) -> dict:
    """Return what the page shows, but for the pictures."""
    diverged = sum(run.diverged for run in overview.runs)
    failed = f" ({diverged} diverged)" if diverged else ""
    return {
        "title": f"{_count(len(overview.runs), 'run')}{failed} in {_count(len(overview.groups), 'group')}",
        "legend": _legend(overview.groups[:LEGEND]),
        "metric": overview.metric,
        "passed": [[printable(one.path, 300), one.reason] for one in overview.passed],
        "notes": list(overview.notes),
        "columns": _columns(run_columns(overview)),
        "groups": _columns(group_columns(overview)),
        "contrasts": [
            [printable(one.title, 300), _verdicts(one, overview.metric), network_verdict(one), one.is_significant]
            for one in overview.contrasts
        ]
        + [
            [printable(f"effect of {one.title}", 300), _verdicts(one, overview.metric), "", one.is_significant]
            for one in overview.effects
        ],
        "explanation": explanation(overview),
        "runs": [_run(run, overview) for run in overview.runs],
    }


def _legend(groups: Sequence[Group]) -> list[str]:
    names = zip(short_names(groups), groups, strict=True)
    return [printable(name, 80) + printable(group.made_of, 80) for name, group in names]


def _verdicts(one: Effect, metric: str) -> str:
    """Return what is said of the recipes, in figures and in plain words."""
    return "; ".join(filter(None, (verdict(one, metric), printable(in_plain_words(one, metric), 400))))


def _count(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _columns(columns: list[Column]) -> list[dict]:
    """Return the columns with their values to sort by and their texts to read."""
    return [
        {
            "name": printable(column.name, LONGEST_NAME),
            "values": _short_texts(column.values),
            "texts": [column.text(row) for row in range(len(column.values))],
        }
        for column in columns
    ]


def _run(run: FinishedRun, overview: Overview) -> dict:
    group, mistakes = overview.group_of(run), overview.mistakes.get(run)
    options = sorted(run.options.items(), key=lambda item: (item[0] not in overview.options, item[0]))
    settings = words(group.settings, group.settings)
    curve = f"group {group.number}: {f'{group.name}, ' if group.name else ''}{settings}, seed {shown(run.seed)}"
    curve += f", fold {run.fold}" if run.fold else ""
    return {
        "label": printable(run.label, 200),
        "folder": printable(run.folder, 300),
        "group": group.number - 1,
        "curve": printable(curve, 300),
        "epochs": _curves(run),
        "options": [
            [printable(name, LONGEST_NAME), printable(shown(value), LONGEST_OPTION), name in overview.options]
            for name, value in options
        ],
        "scores": [[printable(name, LONGEST_NAME), value] for name, value in sorted(run.scores.items())],
        "command": printable(run.config.get("command", ""), LONGEST_OPTION),
        "kind": mistakes.kind if mistakes else "",
        "confused": [_short_texts(row) for row in mistakes.confused] if mistakes else [],
        "worst": [_short_texts(row) for row in mistakes.worst] if mistakes else [],
        "pictures": [],
    }


def _short_texts(row: Sequence) -> list:
    return [printable(value, LONGEST_NAME) if isinstance(value, str) else value for value in row]


def _curves(run: FinishedRun) -> dict[str, list]:
    """Return the curves with five digits and few enough points; the last and the best epoch are always among them."""
    records = [record | {"time": time} for record, time in zip(run.epochs, run.times, strict=True)]
    step, best = -(-len(records) // MOST_POINTS), run.scores.get("best_epoch")
    kept = [record for place, record in enumerate(records) if place % step == 0 or record["epoch"] == best]
    kept += [] if not records or kept[-1] is records[-1] else [records[-1]]
    curves = {"epoch": [record["epoch"] for record in kept]}
    for key in ("time", *CURVES):
        curves[key] = [float(f"{record[key]:.5g}") if key in record else None for record in kept]
    return curves


def _data_uri(content: bytes) -> str | None:
    """Return a PNG picture as a data URI, smaller and as WebP; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > LARGEST_PICTURE:
                return None
            rgb = image.convert("RGB")
        rgb.thumbnail((WIDEST, 4 * WIDEST), reducing_gap=2.0)
        buffer = io.BytesIO()
        rgb.save(buffer, "WEBP", quality=60, method=0)
    except MemoryError:
        raise
    except Exception:  # Pillow's decoders raise nearly anything for damaged files
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
