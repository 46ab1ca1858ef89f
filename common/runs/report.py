"""`report.html` of a run: one page, ready to hand in, that loads nothing; made of the files beside it.

Its order is that in which such work is read: question, command, data, network, training, result, mistakes, limits, and
how to do it again.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.runs.config import title_of
from common.runs.folder import read_run_json
from common.runs.page import page
from common.system.files import write_bytes
from common.system.text import printable, shell_line

NAME = "report.html"
TEMPLATE = Path(__file__).with_name("page.html")
MOST_CLASSES = 30  # classes in the table of scores: the worst ones
LARGEST_PICTURE = 4 * 2**20  # bytes
NOTED = ("note: ", "warning: ", "null test")  # how lines of log.txt begin that whoever reads the results should know
PARTS = {"train": "training", "val": "validation", "test": "test"}
ORIGIN = r"\([^()\d]*\)"  # where images come from, which log.txt alone tells; their numbers are those of config.json
LATER = " has failed and is left out: "  # in what is said of trackers, which can be after the page was written
ALWAYS = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "seed")  # options
RESUMED = {  # options of which a run that goes on may be given others, as they are typed
    "epochs": r"-e[= ]?\d\w*|--epochs[= ]\w+", "test": r"--test(?:[= ]\w+)?",
}  # fmt: skip
CURVES = "the star is at the best epoch, that of the highest validation accuracy, the earliest of equals"
MISTAKES = {
    "val_predictions.png": "Validation images: some at random, then the most confident mistakes",
    "grad_cam.png": "Grad-CAM: which pixels spoke for the predicted class",
}
SCORES = {  # of test.json -> what people call it
    "accuracy": "accuracy", "f1_score": "F1, macro", "precision_score": "precision, macro",
    "recall_score": "recall, macro", "auc_score": "AUC, one against the rest, macro", "iou_score": "IoU, macro",
    "top5_accuracy": "top-5 accuracy", "loss": "loss (cross-entropy)",
    "expected_calibration_error": "expected calibration error",
}  # fmt: skip


def write_report(folder: Path, question: str, told: dict) -> None:
    """Write the page of a finished run; `question` is what its experiment asks, `told` the options of interest."""
    names = ("config", "train", "validation", "test")
    config, train, val, test = (read_run_json(folder / f"{name}.json") for name in names)
    best = next((one for one in train["epochs"] if one["epoch"] == train.get("best_epoch")), {})
    log = folder / "log.txt"
    said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    noted = (line for line in said if line.startswith(NOTED) and LATER not in line)
    limited = dict.fromkeys([*noted, *limits(val, test)])
    sections = (
        ("Question", [_paragraph(question), _code(_command(config))]),
        ("Data", [*_on_data(config, said), _figure(folder, "samples.png", "Training images as the network sees them")]),
        ("Network", [*_on_network(config), _layers(folder)]),
        ("Training", [*_on_training(config, told, train, best), _curves(folder)]),
        ("Result", [*_on_result(val, test), *_matrices(folder, test)]),
        ("Classes", [_classes(test or val)]),
        ("Mistakes", [_figure(folder, name, caption) for name, caption in MISTAKES.items()]),
        ("Limits", ["<ul>", *(f"<li>{_text(one)}</li>" for one in limited), "</ul>"]),
        ("Again", _on_reproduction(config, folder)),
    )
    title = printable(title_of(config))
    body = [
        f"<h1>{_text(title)}</h1>",
        _paragraph(f"Run of {folder.name}; the files beside this page hold the numbers."),
    ]
    for heading, parts in sections:
        if content := "\n".join(filter(None, parts)):
            body.append(f"<h2>{heading}</h2>\n{content}")
    content = page(TEMPLATE, TITLE=_text(title), BODY="\n".join(body))
    write_bytes(folder / NAME, content.encode("utf-8", errors="backslashreplace"))


def limits(val: dict, test: dict) -> list[str]:
    """Return in sentences what the run does not show, from the contents of its JSON files (`test` may be empty)."""
    said = ["One run tells nothing of how much results vary from seed to seed: -s 0,1,2 makes three, with an interval."]
    if (val.get("best_of_epochs") or 1) > 1:
        said.append(
            f"The weights are those of the best of {val['best_of_epochs']} epochs on the {val['images']:,} validation "
            "images, so their validation scores are somewhat too good."
        )
    if test:
        low, high = test["accuracy_interval_95"]
        said.append(f"The interval, {low:.4f} to {high:.4f}, is that of {test['images']:,} test images alone.")
        if test.get("looks_at_images", 1) > 1:
            said.append(
                f"These test images had been looked at {test['looks_at_images']} times, by {test['recipes_looking']} "
                "recipe(s): whoever keeps the best of many is too well off."
            )
        without = test.get("accuracy_without_copies") or {}
        if without.get("copies"):
            accuracy = "unknown" if without["accuracy"] is None else f"{without['accuracy']:.4f}"
            said.append(f"{without['copies']:,} test images have a copy elsewhere; the accuracy without: {accuracy}.")
    else:
        said.append("The test images were not scored.")
    kinds = {}  # note -> of which images it is
    for kind, scores in (("test", test), ("validation", val)):
        for note in scores.get("notes", []):
            kinds.setdefault(note, []).append(kind)
    return said + [
        f"On the {' and '.join(of)} images: {note}."
        for note, of in kinds.items()
        if not note.startswith("the best of")  # which is said above
    ]


def _on_data(config: dict, said: list[str]) -> Iterable[str]:
    counts = [f"{config['images'][name]:,} {what}" for name, what in PARTS.items()]
    with_origins = re.compile(rf"images: {', '.join(rf'{count}( {ORIGIN})?' for count in counts)}")
    told = next(filter(with_origins.fullmatch, reversed(said)), f"images: {', '.join(counts)}")
    yield _paragraph(f"{config['dataset']}, {len(config['classes'])} classes; {told}")
    unusual = [f"{count:,} {what}" for what, count in config.get("converted", {}).items()]
    unusual += [f"{len(config['skipped']):,} files skipped"] if config.get("skipped") else []
    if unusual:
        yield _paragraph(f"Converted or left out: {', '.join(unusual)}.")


def _on_network(config: dict) -> Iterable[str]:
    shape = "x".join(map(str, config["input_shape"]))
    cost = f"{config['parameters']:,} parameters; {config['flops']:,} operations for an image of {shape}"
    yield _paragraph(f"{config['model']}: {cost}.")


def _layers(folder: Path) -> str:
    path = folder / "summary.txt"
    return _code(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""


def _on_training(config: dict, told: dict, train: dict, best: dict) -> Iterable[str]:
    machine = config["machine"]
    rows = {name: config["options"].get(name) for name in ALWAYS} | told
    rows["precision"] = f"{machine['precision']} ({config.get('precision_because', 'for a reason that is not known')})"
    yield _table(list(rows.items()))
    seconds = train["train_time"]
    took = f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.1f} s"
    where = f"{machine['device_name']}, {machine.get('threads')} thread(s)"
    yield _paragraph(f"{len(train['epochs'])} epochs in {took}, on {where}.")
    if best:
        why = "of the highest validation accuracy, the earliest of equals"
        yield _paragraph(f"Best epoch {best['epoch']}, {why}: {best['val_accuracy']:.4f}.")


def _on_result(val: dict, test: dict) -> Iterable[str]:
    if test:
        low, high = test["accuracy_interval_95"]
        yield (
            f'<p class="result"><b>Test accuracy {test["accuracy"]:.2%}</b> (95 % interval {low:.2%} to {high:.2%}, '
            f"n = {test['images']:,} images; chosen by: {_text(test.get('selected_on', 'unknown'))}).</p>"
        )
    head = ["", "validation", *(["test"] if test else [])]
    rows = [(what, *(_number(one.get(name)) for one in (val, test) if one)) for name, what in SCORES.items()]
    yield _table([row for row in rows if set(row[1:]) != {""}], head)


def _matrices(folder: Path, test: dict) -> Iterable[str]:
    prefix, kind = ("", "test") if test else ("val_", "validation")
    yield _figure(folder, f"{prefix}confusion_matrix.png", f"Confusion matrix of the {kind} images")
    yield _figure(folder, f"{prefix}roc.png", f"ROC curves of the {kind} images")


def _classes(scores: dict) -> str:
    """Return a table of the classes, the worst first."""
    classes = {name: one for name, one in scores.get("per_class", {}).items() if one.get("f1_score") is not None}
    ordered = sorted(classes.items(), key=lambda item: item[1]["f1_score"])[:MOST_CLASSES]
    names = ("images", "precision_score", "recall_score", "f1_score", "auc_score")
    head = ["class", *(name.removesuffix("_score") for name in names)]
    more = f" (the worst {MOST_CLASSES} of {len(classes):,})" if len(classes) > MOST_CLASSES else ""
    rows = [(name, *(_number(one.get(key)) for key in names)) for name, one in ordered]
    return _paragraph(f"By F1, the worst first{more}.") + _table(rows, head) if rows else ""


def _command(config: dict) -> str:
    """Return the command that gives what the page shows, with what the run was asked for when it went on."""
    command, later = config["command"], [one["command"] for one in config.get("resumed", [])]
    for name, words in RESUMED.items():
        option = re.compile(rf" (?:{words})(?= |$)")
        if any(map(option.search, later)):
            command = f"{option.sub('', command)} --{name} {config['options'][name]}"
    return command


def _on_reproduction(config: dict, folder: Path) -> Iterable[str]:
    check = shell_line(["python", "verify.py", str(folder), "--rerun", "--trust"])
    yield _code(f"{_command(config)}\n{check}")
    versions = ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items())
    facts = {
        "run": config.get("run_id"), "commit": config.get("git_commit"), "code (SHA-256)": config.get("code_sha256"),
        "images and split (SHA-256)": config["split_sha256"], "CPU": config["machine"].get("cpu"),
        "system": config["machine"].get("system"), "versions": versions,
    }  # fmt: skip
    yield _table(list(facts.items()))
    yield _paragraph("The same code, versions, kind of CPU and number of threads give the same bits.")
    cited = f"{config.get('name', config['script'])}, run {config.get('run_id')}, commit {config.get('git_commit')}"
    yield _paragraph(f"To cite it: {cited}.")


def _curves(folder: Path) -> str:
    pictures = (_figure(folder, f"{name}.png", f"{name}; {CURVES}") for name in ("loss", "accuracy"))
    return f'<div class="pair">{"".join(pictures)}</div>'


def _figure(folder: Path, name: str, caption: str) -> str:
    """Return a picture of the run with its caption, nothing where it is not there or too large."""
    for path, kind in ((folder / name).with_suffix(".svg"), "svg+xml"), (folder / name, "png"):  # svg: sharper in print
        if path.is_file() and path.stat().st_size <= LARGEST_PICTURE:
            content = base64.b64encode(path.read_bytes()).decode()
            image = f'<img alt="{_text(caption)}" src="data:image/{kind};base64,{content}">'
            return f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>"
    return ""


def _table(rows: Sequence[Sequence], head: Sequence[str] = ()) -> str:
    """Return a table; all columns but the first hold numbers where it has a head."""
    kind = ' class="number"' if head else ""
    lines = ["".join(f"<th{kind if place else ''}>{_text(name)}</th>" for place, name in enumerate(head))]
    lines += ("".join(f"<td{kind if at else ''}>{_text(cell)}</td>" for at, cell in enumerate(row)) for row in rows)
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines if line)}</table></div>'


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _code(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _text(value: object) -> str:
    return html.escape(printable("" if value is None else value))
