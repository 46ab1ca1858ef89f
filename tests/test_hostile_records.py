"""Whatever config.json and sealed checkpoints hold: it is used, or one line says why not; no traceback, no flood."""

import copy
import functools
import hashlib
import io
import json
import math
import os
import random
import shutil
import sys
import warnings
import zipfile

import pytest
import torch
from helpers import ROOT, command, small_run, without_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ex_1
import predict
from common.models.weights import load_weights
from common.system.checkpoints import SEAL, load_checkpoint
from common.system.errors import explain
from common.system.records import check_config

ESCAPES = "\x1b]0;owned\x07\x1b[31m\r\nname"
CLASSES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("hostile"), "-e", "1")


@pytest.fixture(scope="module")
def honest(run):
    return load_checkpoint(run / "best.pth")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    return path


def sealed(content):
    return content + SEAL + hashlib.sha256(content).hexdigest().encode()


def packed(content):
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of strange tensors
        torch.save(content, buffer)
    return buffer.getvalue()


def repacked(content, pickled=None, compression=zipfile.ZIP_STORED):
    """Return the file of `torch.save` again, with another pickle or compressed."""
    buffer, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(packed(content)))
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if pickled and name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


class Call:
    """Its pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def with_config(content, **changes):
    return content | {"config": content["config"] | changes}


def with_options(content, **changes):
    return with_config(content, options=content["config"]["options"] | changes)


def with_weights(content, change, which=0):
    """Return `content` with one of its tensors changed."""
    name = list(content["model"])[which]
    with warnings.catch_warnings(action="ignore"):  # of strange ones
        return content | {"model": content["model"] | {name: change(content["model"][name])}}


def one_number_each(model):
    """Return tensors of the shapes of a model that are stored as one number each."""
    return {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in model.items()}


STRANGE_TENSORS = [
    lambda t: t.expand(1000, *t.shape), lambda t: torch.zeros(()).expand(10**6, 10**6), lambda t: t[:0], lambda t: 3,
    lambda t: t.to(torch.complex64), lambda t: t.to_sparse(), lambda t: t.to("meta"), lambda t: None,
    lambda t: torch.nested.nested_tensor([t, t[:1]]),
    lambda t: torch.full_like(t, math.nan), lambda t: torch.full_like(t, math.inf), lambda t: t.tolist(),
    lambda t: torch.full_like(t, 3e38), lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    lambda t: t.double(), lambda t: t.bool(), lambda t: torch.nn.Parameter(t), lambda t: t.reshape(-1),
]  # fmt: skip
NAMED = {
    "no dict": lambda c: packed([1, 2]),
    "a tensor": lambda c: packed(torch.zeros(3)),
    "a key is missing": lambda c: packed({"model": c["model"]}),
    "config is null": lambda c: packed(c | {"config": None}),
    "epoch is a text": lambda c: packed(c | {"epoch": ESCAPES}),
    "weights are a list": lambda c: packed(c | {"model": [1]}),
    "weights are not finite": lambda c: packed(with_weights(c, lambda t: torch.full_like(t, math.nan))),
    "weights are huge": lambda c: packed(with_weights(c, lambda t: torch.full_like(t, 3e38), 7)),
    "weights of another shape": lambda c: packed(with_weights(c, lambda t: t[:1])),
    "weights are larger than the file": lambda c: packed(c | {"model": one_number_each(c["model"])}),
    "complex weights": lambda c: packed(with_weights(c, lambda t: t.to(torch.complex64))),
    "names of weights": lambda c: packed(c | {"model": c["model"] | {ESCAPES: torch.zeros(1), 3: 3}}),
    "stored_size": lambda c: packed(with_config(c, stored_size=60000)),
    "one class": lambda c: packed(with_config(c, classes=["a"])),
    "classes are numbers": lambda c: packed(with_config(c, classes=list(range(10)))),
    "classes twice": lambda c: packed(with_config(c, classes=["a"] * 10)),
    "options are null": lambda c: packed(with_config(c, options=None)),
    "an option": lambda c: packed(with_options(c, dropout="abc" + ESCAPES)),
    "escapes": lambda c: packed(with_config(c, script=ESCAPES)),
    "nested": lambda c: repacked(c, b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."),
    "code": lambda c: packed(c | {"x": Call(os.system, "false")}),
    "byte array": lambda c: packed(c | {"x": Call(bytearray, 10**11)}),
    "compressed": lambda c: repacked(c, compression=zipfile.ZIP_DEFLATED),
    "no archive": lambda c: b"PK\x03\x04" + bytes(100),
    "no pickle": lambda c: repacked(c, b"nonsense"),
}


def outcome(function, *arguments):
    """Return the line with which a function refuses, None if it does not; other errors are raised."""
    try:
        function(*arguments)
    except BaseException as error:
        explained = explain(error)
        if explained is None or explained[0] != 2:
            raise
        assert "\n" not in explained[1] and len(explained[1]) < 2000
        return explained[1]
    return None


def predict_with(path, content, picture):
    path.write_bytes(sealed(content))
    return outcome(predict.main, [str(path), str(picture)])


def start_from(path, content):
    path.write_bytes(sealed(content))
    model = ex_1.build_model(ex_1.parse_options([]), 10)
    said = outcome(load_weights, model, str(path), CLASSES)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    return said


def test_the_honest_one_is_used(tmp_path, honest, picture, capsys):
    assert predict_with(tmp_path / "a.pth", packed(honest), picture) is None
    assert start_from(tmp_path / "a.pth", packed(honest)) is None
    assert "\nwarning" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", NAMED)
def test_a_sealed_checkpoint_is_not_believed(tmp_path, honest, picture, kind, capsys):
    content = NAMED[kind](honest)
    line = predict_with(tmp_path / "a.pth", content, picture)
    assert line and line.isprintable(), kind
    start_from(tmp_path / "a.pth", content)
    assert "\x1b" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("changes", [{"num_filters": 2**16}, {"num_filters": 2**31 - 1}, {"image_size": 10**6}])
def test_the_network_is_compared_before_it_is_made(tmp_path, picture, changes):
    honest = load_checkpoint(ROOT / "tests" / "old_runs" / "finished" / "best.pth")
    assert predict_with(tmp_path / "a.pth", packed(with_options(honest, **changes)), picture)


def test_names_that_steer_a_terminal_are_shown_as_escapes(tmp_path, honest, picture, capsys):
    content = with_config(honest, name=ESCAPES, classes=[ESCAPES, *CLASSES[1:]], git_commit=ESCAPES)
    assert predict_with(tmp_path / "a.pth", packed(content), picture) is None
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\r" not in said and r"\x1b]0;owned" in said


JUNK = [
    None, True, -1, 0, 1, 60_000, 2**31, 10**30, 0.5, math.inf, math.nan, "", "abc", "False", "3", ESCAPES, "\0",
    "\ud800", "x" * 5000, "../ex_1", [], ["a"], ["a", "a"], ["a", 3], [[1, 2]], [[[1]]], {}, {"a": 1},
]  # fmt: skip


def changed_somewhere(content, chance):
    """Return `content` with one thing changed."""
    junk, config = copy.deepcopy(chance.choice([*JUNK, torch.zeros(2)])), content["config"]
    options, key = config["options"], chance.choice(list(config))
    return chance.choice([
        lambda: content | {chance.choice(list(content)): junk},
        lambda: with_config(content, **{key: junk}),
        lambda: with_options(content, **{chance.choice(list(options)): junk}),
        lambda: with_weights(content, chance.choice(STRANGE_TENSORS), chance.randrange(len(content["model"]))),
        lambda: content | {"config": {name: value for name, value in config.items() if name != key}},
    ])()  # fmt: skip


def hostile(content, chance):
    """Return the bytes of a checkpoint that differs from `content` in one, two or three things, and some flipped."""
    data = packed([])
    for _ in range(chance.randint(1, 3)):
        try:
            content = changed_somewhere(content, chance)
            data = packed(content)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, UnicodeEncodeError):
            break  # what cannot be changed like this, or not be written
    data = bytearray(data)
    if chance.random() < 0.2:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


@pytest.mark.slow
def test_200_hostile_checkpoints(tmp_path, honest, picture, capsys):
    for number in range(200):
        content = hostile(honest, random.Random(number))
        for said in (predict_with(tmp_path / "a.pth", content, picture), start_from(tmp_path / "a.pth", content)):
            assert said is None or said.isprintable(), number
        assert "\x1b" not in "".join(capsys.readouterr()), number


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what getrusage tells is that of the parent too")
@pytest.mark.parametrize("kind", ["stored_size", "byte array", "compressed", "weights are larger than the file"])
def test_a_small_file_takes_little_memory(tmp_path, honest, picture, kind):
    (tmp_path / "a.pth").write_bytes(sealed(NAMED[kind](honest)))
    code = (
        "import re, sys, predict\nfrom common.system.errors import BadInput\n"
        "try:\n    predict.main(sys.argv[1:])\nexcept BadInput:\n"
        "    print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1000)"
    )
    done = command("-c", code, tmp_path / "a.pth", picture, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 1000  # MB; torch alone takes 300


# Resuming


def resume_with(run, folder, name, content):
    """Resume a copy of `run` that has still to be tested, with another content of one of its checkpoints."""
    shutil.copytree(run, folder)
    (folder / "test.json").unlink()
    (folder / name).write_bytes(sealed(content))
    return outcome(without_pictures, ["--resume", str(folder)])


def changed_state(state, chance):
    """Return the bytes of a training state with one thing changed, in one of its parts or instead of one."""
    state, junk = copy.deepcopy(state), copy.deepcopy(chance.choice([*JUNK, torch.zeros(2)]))
    part = chance.choice([state, state["optimizer"], state["schedule"], state["history"][0], state["model"]])
    part[chance.choice(list(part))] = junk
    try:
        return packed(state)
    except (TypeError, RuntimeError, UnicodeEncodeError):  # what cannot be written
        return packed([])


@pytest.mark.parametrize(
    "numbers",
    [pytest.param(range(12), marks=pytest.mark.slow), pytest.param(range(12, 25), marks=pytest.mark.long)],
)
def test_50_hostile_checkpoints_in_a_run_that_is_resumed(run, honest, tmp_path, capsys, numbers):
    state = load_checkpoint(run / "last.pth")
    for number in numbers:
        for name, content in (
            ("best.pth", hostile(honest, random.Random(number))),
            ("last.pth", changed_state(state, random.Random(number))),
        ):
            resume_with(run, tmp_path / f"{number}-{name}", name, content)
        assert "\x1b" not in "".join(capsys.readouterr()), number


# config.json


def resume_up_to_the_data(folder):
    options = ex_1.parse_options(["--resume", str(folder)])
    check_config(json.loads((folder / "config.json").read_text()), "config.json")
    ex_1.build_transforms(options)
    return options


def refused_config(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return outcome(resume_up_to_the_data, folder)


@pytest.fixture
def stored(run, tmp_path):
    shutil.copy(run / "config.json", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["config_sha256"]  # as in runs of earlier versions: else every edit is noticed before anything is read
    return config


def test_an_honest_config_is_used(tmp_path, stored):
    assert refused_config(tmp_path, stored) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", None), ("options", []), ("classes", "ab"), ("classes", ["a"]), ("classes", ["a", "a"]),
        ("classes", ["a", 3]), ("dataset", ["digits"]), ("dataset", "digits,cifar10"), ("dataset", 3),
        ("dataset", "minst"), ("split_sha256", None), ("earlier_test_evaluations", "many"),
        ("earlier_test_evaluations", 10**30), ("stored_size", 60000), ("stored_size", True), ("script", ["ex_1"]),
    ],
)  # fmt: skip
def test_an_entry_of_config_json_that_cannot_be_is_named(tmp_path, stored, name, value):
    line = refused_config(tmp_path, stored | {name: value})
    assert str(tmp_path) in line and name in line


def of_any_entry(config):
    """Return a strategy of (path, value): an entry, or an option, and what is put there."""
    places = [(name,) for name in config] + [("options", name) for name in config["options"]]
    deep = st.just(functools.reduce(lambda inner, _: [inner], range(300), 3))
    return st.tuples(st.sampled_from(places), st.sampled_from(JUNK) | deep)


@pytest.mark.parametrize("depth", [500, 5000, 100_000])
def test_a_config_that_is_nested_deeply(tmp_path, stored, depth):
    nested = '{"a": ' * depth + "1" + "}" * depth
    text = json.dumps(stored | {"name": "?"}).replace('"?"', nested)
    (tmp_path / "config.json").write_text(text)
    assert outcome(resume_up_to_the_data, tmp_path)


@pytest.mark.slow
def test_500_edits_of_config_json(tmp_path, stored):
    used = []

    @settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(of_any_entry(stored), min_size=1, max_size=2))
    def edit(changes):
        config = copy.deepcopy(stored)
        for (*outer, name), value in changes:
            target = config[outer[0]] if outer else config
            if isinstance(target, dict):
                target[name] = value
        used.append(refused_config(tmp_path, config) is None)

    edit()
    assert used.count(False) > 100


@pytest.mark.parametrize(
    "values", [pytest.param((None, "missing"), marks=pytest.mark.slow), pytest.param(({}, "x"), marks=pytest.mark.long)]
)
def test_every_entry_of_config_json_of_another_kind_or_missing(run, tmp_path, values):
    config = json.loads((run / "config.json").read_text())
    del config["config_sha256"]
    found = []
    for name in config:
        for value in values:
            folder = shutil.copytree(run, tmp_path / f"{name} {value}")
            (folder / "test.json").unlink()  # so that there is something left to do
            others = {other: entry for other, entry in config.items() if other != name}
            (folder / "config.json").write_text(json.dumps(others if value == "missing" else others | {name: value}))
            found.append(outcome(without_pictures, ["--resume", str(folder)]))
            shutil.rmtree(folder)
    assert found.count(None) > 12  # what a run does not read again may be anything, and older versions wrote less
    assert len(found) - found.count(None) > 12


# Folders where files should be


@pytest.mark.parametrize("name", ["last.pth", "best.pth", "train.json", "config.json", "log.txt"])
def test_a_folder_where_a_file_should_be_is_one_line(run, tmp_path, name):
    folder = shutil.copytree(run, tmp_path / "run")
    for written in (name, "test.json"):
        (folder / written).unlink(missing_ok=True)
    (folder / name).mkdir()
    said = outcome(without_pictures, ["--resume", str(folder)])
    assert said and str(folder) in said
