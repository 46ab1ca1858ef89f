"""A run is killed and resumed: does it end as one that was not? Of this project and of others.

    python benchmarks/others.py others --data photographs

`others` is a folder with git checkouts: pytorch-image-models/ (of huggingface), vision/ (of pytorch) and pytorch-cifar/
(of kuangliu). Lightning and ultralytics are the installed packages. What is absent is left out. `photographs` has
train/ and val/ with ten class folders of pictures of 32x32 pixels, ten or more of each class in val/.

Each trains a small network for 4 epochs on one thread of the CPU: twice from beginning to end, and once killed with
SIGKILL in the third epoch and resumed as its own pages say. With `--within` all save within epochs, where there is an
option for it, and the kill comes late in the third epoch. docs/others.md has what came of it.

"helped" is what its project does not do by itself: a seed and leave to read its own checkpoints for torchvision, a
seed for each epoch for Lightning. kuangliu's script has no option for a seed or a number of epochs, so it always gets
both from here, and LeNet.
"""

import argparse
import csv
import importlib.util
import json
import os
import pickle
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from common.system.foreign import unpack_foreign  # noqa: E402

SEEDED = "import runpy, sys, torch; torch.manual_seed(1); sys.argv = sys.argv[1:]; "
TORCHVISION = (  # its checkpoints hold a Namespace, which it does not let torch.load read
    SEEDED + "import argparse; torch.serialization.add_safe_globals([argparse.Namespace]); "
    "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
)
KUANGLIU = """
import models, torchvision
from torch.optim import lr_scheduler
models.SimpleDLA = models.LeNet  # small; and no check that the files are those of CIFAR-10
torchvision.datasets.cifar.check_integrity = lambda *_, **__: True
class Four(lr_scheduler.CosineAnnealingLR):  # it trains 200 epochs and keeps the best weights alone
    def step(self):
        super().step()
        script = sys._getframe(1).f_globals
        if "epoch" in script:
            torch.save(script["net"].state_dict(), "final.pth")
            if script["epoch"] == 3:
                sys.exit()
lr_scheduler.CosineAnnealingLR = Four
runpy.run_path("main.py", run_name="__main__")
"""


@dataclass
class Result:
    """What a finished run has left: weights by name, accuracy on the validation images, learning rate of each epoch."""

    weights: dict[str, torch.Tensor]
    accuracy: float
    rates: list[float]


@dataclass
class Contestant:
    """How one project is run. `train` and `resume` make a command from the folder of a run."""

    version: str
    train: Callable[[Path], list]
    resume: Callable[[Path], list]
    third: str  # what the terminal shows when the third epoch begins
    step: str  # what it shows at a step
    result: Callable[[Path, str], Result]
    within: list | None = None  # what it takes to save within epochs
    resume_within: Callable[[Path], list] | None = None
    late: str = "$^"  # what it shows in the middle of the third epoch
    cwd: Path | None = None
    seed_option: bool = True
    environment: dict = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("others", type=Path, help="folder with the checkouts")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, val/ and test/")
    parser.add_argument("--out", type=Path, default=Path("others_runs"), help="where runs go (default: others_runs)")
    parser.add_argument("--only", nargs="+", help="these alone")
    parser.add_argument("--within", action="store_true", help="save within epochs, and kill there")
    options = parser.parse_args()
    contestants = all_contestants(options.others.resolve(), options.data.resolve())
    for name, contestant in contestants.items():
        if not options.only or name in options.only:
            print(f"{name} {contestant.version}", flush=True)
            for key, value in measure(contestant, options.out.resolve() / name, options.within).items():
                print(f"    {key}: {value}", flush=True)


def measure(contestant: Contestant, out: Path, within: bool) -> dict:
    """Run it twice without interruption and once with; return what is to be told."""
    if within and contestant.within is None:
        return {"within an epoch": "no option to save there"}
    extra = contestant.within if within else []
    whole = [finished(contestant, out / name, extra) for name in ("first", "second")]
    folder = out / "killed"
    run(contestant, [*contestant.train(folder), *extra], kill_at=contestant.late if within else contestant.third)
    resume = contestant.resume_within if within else contestant.resume
    code, text = run(contestant, [*resume(folder), *extra])
    told = {"two runs without interruption": difference(*whole), "with its own seed option": contestant.seed_option}
    told["accuracy without interruption"] = [one.accuracy for one in whole]
    told["first step after resuming"] = (re.findall(contestant.step, text) or ["none"])[0]
    if code:
        told["resumed"] = f"exit code {code}: {text.strip().splitlines()[-1]}"
        return told
    resumed = contestant.result(folder, text)
    told["resumed"] = difference(whole[0], resumed)
    told["accuracy resumed"] = resumed.accuracy
    told["learning rates"] = f"{whole[0].rates} without interruption, {resumed.rates} with"
    return told


def finished(contestant: Contestant, folder: Path, extra: list) -> Result:
    code, text = run(contestant, [*contestant.train(folder), *extra])
    if code:
        sys.exit(f"a run without interruption failed:\n{text[-2000:]}")
    return contestant.result(folder, text)


def run(contestant: Contestant, command: list, kill_at: str | None = None) -> tuple[int, str]:
    """Run at a terminal, which one of them asks for; kill all its processes as soon as the text has `kill_at` in it."""
    ours, theirs = pty.openpty()
    settings = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "YOLO_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=contestant.cwd,
        env=os.environ | settings | contestant.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    text = ""
    while part := read_some(ours):
        text += part
        if kill_at and re.search(kill_at, text):
            os.killpg(process.pid, signal.SIGKILL)
            kill_at = None
    os.close(ours)
    return process.wait(), text


def read_some(terminal: int) -> str:
    """Return what the terminal shows next, and nothing after its end, which Linux tells by an error."""
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:
        return ""


def difference(first: Result, second: Result) -> str:
    """Say whether two networks have the same bits, and how far apart the trained weights are if not."""
    if all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights):
        return "the same bits"
    trained = [name for name in first.weights if not re.search(r"running_|num_batches", name)]
    gaps = [(first.weights[name].double() - second.weights[name].double()).abs().max() for name in trained]
    return f"trained weights differ by up to {max(gaps):.2g}"


def all_contestants(others: Path, data: Path) -> dict[str, Contestant]:
    found = {"ours": this_project(data)}
    makers = {"pytorch-image-models": timm, "vision": torchvision_references, "pytorch-cifar": kuangliu}
    for folder, maker in makers.items():
        if (others / folder).is_dir():
            found |= maker(others / folder, data)
    if importlib.util.find_spec("lightning"):
        found |= lightning(data)
    if importlib.util.find_spec("ultralytics"):
        found["ultralytics"] = ultralytics(data)
    return found


def commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h of %cs", "--abbrev=10"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def this_project(data: Path) -> Contestant:
    def folder_of(out):
        return next(out.glob("ex_3/*/*/"))

    def result(out, _):
        epochs = json.loads((folder_of(out) / "train.json").read_text())["epochs"]
        weights = torch.load(folder_of(out) / "last.pth", weights_only=True)["model"]
        return Result(weights, epochs[-1]["val_accuracy"], [epoch["lr"] for epoch in epochs])

    script = HERE.parent / "ex_3.py"
    recipe = "-e 4 -b 16 -s 1 --optimizer sgd -lr 0.01 -a ReLU -d 0.2 --augment base --print_every 1".split()

    def resume(out):
        return [script, "--resume", folder_of(out)]

    return Contestant(
        version=commit(HERE.parent),
        train=lambda out: [script, "--data", data, "--output_dir", out, *recipe],
        resume=resume,
        third=r"epoch 2/4 ",
        step=r"Epoch \[\d/4\], Step \[\d+",
        result=result,
        within=["--save_minutes", "0.001"],
        resume_within=resume,
        late=r"Epoch \[3/4\], Step \[17/",
    )


def timm(checkout: Path, data: Path) -> dict[str, Contestant]:
    def result(out, _):
        with (out / "run" / "summary.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["epoch"] != "epoch"]
        weights = unpack_foreign((out / "run" / "last.pth.tar").read_bytes())["state_dict"]
        return Result(weights, float(rows[-1]["eval_top1"]) / 100, [float(row["lr"]) for row in rows])

    def train(out):
        parts = ["--data-dir", data, "--train-split", "train", "--val-split", "val", "--num-classes", 10]
        recipe = ["--model", "test_resnet", "--img-size", 32, "-b", 16, "--lr", 0.01, "--warmup-epochs", 0, "--seed", 1]
        where = ["--device", "cpu", "-j", 1, "--log-interval", 1, "--output", out, "--experiment", "run"]
        return [checkout / "train.py", *parts, *recipe, "--epochs", 4, *where]

    made = Contestant(
        version=commit(checkout),
        train=train,
        resume=lambda out: [*train(out), "--resume", out / "run" / "last.pth.tar"],
        third=r"Train: 2 \[",
        step=r"Train: \d+ \[ *\d+/\d+",
        result=result,
        within=["--recovery-interval", 5],
        resume_within=lambda out: [
            *train(out),
            "--resume",
            max((out / "run").glob("recovery-2-*"), key=os.path.getmtime),
        ],
        late=r"Train: 2 \[ *17/",
    )
    return {"timm": made}


def torchvision_references(checkout: Path, data: Path) -> dict[str, Contestant]:
    def result(out, text):
        weights = unpack_foreign((out / "checkpoint.pth").read_bytes())["model"]
        rates = {int(epoch): float(rate) for epoch, rate in re.findall(r"Epoch: \[(\d)\].* lr: (\S+)", text)}
        return Result(weights, float(re.findall(r"Acc@1 (\S+)", text)[-1]) / 100, list(rates.values()))

    script = checkout / "references" / "classification" / "train.py"

    def train(out):
        sizes = ["--train-crop-size", 32, "--val-crop-size", 32, "--val-resize-size", 32]
        recipe = [
            "--model",
            "shufflenet_v2_x0_5",
            "-b",
            16,
            "--lr",
            0.01,
            "--lr-scheduler",
            "cosineannealinglr",
            "--epochs",
            4,
        ]
        where = ["--device", "cpu", "-j", 1, "--print-freq", 1, "--output-dir", out]
        return [script, "--data-path", data, *sizes, *recipe, *where]

    def seeded(command):
        return ["-c", TORCHVISION, *command]

    def resume(out):
        return [*train(out), "--resume", out / "checkpoint.pth"]

    shared = {
        "version": commit(checkout),
        "third": r"Epoch: \[2\]",
        "step": r"Epoch: \[\d\]  \[ *\d+/\d+",
        "result": result,
    }
    return {
        "torchvision": Contestant(train=train, resume=resume, seed_option=False, **shared),
        "torchvision_helped": Contestant(
            train=lambda out: seeded(train(out)), resume=lambda out: seeded(resume(out)), seed_option=False, **shared
        ),
    }


def kuangliu(checkout: Path, data: Path) -> dict[str, Contestant]:
    def result(out, text):
        accuracies = re.findall(r"Acc: ([\d.]+)% \(\d+/100\)", text)
        return Result(torch.load(out / "final.pth"), float(accuracies[-1]) / 100, [])

    def place(out):
        """Make a folder with its code and with the images as it reads them; it writes where it is."""
        if not out.exists():
            out.mkdir(parents=True)
            for name in ("main.py", "utils.py", "models"):
                (out / name).symlink_to(checkout / name)
            write_cifar(data, out / "data" / "cifar-10-batches-py")
        return ["-c", f"import os, sys; os.chdir({str(out)!r}); sys.path.insert(0, ''); " + SEEDED + KUANGLIU]

    made = Contestant(
        version=commit(checkout),
        train=lambda out: [*place(out), "main.py", "--lr", 0.01],
        resume=lambda out: [*place(out), "main.py", "--lr", 0.01, "--resume"],
        third=r"Epoch: 2",
        step=r"Epoch: \d",
        result=result,
        seed_option=False,
    )
    return {"kuangliu": made}


def write_cifar(data: Path, folder: Path) -> None:
    """Write the pictures of class folders as CIFAR-10's pickles: five of train, and val as the test batch."""
    folder.mkdir(parents=True)
    names = sorted(path.name for path in (data / "train").iterdir())
    for part in ("train", "val"):
        files = sorted((data / part).glob("*/*"))
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1).ravel() for file in files])
        labels = np.array([names.index(file.parent.name) for file in files])
        batches = ["test_batch"] if part == "val" else [f"data_batch_{number}" for number in range(1, 6)]
        for start, name in enumerate(batches):
            batch = {"data": pixels[start :: len(batches)], "labels": labels[start :: len(batches)].tolist()}
            (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def lightning(data: Path) -> dict[str, Contestant]:
    def result(out, text):
        weights = unpack_foreign((out / "last.ckpt").read_bytes())["state_dict"]
        return Result(weights, float(re.findall(r"final accuracy (\S+)", text)[-1]), rates_of(out / "metrics.csv"))

    def rates_of(file):
        with file.open() as lines:
            return [round(float(row["lr-SGD"]), 6) for row in csv.DictReader(lines) if row.get("lr-SGD")]

    def made(*extra):
        def train(out):
            return [HERE / "others_lightning.py", data, out, *extra]

        def resume(out):
            return [*train(out), "--resume"]

        return Contestant(
            version=version("lightning"),
            train=train,
            resume=resume,
            third=r"begins 2",
            step=r"step \d+ \d+",
            result=result,
            within=["--every", 5],
            resume_within=resume,
            late=r"step 2 17",
        )

    return {"lightning": made(), "lightning_helped": made("--seed_each_epoch")}


def ultralytics(data: Path) -> Contestant:
    def result(out, _):
        with (out / "run" / "results.csv").open() as file:
            rows = list(csv.DictReader(file))
        # The file holds the network as an object, which only its own code can read; this script's run has written it.
        weights = torch.load(out / "run" / "weights" / "last.pt", weights_only=False)["model"].state_dict()
        return Result(weights, float(rows[-1]["metrics/accuracy_top1"]), [float(row["lr/pg0"]) for row in rows])

    def train(out):
        settings = {
            "data": str(data),
            "project": str(out),
            "name": "run",
            "epochs": 4,
            "imgsz": 32,
            "batch": 16,
            "seed": 1,
        }
        settings |= {"device": "cpu", "workers": 1, "pretrained": False, "deterministic": True, "exist_ok": True}
        return ["-c", f"from ultralytics import YOLO; YOLO('yolo11n-cls.yaml').train(**{settings})"]

    return Contestant(
        version=version("ultralytics"),
        train=train,
        resume=lambda out: [
            "-c",
            f"from ultralytics import YOLO; YOLO('{out}/run/weights/last.pt').train(resume=True)",
        ],
        third=r" 3/4 +\S+G ",
        step=r" \d/4 +\S+G ",
        result=result,
    )


if __name__ == "__main__":
    main()
