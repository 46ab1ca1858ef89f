"""Write docs/answers.md from the run folders of the commands in benchmarks/results/, so that no figure is typed.

    python benchmarks/answers.py outputs

Each file in results/ is the exact command, with its seeds. What it answers is in its first lines. A section whose runs
are not all in the output folder stays as it is.
"""

import argparse
import csv
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from common.evaluation.repeats import summary  # noqa: E402
from tools.comparing.contrasts import p_in_words  # noqa: E402

DOCS = HERE.parent / "docs"
SEARCHES = {  # file in results/ -> the search that it makes
    "ex_2_parts": "ex_2-vary-augment-image_size-width",
    "ex_2_cifar": "ex_2-cifar",
    "ex_1_parts": "ex_1-vary-batch_norm-dropout",
    "ex_1_cifar_parts": "ex_1-cifar_parts",
    "ex_1_options": "ex_1-options",
    "ex_1_precision": "ex_1-vary-precision",
    "unbalanced": "unbalanced",
    "head_rates": "head-lr",
    "trainB_strategies": "trainB-strategies",
    "ex_3_models": "ex_3-models",
    "alexnet_lr": "alexnet-lr",
    "alexnet_batch": "alexnet-batch",
}
ONE_SEED = {"trainA_search": "trainA"}  # likewise, but each configuration was tried once: no differences
# files in results/ that train with several seeds
RUNS = ("ex_1_digits", "ex_1_cifar", "ex_1_small100", "ex_4_small100", "ex_5_digits", "trainA_nature")
SHOWN = 5  # trials of such a search
HEAD = """# Answers

Written by `python benchmarks/answers.py outputs` from the run folders of the commands named here. Differences are of
the accuracy on the validation images, paired by seed; [statistics.md](statistics.md) says what the intervals cover and
how p is corrected. Other work ran beside these commands: their training times are long, and no measurement of speed.
"""


def main():
    """Write the page and copy its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="the output folder of the commands")
    outputs = parser.parse_args().outputs
    before = {part.split("\n")[0]: f"## {part}" for part in (DOCS / "answers.md").read_text().split("\n## ")[1:]}
    made = dict(sections(outputs))
    parts = [made[name] or before.get(name, not_yet(name)) for name in (*SEARCHES, *ONE_SEED, *RUNS)]
    (DOCS / "answers.md").write_text("\n".join([HEAD, *parts]), encoding="utf-8")


def sections(outputs):
    """Yield (name, section as Markdown) of all commands, None for one whose runs are not all there."""
    for name, search in SEARCHES.items():
        folder = outputs / "sweeps" / search
        yield name, section(name, folder) if (folder / "comparison" / "compare_groups.csv").is_file() else None
    for name, search in ONE_SEED.items():
        folder = outputs / "sweeps" / search
        yield name, best_section(name, folder) if (folder / "best.yaml").is_file() else None
    for name in RUNS:
        folders = sorted(path.parent for path in outputs.glob(f"{name}/*/*/*/test.json"))
        seeds = re.search(r"-s ([\d,]+)", (HERE / "results" / f"{name}.sh").read_text(encoding="utf-8"))[1]
        yield name, runs_section(name, folders) if len(folders) == len(seeds.split(",")) else None


def read(path):
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def not_yet(name):
    """Return the section of a command whose runs are not there."""
    return f"## {name}\n\nNot measured yet: `benchmarks/results/{name}.sh`.\n"


def runs_section(name, folders):
    """Return what runs of several seeds have come to, as Markdown."""
    tests, vals, trains, configs = ([read(folder / f"{kind}.json") for folder in folders]
                                    for kind in ("test", "validation", "train", "config"))  # fmt: skip
    seeds = [str(config["seed"]) for config in configs]
    rows = [(seed, f"{val['accuracy']:.4f}", f"{train['best_epoch']} of {len(train['epochs'])}",
             f"{test['accuracy']:.4f} ({' to '.join(f'{end:.4f}' for end in test['accuracy_interval_95'])})",
             f"{train['train_time']:.0f} s")
            for seed, val, train, test in zip(seeds, vals, trains, tests, strict=True)]  # fmt: skip
    said, varied, *_ = summary(folders)
    table = [
        "| seed | validation | best epoch | test (95 % interval of the images) | training |",
        "|---|---|---|---|---|",
    ]
    table += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*heading(name), facts(folders), "", *table, "", f"{said}. {varied.capitalize()}.", ""])


def section(name, folder):
    """Return what one search has found, as Markdown."""
    with open(folder / "comparison" / "compare_groups.csv", encoding="utf-8", newline="") as file:
        groups = list(csv.DictReader(file))
    picture = f"answers_{name}.png"
    shutil.copy(folder / "comparison" / "differences.png", DOCS / picture)
    runs = [path.parent for path in folder.glob("trials/*/*/*/*/config.json")]
    said = "; ".join([facts(runs), *against(groups)])
    picture = f"![Differences with their intervals]({picture})"
    return "\n".join([*heading(name), said, "", *table(groups), "", picture, "", *networks(runs)])


def networks(runs):
    """Return a table of the networks of `runs`, if they differ in `--model`, and what these need."""
    of_model = {}
    for run in runs:
        config = read(run / "config.json")
        of_model.setdefault(config["options"].get("model"), []).append((config, run))
    if len(of_model) < 2:
        return []
    rows = [
        "| network | parameters | operations, an image forward | weights | kept for backward, an image | peak memory |"
    ]
    rows += ["|---" * 6 + "|"]
    for model, members in sorted(of_model.items(), key=lambda item: item[1][0][0]["parameters"]):
        config = members[0][0]
        epochs = (read(run / "train.json")["epochs"] for _, run in members)
        peak = max(epoch["peak_memory_mb"] for records in epochs for epoch in records)
        cells = [model, f"{config['parameters']:,}", f"{config['flops'] / 1e6:,.1f} million"]
        cells += [f"{config['parameter_mb']:.2f} MB", f"{config['activation_mb']:.3f} MB", f"{peak:,.0f} MB"]
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, ""]


def best_section(name, folder):
    """Return what a search with one run of each configuration has come to, as Markdown."""
    with open(folder / "trials.csv", encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    states = Counter(trial["state"] for trial in trials)
    metric = list(trials[0])[2]
    finished = sorted((t for t in trials if t["state"] == "finished"), key=lambda t: -float(t[metric]))
    options = list(trials[0])[3 : list(trials[0]).index("best_epoch")]
    rows = [f"| trial | {metric} | {' | '.join(options)} |", "|---" * (len(options) + 2) + "|"]
    cells = ([t["trial"], f"{float(t[metric]):.4f}", *(t[name] for name in options)] for t in finished[:SHOWN])
    rows += [f"| {' | '.join(row)} |" for row in cells]
    [test] = (read(path) for path in folder.glob("trials/*/*/*/*/test.json"))
    low, high = test["accuracy_interval_95"]
    said = ", ".join(f"{count} {state}" for state, count in states.items())
    said += "; one run each, so that the order says little. "
    said += f"The best on the test images: {test['accuracy']:.4f} ({low:.4f} to {high:.4f}, of other images)."
    shutil.copy(folder / "parallel.png", DOCS / "search.png")
    runs = [path.parent for path in folder.glob("trials/*/*/*/*/config.json")]
    picture = "![Options and validation accuracy of each trial](search.png)"
    return "\n".join([*heading(name), facts(runs), "", said, "", *rows, "", picture, ""])


def heading(name):
    """Return the first lines of a section: what is asked, and the command."""
    said = [line.removeprefix("# ") for line in command_of(name) if line.startswith("# ")]
    typed = (line for line in command_of(name) if not line.startswith("#"))
    return [f"## {name}", "", " ".join(said), "", "```sh", *typed, "```", ""]


def command_of(name):
    """Return the lines of a file in results/ but the first, which names the shell, as one types them."""
    text = (HERE / "results" / f"{name}.sh").read_text(encoding="utf-8")
    return text.replace(' "$@"', "").replace("\\\n    ", "").splitlines()[1:]


def facts(runs):
    """Return what the runs were made with."""
    configs = [read(run / "config.json") for run in runs]
    made = {name: sorted({get(config) for config in configs}) for name, get in {
        "data": lambda config: Path(config["options"].get("data") or config["dataset"]).name,
        "images": lambda config: ", ".join(f"{n:,} {part}" for part, n in config["images"].items()),
        "machine": lambda config: f"{config['machine']['cpu']}, {config['machine']['threads']} thread(s)",
        "PyTorch": lambda config: config["versions"]["torch"],
        "commit": lambda config: str(config["git_commit"])[:12],
    }.items()}  # fmt: skip
    return "; ".join(f"{name}: {' / '.join(values)}" for name, values in made.items())


def against(groups):
    """Return what the group has come to that the others are compared with."""
    found = (group for group in groups if not group["contrast"])
    said = "group {} has {} ({}, n = {})"
    of = ((one["group"], mean_of(one), interval(one, "low", "high") or "each seed", one["seeds"]) for one in found)
    return [said.format(*each) for each in of]


def table(groups):
    """Return the rows of all other groups, the best first."""
    rows = [
        "| groups | mean | difference | 95 % interval | corrected p | seeds | |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        if group["contrast"]:
            p = p_in_words(float(group["p_corrected"])) if group["p_corrected"] else ""
            found = f"{float(group['difference']):+.4f}"
            between = interval(group, "difference_low", "difference_high")
            is_clear = p and float(group["p_corrected"]) < 0.05
            contrast = re.sub(r"/\S+/", "", group["contrast"])  # of a file its name alone
            cells = [contrast, mean_of(group), found, between, p, group["seeds"]]
            rows.append(f"| {' | '.join(cells)} | {'significant' if is_clear else 'not significant'} |")
    return rows


def mean_of(group):
    """Return the mean accuracy of a group."""
    return f"{float(next(value for name, value in group.items() if name.startswith('mean '))):.4f}"


def interval(group, low, high):
    """Return an interval, if there is one."""
    return f"{float(group[low]):.4f} to {float(group[high]):.4f}" if group[low] else ""


if __name__ == "__main__":
    main()
