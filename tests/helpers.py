"""What several test files need: small runs, the comparison of two runs, images on disk, a server on this machine."""

import csv
import importlib
import inspect
import json
import os
import pkgutil
import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FunctionType
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock

import common
import compare
import ex_1
from common.data.arrays import ArrayDataset, Split
from common.system.errors import BadInput
from common.training import fit as training
from tools.comparing.finished_runs import read_runs
from tools.comparing.overview import Question
from tools.comparing.overview import compare as compare_runs
from tools.comparing.predictions import Told

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--dataset", "digits", "-e", "2", "--limit", "300"]
TIMES = ("seconds", "images_per_second", "peak_memory_mb", "process_memory_mb", "gpu_utilization", "gpu_power_w")
LOOKS = ("test_evaluations", "looks_of_recipe", "looks_at_images", "recipes_looking")  # one that is cut off counts
SIDE = 12  # pixels of a written picture
SAFETENSORS = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
COMPARED = {"report.html", "compare.md", "compare.tex", "compare.csv", "compare_groups.csv"}
CURVES = {"loss.png", "accuracy.png", "accuracy_by_time.png"}
FEATURES = 16  # of TinyResNet; fills the registers, see common/models/batch_norm.py


# Runs


def made_once(tmp_path_factory, name, make):
    """Return the folder that `make(folder)` has filled for all processes of these tests; nobody may change it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    with FileLock(f"{folder}.lock"):
        if not Path(f"{folder}.made").exists():
            make(folder)
            Path(f"{folder}.made").touch()
    return folder


def small_run(output_dir, *options, script=ex_1):
    """Run two epochs on 300 scanned digits in this process and return the run folder."""
    return without_pictures([*SMALL, "--output_dir", str(output_dir), *options], script)


def without_pictures(argv, script=ex_1):
    """Run an experiment in this process without its pictures, which take longer than all else in small runs."""
    with no_drawing():
        return script.main(argv)


@contextmanager
def no_drawing():
    """Replace every function draw_… of what draws runs, where it is defined and where it has been imported."""
    names = [module.name for module in pkgutil.walk_packages(common.__path__, "common.")]
    names = [name for name in names if name.endswith(("plots", "figures"))]
    modules = [importlib.import_module(name) for name in names]
    drawing = {value for module in modules for name, value in vars(module).items() if name.startswith("draw_")}
    assert drawing, "no module of common/ that draws is called plots or figures"
    with ExitStack() as patches:
        for module in [module for name, module in sys.modules.items() if name.startswith("common.")]:
            for name, value in list(vars(module).items()):
                if isinstance(value, FunctionType) and value in drawing:
                    patches.enter_context(mock.patch.object(module, name))
        yield


def interrupt(run, output_dir, before_epoch):
    """Give what `run` starts a Ctrl-C in front of an epoch; return the folder that it has made in `output_dir`."""
    honest = training.train_one_epoch
    signature = inspect.signature(honest)

    def train_one_epoch(*arguments, **settings):
        if signature.bind(*arguments, **settings).arguments["epoch"] == before_epoch:
            raise KeyboardInterrupt
        return honest(*arguments, **settings)

    before = set(output_dir.glob("*/*/*"))
    with mock.patch.object(training, "train_one_epoch", train_one_epoch), pytest.raises(KeyboardInterrupt):
        run()
    [folder] = set(output_dir.glob("*/*/*")) - before
    return folder


def command(*words, **settings):
    """Run `python WORDS` as people do and return what subprocess.run returns."""
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **settings
    )


def environment(**changes):
    """Return this process's environment with changes."""
    return os.environ | changes


def read(folder, name):
    """Return the content of a JSON file of a run."""
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


def table(path):
    """Return the rows of a CSV file as dicts."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result_of(folder):
    """Return what interruptions must not change: (weights, train.json, test.json, probabilities), without times."""
    train, test = read(folder, "train.json"), read(folder, "test.json")
    del train["train_time"], test["testing_time"]
    for name in LOOKS:
        test.pop(name, None)
    for record in train["epochs"]:
        for name in TIMES:
            del record[name]
    weights = torch.load(Path(folder) / "best.pth", weights_only=True)["model"]
    with np.load(Path(folder) / "predictions.npz") as predictions:
        probabilities = predictions["probabilities"]
    return {name: tensor.numpy() for name, tensor in weights.items()}, train, test, probabilities


def same_result(one, other):
    """Tell whether two runs ended alike, bit for bit."""
    weights, train, test, probabilities = result_of(one)
    other_weights, other_train, other_test, other_probabilities = result_of(other)
    return (
        weights.keys() == other_weights.keys()
        and all(np.array_equal(weights[name], other_weights[name]) for name in weights)
        and (train, test) == (other_train, other_test)
        and np.array_equal(probabilities, other_probabilities)
    )


# Images


def noise(seed, height=SIDE, width=SIDE, tint=None):
    """Return a picture of random pixels, (height, width, 3) uint8; `tint` is a color that it is close to."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pixels if tint is None else (0.4 * pixels + 0.6 * np.array(tint)).astype(np.uint8)


def write_class(folder, count, first_seed=0, height=SIDE, width=SIDE, suffix=".png", tint=None):
    """Write `count` different pictures into the folder of a class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(noise(first_seed + number, height, width, tint)).save(folder / f"{number:03}{suffix}")


def part(images=50, size=8):
    """Return a part of random images of four classes, in memory."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (images,), generator=generator)
    return Split(ArrayDataset(pixels, labels, list("abcd"), [str(i) for i in range(images)]), torch.arange(images))


def without_hashes(file):
    """Make a file of `pack.py` one as others write it, with validation images of its own: one in ten."""
    with h5py.File(file, "r+") as content:
        for key in [key for key in content if key.startswith("hashes-")]:
            del content[key]
        for kind in () if "images-val" in content else ("images", "labels", "files"):
            rows = content[f"{kind}-train"][:]
            del content[f"{kind}-train"]
            validate = np.arange(len(rows)) % 10 == 0
            for name, some in (("train", rows[~validate]), ("val", rows[validate])):
                content.create_dataset(f"{kind}-{name}", data=some, chunks=(1, *some.shape[1:]))


class TinyResNet(nn.Module):
    """A ResNet by its names, a thousand times smaller than those of torchvision: the tests write it often."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=4, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage in range(1, 5):
            self.add_module(f"layer{stage}", nn.Sequential(BasicBlock(width, width)))

    def forward(self, images):
        x = self.bn1(self.conv1(images)).relu()
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean((2, 3))


# Files of others


def safetensors(weights, **changes):
    """Return a file of tensors as the library of that name writes it; `changes` replace entries of its header.

    The format: https://huggingface.co/docs/safetensors, "Format".
    """
    header, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in weights.items():
        content = tensor.numpy().tobytes()
        place = [len(numbers), len(numbers) + len(content)]
        header[name] = {"dtype": SAFETENSORS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        numbers += content
    text = json.dumps(header | changes).encode()
    return len(text).to_bytes(8, "little") + text + numbers


# A server on this machine


@contextmanager
def serving(answer):
    """A server on this machine, and the addresses that it was asked for; `answer` writes the answer."""
    asked = []

    def do_get(handler):
        asked.append(handler.path)
        answer(handler)

    quiet = {"do_GET": do_get, "log_message": lambda *_: None}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (BaseHTTPRequestHandler,), quiet))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, content, announced=None, status=200):
    """Answer a request with these bytes."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if announced is None else announced))
    handler.end_headers()
    handler.wfile.write(content)


def closed_port():
    """Return a port of this machine at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


# Comparisons


def altered(run, folder, config=(), train=(), test=(), **options):
    """Copy the JSON files and predictions of `run` to `folder`, with changes; an option that is ... is left out."""
    folder.mkdir(parents=True)
    old = read(run, "config.json")
    kept = {name: value for name, value in (old["options"] | options).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(old | {"options": kept} | dict(config)))
    (folder / "train.json").write_text(json.dumps(read(run, "train.json") | dict(train)))
    if test is not None:
        (folder / "test.json").write_text(json.dumps(read(run, "test.json") | dict(test)))
        (folder / "val_predictions.npz").write_bytes((run / "val_predictions.npz").read_bytes())
    return folder


def scored(run, folder, accuracy, **options):
    """Copy a run with another best validation accuracy."""
    record = read(run, "train.json")["epochs"][0] | {"val_accuracy": accuracy}
    return altered(run, folder, train={"epochs": [record], "best_epoch": 1, "best_val_accuracy": accuracy}, **options)


def folds(real, folder, **values):
    """Copy a run for each fold of cross-validations, by learning rate; 270 images train and 30 validate."""
    for lr, accuracies in values.items():
        for number, accuracy in enumerate(accuracies, 1):
            options = {"lr": lr, "folds": f"{number}/{len(accuracies)}", "split_seed": 0, "seed": 0}
            images = {"images": {"train": 270, "val": 30, "test": 0}}
            scored(real[0], folder / f"{lr}-{number}", accuracy, config=images, **options)


def many(real, folder, *settings, seeds=3):
    """Copy a run for each seed and each of the `settings` (accuracy of the seed, options)."""
    for number, (accuracy, options) in enumerate(settings):
        for seed in range(seeds):
            scored(real[0], folder / f"{number}-{seed}", accuracy(seed), seed=seed, **options)


def curve(real, folder, accuracies, **options):
    records = [{"epoch": epoch, "val_accuracy": one, "val_loss": 1.0} for epoch, one in enumerate(accuracies, 1)]
    best = max(accuracies)
    train = {"epochs": records, "best_epoch": accuracies.index(best) + 1, "best_val_accuracy": best}
    return altered(real[0], folder, train=train, epochs=len(accuracies), **options)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def page_data(path):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def run_compare(*words):
    return compare.main([str(word) for word in words])


def refusal_of_compare(*words):
    with pytest.raises(BadInput) as error:
        run_compare(*words)
    return str(error.value)


def overview_of(*folders, metric="val_accuracy", **wishes):
    runs, _ = read_runs([str(folder) for folder in folders])
    return compare_runs(runs, Question(metric, **wishes), Told(), [])
