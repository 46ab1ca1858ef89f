"""Write docs/answers.md from the run folders of the commands in benchmarks/results/, so that no figure is typed.

    python benchmarks/answers.py outputs

Each file in results/ is the exact command, with its seeds. What it answers is in its first lines.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tools.comparing.contrasts import p_in_words  # noqa: E402

DOCS = HERE.parent / "docs"
SEARCHES = {  # file in results/ -> the search that it makes
    "ex_2_parts": "ex_2-vary-augment-image_size-width",
    "ex_1_parts": "ex_1-vary-batch_norm-dropout",
    "head_rates": "head-lr",
}
HEAD = """# Answers

Written by `python benchmarks/answers.py outputs` from the run folders of the commands named here. Differences are of
the accuracy on the validation images, paired by seed; [statistics.md](statistics.md) says what the intervals cover and
how p is corrected.
"""


def main():
    """Write the page and copy its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="the output folder of the commands")
    outputs = parser.parse_args().outputs
    parts = [HEAD]
    for name, search in SEARCHES.items():
        folder = outputs / "sweeps" / search
        if (folder / "comparison" / "compare_groups.csv").is_file():
            parts.append(section(name, folder))
        else:
            parts.append(f"## {name}\n\nNot measured yet: `benchmarks/results/{name}.sh`.\n")
    (DOCS / "answers.md").write_text("\n".join(parts), encoding="utf-8")


def section(name, folder):
    """Return what one search has found, as Markdown."""
    with open(folder / "comparison" / "compare_groups.csv", encoding="utf-8", newline="") as file:
        groups = list(csv.DictReader(file))
    picture = f"answers_{name}.png"
    shutil.copy(folder / "comparison" / "differences.png", DOCS / picture)
    said = [line.removeprefix("# ") for line in command_of(name) if line.startswith("# ")]
    lines = [
        f"## {name}",
        "",
        " ".join(said),
        "",
        "```sh",
        *(line for line in command_of(name) if not line.startswith("#")),
        "```",
    ]
    lines += ["", facts(folder, groups), "", *table(groups), "", f"![Differences with their intervals]({picture})", ""]
    return "\n".join(lines)


def command_of(name):
    """Return the lines of a file in results/ but the first, which names the shell, as one types them."""
    text = (HERE / "results" / f"{name}.sh").read_text(encoding="utf-8")
    return text.replace(' "$@"', "").replace("\\\n    ", "").splitlines()[1:]


def facts(folder, groups):
    """Return what the runs were made with, and which group the others are compared with."""
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("trials/*/*/*/*/config.json")]
    made = {name: sorted({get(config) for config in configs}) for name, get in {
        "data": lambda config: Path(config["options"].get("data") or config["dataset"]).name,
        "images": lambda config: ", ".join(f"{n:,} {part}" for part, n in config["images"].items()),
        "machine": lambda config: f"{config['machine']['cpu']}, {config['machine']['threads']} thread(s)",
        "PyTorch": lambda config: config["versions"]["torch"],
        "commit": lambda config: str(config["git_commit"])[:12],
    }.items()}  # fmt: skip
    against = [group for group in groups if not group["contrast"]]
    said = [f"{name}: {' / '.join(values)}" for name, values in made.items()]
    for one in against:
        said.append(f"group {one['group']} has {mean_of(one)} ({interval(one, 'low', 'high')}, n = {one['seeds']})")
    return "; ".join(said)


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
            cells = [group["contrast"], mean_of(group), found, between, p, group["seeds"]]
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
