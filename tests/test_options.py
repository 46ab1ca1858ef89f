import json
import math
import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import ex_1
import ex_2
from common.options.parser import single_runs
from common.options.shared import experiment_parser
from common.runs import code
from common.system.errors import BadInput

BOTH = pytest.mark.parametrize("parse", [ex_1.parse_options, ex_2.parse_options], ids=["ex_1", "ex_2"])


def parse(*argv):
    return ex_1.parse_options([str(word) for word in argv])


def refusal(*argv):
    with pytest.raises(BadInput) as error:
        parse(*argv)
    line = str(error.value)
    assert "\n" not in line
    return line


def config_file(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["-bn", "True"], True),
        (["-bn", "False"], False),
        (["-bn"], True),
        (["-bn", "-e", "3"], True),
        (["--batch_norm=false"], False),
        (["--batch-norm=false"], False),
        (["--batch-norm", "0"], False),
        (["-bn=no"], False),
        (["-bn", "off"], False),
        (["-bn", "N"], False),
        (["--batch_norm", "YES"], True),
        (["-bn", "on"], True),
        (["-bn", "1"], True),
        (["-bn", "False", "-bn"], True),
        ([], True),
    ],
)
def test_a_switch_reads_as_people_write_it(words, value):
    assert parse(*words).batch_norm is value
    assert parse(*words, "--deterministic").deterministic is True


@pytest.mark.parametrize("value", ["2", "maybe", "", "None"])
def test_a_switch_refuses_what_is_neither_true_nor_false(value):
    line = refusal(f"--batch_norm={value}")
    assert line.startswith("-bn/--batch_norm: ") and "neither true nor false" in line


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-e", "3"], "epochs", 3),
        (["--epochs=3"], "epochs", 3),
        (["-b", "16"], "batch_size", 16),
        (["--batch-size", "16"], "batch_size", 16),
        (["--batch-size=16"], "batch_size", 16),
        (["--batch_size", "16"], "batch_size", 16),
        (["-b", "16", "--batch-size", "8"], "batch_size", 8),
        (["-lr", "1e-4"], "lr", 1e-4),
        (["--lr=0.1"], "lr", 0.1),
        (["-lr=.5"], "lr", 0.5),
        (["-wd", "5e-4"], "weight_decay", 5e-4),
        (["-d", "0.5"], "dropout", 0.5),
        (["-s", "7"], "seed", 7),
        (["-s", "0, 2,1"], "seed", [0, 2, 1]),
        (["--optimizer", "SGD"], "optimizer", "sgd"),
        (["--milestones", "30,40"], "milestones", [30, 40]),
        (["--milestones", "5"], "milestones", [5]),
        (["--dataset", "digits"], "dataset", ["digits"]),
        (["--dataset", "CIFAR10, cifar100"], "dataset", ["cifar10", "cifar100"]),
        (["--output-dir", "my-results"], "output_dir", "my-results"),
        (["--weights", "a-b.pth"], "weights", str(Path("a-b.pth").absolute())),
    ],
)
def test_options_read_as_typed_and_change_nothing_else(words, name, value):
    assert vars(parse(*words)) == vars(parse()) | {name: value}


@BOTH
def test_every_common_option_is_there_with_the_experiments_own_defaults(parse):
    options = parse([])
    common = experiment_parser("ex_0.py", "", epochs=1).parse([])
    assert set(vars(common)) < set(vars(options))
    assert (options.epochs, options.dataset, options.lr) == (50, ["cifar10", "cifar100"], 1e-3)
    assert (options.output_dir, options.seed, options.device, options.precision) == ("outputs", 0, "auto", "auto")
    assert "config" not in vars(options) and "override" not in vars(options)


def test_without_argv_the_process_s_own_is_read(monkeypatch):
    monkeypatch.setattr("sys.argv", ["ex_1.py", "-e", "4"])
    assert ex_1.parse_options().epochs == 4


def test_precedence_is_default_config_override_typed(tmp_path):
    recipe = config_file(tmp_path, "epochs: 2\nlr: 0.2\nbatch_size: 2\n")
    words = ["--config", recipe, "--override", "lr=0.3", "batch_size=3", "-b", "4"]
    options = parse(*words)
    assert (options.seed, options.epochs, options.lr, options.batch_size) == (0, 2, 0.3, 4)
    # Wherever they stand on the line.
    assert parse("-b", "4", *words[:5]) == options
    assert parse(*words[2:], *words[:2]) == options


def test_of_several_configs_the_later_ones_win(tmp_path):
    one, other = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("epochs: 1\nlr: 0.1\n")
    other.write_text("epochs: 2\n")
    options = parse("--config", one, "--config", other)
    assert (options.epochs, options.lr) == (2, 0.1)


def test_override_may_be_repeated():
    options = parse("--override", "lr=0.3", "--override", "epochs=3", "batch-size=3")
    assert (options.lr, options.epochs, options.batch_size) == (0.3, 3, 3)


@pytest.mark.parametrize("words", [["--override=lr=0.3"], ["--override", "lr=0.3"], ["--override", "lr=3", "lr=0.3"]])
def test_override_sets_options_by_long_name(words):
    assert vars(parse(*words)) == vars(parse()) | {"lr": 0.3}


def test_values_may_hold_equals_signs():
    assert parse("--override", "data=a=b").data == parse("--data=a=b").data == str(Path("a=b").absolute())


@pytest.mark.parametrize("name", ["data", "weights", "output_dir"])
def test_paths_may_begin_at_home(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert getattr(parse(f"--{name}=~/x"), name) == str(tmp_path / "x")


@pytest.mark.parametrize("name", ["data", "weights", "output_dir", "config", "resume"])
@pytest.mark.parametrize("path", ["", " ", "~nobody-of-this-name/x", "x" * 5000])
def test_a_path_that_cannot_exist_is_refused(name, path):
    line = refusal(f"--{name}", path)
    assert line.startswith(f"--{name}") and len(line) < 1000


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("lr: 1e-3", "lr", 1e-3),  # YAML 1.1 reads this as a string
        ("lr: 0.5", "lr", 0.5),
        ("lr: '0.5'", "lr", 0.5),
        ("lr: 1", "lr", 1.0),
        ("batch_norm: false", "batch_norm", False),
        ("batch_norm: off", "batch_norm", False),
        ("batch_norm: 'no'", "batch_norm", False),
        ("batch-size: 8", "batch_size", 8),
        ("milestones: [30, 40]", "milestones", [30, 40]),
        ("milestones: 30,40", "milestones", [30, 40]),
        ("milestones: []", "milestones", []),
        ("dataset: [cifar10, digits]", "dataset", ["cifar10", "digits"]),
        ("dataset: digits", "dataset", ["digits"]),
        ("clip_grad: null", "clip_grad", None),
        ("weights: -odd name.pth", "weights", str(Path("-odd name.pth").absolute())),
        ("output_dir: 'größe: 3'", "output_dir", "größe: 3"),
        ("output_dir: 2024-13-45", "output_dir", "2024-13-45"),  # looks like a date, and is none
        ("output_dir: 010", "output_dir", "010"),
        ("output_dir: 1e3", "output_dir", "1e3"),
        ("output_dir: off", "output_dir", "off"),
        ("output_dir: 'null'", "output_dir", "null"),
        ("seed: 010", "seed", 10),  # 8 to YAML 1.1
        ("seed: [0, 1]", "seed", [0, 1]),
        ("batch_schedule: 2:32", "batch_schedule", [[2, 32]]),  # 152 to YAML 1.1
        ("batch_schedule: [[2, 32], [3, 64]]", "batch_schedule", [[2, 32], [3, 64]]),  # as sweeps write it
        ("", "epochs", 50),
        ("# nothing but a comment\n", "epochs", 50),
    ],
)
def test_config_sets_options_by_long_name(tmp_path, text, name, value):
    assert vars(parse("--config", config_file(tmp_path, text))) == vars(parse()) | {name: value}


@pytest.mark.parametrize(
    ("text", "culprits"),
    [
        ("epoch: 3", ["'epoch'", "did you mean epochs?"]),
        ("learning_rate: 3", ["'learning_rate'"]),
        ("e: 3", ["'e'"]),  # short names are for typing
        ("3: 3", ["'3'"]),
        ("epochs: three", ["epochs", "'three' is not an integer"]),
        ("epochs: 1.5", ["epochs", "'1.5' is not an integer"]),
        ("epochs: [1, 2]", ["epochs", "'1,2' is not an integer"]),
        ("lr: {a: 1}", ["lr", "not a number"]),
        ("batch_norm: 3", ["batch_norm", "neither true nor false"]),
        ("optimizer: adm", ["optimizer", "did you mean adam"]),
        ("just words", ["must hold lines such as"]),
        ("- epochs: 3", ["must hold lines such as"]),
        ("epochs: [3", ["is not YAML"]),
        ("lr: 0.1\nepochs: 3\nlr: 0.2", ["line 3", "the key 'lr' is there twice"]),
        ("epochs: &a 3\nbatch_size: *a", ["line 1", "aliases"]),
        ("a: &a [*a]", ["aliases"]),
        ("? [1]\n: 3", ["line 1", "a key is no text"]),
        ("epochs: !!int 3", ["line 1", "yaml.org,2002:int"]),
        ("epochs: !!python/object/apply:os.system ['true']", ["line 1", "os.system"]),
        ("epochs: 1:30", ["'1:30' is not an integer"]),  # 90 to YAML 1.1
        ("batch_schedule: 2:32:1", ["'2:32:1' must be pairs"]),
        ("lr: {a: [1]}", ["lr", "not a number"]),
        ("milestones: [[[1]]]", ["milestones", "not a number"]),
        ("epochs: 1\n---\nepochs: 2", ["is not YAML"]),
        ("x: " + "[" * 1000, ["is nested too deeply"]),
        ("x: " + "{a: " * 1000, ["is nested too deeply"]),
        ("- " * 1000 + "x", ["is nested too deeply"]),
        ("question: " + "x" * 100_000, ["is larger than 100,000 bytes"]),
    ],
)
def test_mistakes_in_a_config_are_named(tmp_path, text, culprits):
    line = refusal("--config", config_file(tmp_path, text))
    assert [culprit for culprit in culprits if culprit not in line] == []


@pytest.mark.parametrize("name", ["config", "override", "help", "resume"])
def test_what_only_the_command_line_can_say_is_no_key(tmp_path, name):
    for line in (refusal("--config", config_file(tmp_path, f"{name}: x")), refusal("--override", f"{name}=x")):
        assert f"'{name}' can only be typed" in line


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin1.yaml").write_bytes(b"output_dir: \xff\n")
    for path in (tmp_path, tmp_path / "absent.yaml", tmp_path / "latin1.yaml"):
        assert f"--config {path}" in refusal("--config", path)


def test_whatever_lies_beside_the_scripts_is_no_error(tmp_path, monkeypatch):
    """An editor's link to nothing, and a file of somebody else, in letters of long ago."""
    (tmp_path / ".#ex_1.py").symlink_to("nobody@nowhere.1")
    (tmp_path / "own.py").write_bytes(b"# \xff")
    (tmp_path / "ex_9.py").write_text('add("--width", ...); run_experiment()')
    monkeypatch.setattr(code, "ROOT", tmp_path)
    assert "no option --width; it is one of ex_9.py" in refusal("--width", "3")
    assert list(code.project_code()) == ["ex_9.py", "own.py"]


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (["--epoch", "3"], ["--epoch", "did you mean --epochs?"]),
        (["--batchsize=3"], ["--batchsize", "did you mean --batch_size?"]),
        (["--drop-out", "0.5"], ["did you mean --dropout?"]),
        (["--width", "3"], ["no option --width; it is one of ex_2.py"]),
        (["--augment", "True"], ["no option --augment; it is one of ex_2.py, ex_3.py, trainA.py, trainB.py ("]),
        (["--augmint", "True"], ["no option --augmint ("]),  # momentum is another word
        (["-x"], ["no option -x"]),
        (["3"], ["'3' belongs to no option"]),
        (["-e", "3", "4"], ["'4' belongs to no option"]),
        (["-e"], ["--epochs", "expected one argument"]),
        (["-e", "three"], ["--epochs", "'three' is not an integer"]),
        (["-e", "2.5"], ["--epochs", "'2.5' is not an integer"]),
        (["-ep", "5"], ["--epochs", "-ep is read as -e p"]),
        (["-lr", "0,001"], ["--lr", "'0,001' is not a number; use a point: 0.001"]),
        (["-e", "-1"], ["--epochs", "-1 must be from 0 to 2147483647"]),
        (["-b", "0"], ["--batch_size", "0 must be from 1 to 2147483647"]),
        (["-lr", "0"], ["--lr", "above 0"]),
        (["--lr=-1e-3"], ["--lr", "above 0"]),
        (["-lr", "fast"], ["--lr", "'fast' is not a number"]),
        (["-lr", "nan"], ["--lr", "nan must be"]),
        (["-lr", "inf"], ["--lr", "inf must be"]),
        (["-lr", "1e30"], ["--lr", "below 1e+30"]),
        (["-e", "2147483648"], ["--epochs", "from 0 to 2147483647"]),
        (["-wd", "-1"], ["--weight_decay", "at least 0"]),
        (["-d", "1"], ["--dropout", "below 1"]),
        (["-d", "-0.1"], ["--dropout", "at least 0"]),
        (["--momentum", "1"], ["--momentum", "below 1"]),
        (["--label_smoothing", "1"], ["--label_smoothing", "below 1"]),
        (["--gamma", "1"], ["--gamma", "below 1"]),
        (["--mixup", "1e-38"], ["--mixup", "at least 0.01"]),  # PyTorch's Beta fails, or draws nothing but 1/2
        (["--cutmix", "0.0099"], ["--cutmix", "at least 0.01"]),
        (["--mixup", "-1"], ["--mixup", "at least 0"]),
        (["--clip_grad", "0"], ["--clip_grad", "above 0"]),
        (["-s", "-1"], ["--seed", "from 0 to 2147483647"]),
        (["-s", "2147483648"], ["--seed", "from 0 to 2147483647"]),
        (["-s", "0,1,x"], ["--seed", "'x' is not an integer"]),
        (["-s", "0,1,"], ["--seed", "'' is not an integer"]),
        (["-s", "1,0,1"], ["--seed", "1,0,1 has one seed twice"]),
        (["-s", "0,1", "--explore"], ["several --seed or --folds", "nothing is trained"]),
        (["-s", "0,1", "--resume", "auto", "--dataset", "digits"], ["--resume auto", "give one --seed"]),
        (["--folds", "1"], ["--folds", "1 must be from 2 to"]),
        (["--folds", "0/3"], ["--folds", "0 must be from 1 to 3"]),
        (["--folds", "4/3"], ["--folds", "4 must be from 1 to 3"]),
        (["--folds", "/3"], ["--folds", "'' is not an integer"]),
        (["--folds", "3", "-s", "0,1"], ["--folds takes one --seed"]),
        (["--folds", "3", "--test"], ["--folds chooses before the test"]),
        (["--folds", "3", "--explore"], ["several --seed or --folds", "nothing is trained"]),
        (["--folds", "3", "--resume", "auto", "--dataset", "digits"], ["--resume auto", "such as 1/5"]),
        (["--limit", "0"], ["--limit", "from 1 to"]),
        (["--workers", "0"], ["--workers", "from 1 to"]),
        (["--accumulate", "0"], ["--accumulate", "from 1 to"]),
        (["--patience", "0"], ["--patience", "from 1 to"]),
        (["--save_every", "0"], ["--save_every", "from 1 to"]),
        (["--step_size", "0"], ["--step_size", "from 1 to"]),
        (["--milestones", "40,30"], ["--milestones", "must increase"]),
        (["--milestones", "30,30"], ["--milestones", "must increase"]),
        (["--milestones", "0,3"], ["--milestones", "from 1 to"]),
        (["--milestones", "a"], ["--milestones", "'a' is not an integer"]),
        (["--optimizer", "adm"], ["--optimizer", "sgd, adam, adamw, rmsprop, muon", "did you mean adam?"]),
        (["--schedule", "cosin"], ["--schedule", "did you mean cosine?"]),
        (["--dataset", "cifer10"], ["--dataset", "did you mean cifar10?"]),
        (["--dataset", "digits,cifer10"], ["--dataset", "did you mean cifar10?"]),
        (["--dataset", ""], ["--dataset", "none of digits, cifar10, cifar100"]),
        (["--device", "gpu"], ["--device", "auto, cpu, cuda, mps"]),
        (["--precision", "fp8"], ["--precision", "auto, fp32, bf16, fp16"]),
        (["--override", "epoch=3"], ["--override", "'epoch'", "did you mean epochs?"]),
        (["--override", "epochs"], ["--override epochs", "must be key=value"]),
        (["--override", "epochs=x"], ["epochs", "'x' is not an integer"]),
        (["--override"], ["--override", "expected at least one argument"]),
        (["--config"], ["--config", "expected one argument"]),
    ],
)
def test_mistakes_on_the_command_line_are_named(words, culprits):
    line = refusal(*words)
    assert [culprit for culprit in culprits if culprit not in line] == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-e", "0"], "epochs"),
        (["-b", "1"], "batch_size"),
        (["-wd", "0"], "weight_decay"),
        (["-d", "0"], "dropout"),
        (["--momentum", "0"], "momentum"),
        (["-s", "0"], "seed"),
        (["-s", "2147483647"], "seed"),
        (["--plateau_patience", "0"], "plateau_patience"),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(words, name):
    assert getattr(parse(*words), name) == int(words[1])


def test_folds_leave_the_test_images_alone(capsys):
    for words in (["--folds", "3"], ["--folds", "2/3"], ["--folds", "2/3", "--test", "no"]):
        options = parse(*words)
        assert options.folds == words[1] and options.test is False
        assert "--folds leaves the test images alone" in capsys.readouterr().out
    assert [one["folds"] for one in single_runs(vars(parse("--folds", "3")))] == ["1/3", "2/3", "3/3"]
    assert [one["seed"] for one in single_runs(vars(parse("-s", "4,2")))] == [4, 2]


def test_a_folder_without_a_dataset_implies_class_folders(tmp_path):
    assert parse("--data", tmp_path).dataset == ["folder"]
    assert parse("--override", f"data={tmp_path}").dataset == ["folder"]
    assert parse("--config", config_file(tmp_path, f"data: {tmp_path}")).dataset == ["folder"]
    assert parse("--data", tmp_path / "to come").dataset == ["folder"]


def test_a_dataset_that_is_said_is_not_guessed(tmp_path):
    assert parse("--data", tmp_path, "--dataset", "cifar10").dataset == ["cifar10"]
    assert parse("--data", tmp_path, "--config", config_file(tmp_path, "dataset: cifar100")).dataset == ["cifar100"]


def test_a_file_of_unknown_content_is_asked_about(tmp_path):
    path = config_file(tmp_path, "x")
    line = refusal("--data", path)
    assert str(path) in line and "--dataset" in line and "give the folder of the class folders" in line


@BOTH
def test_help_exits_with_0_and_shows_every_option_and_every_default(parse, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    # "  -e N, --epochs N   text … (default: 50)" up to the next option or group
    entries = dict(re.findall(r"^  (?:-\w+[^\n]*?, )?--(\w+)(.*?)(?=^  -|^\w|\Z)", text, re.MULTILINE | re.DOTALL))
    options = vars(parse([]))
    assert set(entries) == set(options) | {"help", "config", "override"}
    for name, default in options.items():
        shown = ",".join(map(str, default)) if isinstance(default, list) else str(default)
        entry = " ".join(entries[name].split())
        if default not in (None, []):
            assert entry.endswith(f"(default: {shown})"), name
        assert len(entry) > 15, name


OPTIONS = [
    "-e", "--epochs", "-b", "--batch-size", "-lr", "--lr=0.1", "-bn", "--batch_norm", "-d", "--dataset", "--data",
    "--config", "--override", "--resume", "--help", "-h", "--milestones", "--schedule", "--deterministic", "--", "-",
    "--epoch", "-z", "--override=lr=1",
]  # fmt: skip
VALUES = ["3", "0.5", "-1", "1e-3", "true", "False", "digits", "lr=3", "epochs=x", "a=b=c", "", ".", "nan", "3,4"]
WORDS = st.sampled_from(OPTIONS) | st.sampled_from(VALUES) | st.text(max_size=6).filter(lambda word: "\0" not in word)


@given(st.lists(WORDS, max_size=6))
@settings(deadline=None, max_examples=80)
def test_whatever_is_typed_is_understood_or_refused(argv):
    try:
        ex_1.parse_options(argv)
    except BadInput as error:
        assert str(error)
    except SystemExit as error:
        assert error.code == 0 and {"-h", "--help"} & {word[:2] if word[1:2] != "-" else word for word in argv}


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
YAML_KEYS = st.sampled_from([*vars(ex_1.parse_options([])), "batch-size", "config", "resume", 3, None]) | st.text()


@pytest.mark.slow
@given(content=st.dictionaries(YAML_KEYS, YAML_VALUES, max_size=3))
@settings(deadline=None, max_examples=150)
def test_whatever_a_config_says_is_understood_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try:
        ex_1.parse_options(["--config", str(path)])
    except BadInput as error:
        assert str(error)


def run_folder(tmp_path, script="ex_1", dataset="digits", **changes):
    """A folder with the config.json of a run that began with these options."""
    options = vars(parse("--dataset", dataset)) | changes
    del options["resume"]
    config = {"script": script, "dataset": dataset, "options": options}
    config |= {"classes": ["a", "b"], "split_sha256": "0", "earlier_test_evaluations": 0}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_resume_brings_the_options_of_the_run_back(tmp_path):
    folder = run_folder(tmp_path, lr=0.25, batch_norm=False, milestones=[3, 4], seed=9)
    options = parse("--resume", folder)
    expected = {"lr": 0.25, "batch_norm": False, "milestones": [3, 4], "seed": 9, "dataset": ["digits"]}
    assert vars(options) == vars(parse()) | expected | {"resume": folder}


# Of every option another value than the run has. Those in FREE change nothing of what comes out.
ANOTHER = {
    "dataset": "cifar10", "limit": "5", "epochs": "3", "batch_size": "5", "optimizer": "sgd", "lr": "0.5",
    "weight_decay": "0.5", "momentum": "0.5", "schedule": "step", "warmup_epochs": "1", "step_size": "5",
    "milestones": "1,2", "gamma": "0.5", "plateau_patience": "5", "label_smoothing": "0.5", "clip_grad": "5",
    "class_weights": "auto", "balanced_sampling": "true", "compile": "true",
    "accumulate": "5", "patience": "5", "weights": "x.pth", "weights_key": "ema", "seed": "5",
    "output_dir": "elsewhere", "device": "cuda", "precision": "bf16", "deterministic": "true", "dropout": "0.5",
    "batch_norm": "false",
    "skip_unreadable": "true", "submission_labels": "indices", "mixup": "0.2", "cutmix": "0.2", "ema": "0.9",
    "batch_schedule": "2:99", "tta": "2", "sync_bn": "true", "watch": "5", "explore": "true",
    "split_seed": "5", "folds": "2/5", "null_test": "true", "figures": "svg",
}  # fmt: skip
FREE = {
    "data": "elsewhere", "workers": "5", "save_every": "5", "save_minutes": "5", "print_every": "5",
    "test": "false", "tensorboard": "true", "wandb": "true", "wandb_project": "another", "wandb_entity": "somebody",
}  # fmt: skip


def test_the_tables_of_options_are_complete():
    assert set(ANOTHER) | set(FREE) | {"resume"} == set(vars(parse()))


@pytest.mark.parametrize("name", ANOTHER)
def test_an_option_that_contradicts_the_resumed_run_is_refused(tmp_path, name):
    folder = run_folder(tmp_path)
    recipe = config_file(tmp_path, f"{name}: {ANOTHER[name]}")
    for words in ([f"--{name}", ANOTHER[name]], ["--override", f"{name}={ANOTHER[name]}"], ["--config", recipe]):
        line = refusal("--resume", folder, *words)
        assert line.startswith(f"--{name}: the run has ")


@pytest.mark.parametrize("name", FREE)
def test_an_option_that_changes_nothing_of_the_result_may_differ(tmp_path, name, monkeypatch):
    monkeypatch.setattr("common.options.parser.check_installed", lambda options: None)
    options = parse("--resume", run_folder(tmp_path), f"--{name}", FREE[name])
    expected = parse(f"--{name}", FREE[name])
    assert getattr(options, name) == getattr(expected, name) != getattr(parse(), name)
    assert options.dataset == ["digits"]


def test_an_option_may_be_repeated_as_the_run_has_it(tmp_path):
    folder = run_folder(tmp_path, lr=0.25, milestones=[3, 4])
    options = parse("--resume", folder, "-lr", "0.25", "--milestones", "3,4", "--dataset", "digits", "-e", "50")
    assert options == parse("--resume", folder)


@pytest.mark.parametrize("schedule", ["none", "step", "multistep", "plateau"])
def test_more_epochs_continue_an_open_ended_schedule(tmp_path, schedule):
    folder = run_folder(tmp_path, epochs=4, schedule=schedule, milestones=[3])
    assert parse("--resume", folder, "-e", "6").epochs == 6
    assert refusal("--resume", folder, "-e", "3").startswith("--epochs: the run has 4")


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_more_epochs_are_refused_where_the_schedule_is_planned_to_its_end(tmp_path, schedule):
    line = refusal("--resume", run_folder(tmp_path, epochs=4, schedule=schedule), "-e", "6")
    assert line.startswith("--epochs 6") and schedule in line


def test_runs_of_other_scripts_are_refused(tmp_path):
    line = refusal("--resume", run_folder(tmp_path, script="ex_2"))
    assert line.startswith("--resume") and "ex_2.py" in line


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"model_type": "bert"}'])
def test_folders_that_hold_no_run_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert str(tmp_path) in refusal("--resume", tmp_path)


def test_an_option_that_is_younger_than_the_run_has_its_default(tmp_path):
    folder = run_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["options"]["gamma"]
    (folder / "config.json").write_text(json.dumps(config))
    assert parse("--resume", folder).gamma == 0.1


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"batch_norm": "False", "test": "no"}, {"batch_norm": False, "test": False}),
        ({"epochs": "3", "lr": "0.25", "limit": "7"}, {"epochs": 3, "lr": 0.25, "limit": 7}),
        ({"milestones": "3,4", "optimizer": "SGD"}, {"milestones": [3, 4], "optimizer": "sgd"}),
        ({"batch_schedule": [[2, 32]], "data": None}, {"batch_schedule": [[2, 32]], "data": None}),
        ({"no_longer_an_option": 3, "nor this": None}, {}),
    ],
)
def test_stored_options_go_through_the_readers(tmp_path, changes, values):
    options = vars(parse("--resume", run_folder(tmp_path, **changes)))
    assert options == vars(parse()) | {"dataset": ["digits"]} | values | {"resume": tmp_path}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("epochs", "abc", "'abc' is not an integer"), ("epochs", 2.5, "'2.5' is not an integer"),
        ("epochs", True, "'True' is not an integer"), ("epochs", None, "there must be a value"),
        ("epochs", 1e400, "'inf' is not an integer"), ("lr", math.nan, "nan must be above 0"),
        ("lr", None, "there must be a value"), ("batch_size", 0, "0 must be from 1"),
        ("batch_size", 10**400, "must be from 1"), ("batch_norm", "perhaps", "neither true nor false"),
        ("batch_norm", 2, "neither true nor false"), ("optimizer", "foo", "'foo' is none of sgd"),
        ("optimizer", ["adam"] * 2, "'adam,adam' is none of"), ("tta", 99, "99 must be from 1 to"),
        ("dropout", 1.9, "1.9 must be"), ("milestones", [3, 2], "3,2 must increase"),
        ("milestones", [[[3]]], "is not a number, a text"), ("schedule", {"a": 1}, "is not a number, a text"),
        ("batch_schedule", [[2]], "'2' must be pairs"), ("mixup", -1, "-1 must be"), ("weights", "", "it is empty"),
        ("seed", "\x1b[31m", "is not an integer"), ("limit", [], "'' is not an integer"),
        ("seed", [0, 1], "--seed and --folds: one of a run"),
        ("folds", "3", "--seed and --folds: one of a run"), ("output_dir", "a\0b", "is no path"),
        ("data", "x" * 5000, "is no path"),
    ],
)  # fmt: skip
def test_a_stored_option_that_cannot_be_is_named_with_its_file(tmp_path, name, value, reason):
    line = refusal("--resume", run_folder(tmp_path, **{name: value}))
    assert line.startswith(f"{tmp_path / 'config.json'}: ") and f"--{name}" in line and reason in line
    assert len(line) < 700 and line.isprintable()


@pytest.mark.parametrize(
    ("option", "useless_with", "useful_with"),
    [
        ("--warmup_epochs=1", "--schedule=step", "--schedule=cosine"),
        ("--step_size=3", "--schedule=none", "--schedule=step"),
        ("--milestones=3", "--schedule=step", "--schedule=multistep"),
        ("--gamma=0.5", "--schedule=cosine", "--schedule=plateau"),
        ("--plateau_patience=3", "--schedule=onecycle", "--schedule=plateau"),
        ("--momentum=0.5", "--optimizer=adam", "--optimizer=rmsprop"),
    ],
)
def test_an_option_that_does_nothing_here_is_remarked_on(capsys, option, useless_with, useful_with):
    name = option.split("=")[0]
    parse(option, useful_with)
    assert "does nothing" not in capsys.readouterr().out
    parse(option, useless_with)
    assert f"{name} does nothing with {useless_with.replace('=', ' ')}" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "noted"), [([], True), (["--weights", "a.pth"], False)])
def test_a_key_without_a_file_of_weights_is_told_of(capsys, words, noted):
    parse("--weights_key", "model_ema", *words)
    assert ("--weights_key does nothing without --weights FILE" in capsys.readouterr().out) == noted


def test_a_folder_or_file_without_a_run_is_told_what_can_be_resumed(tmp_path):
    for number in range(4):
        folder = tmp_path / "ex_1" / "digits" / str(number)
        folder.mkdir(parents=True)
        run_folder(folder)
        (folder / "train.json").write_text('{"status": "interrupted", "epochs": []}')
        os.utime(folder / "config.json", (number, number))
    newest = [str(tmp_path / "ex_1" / "digits" / name) for name in "321"]
    for above in (tmp_path, tmp_path / "ex_1", tmp_path / "ex_1" / "digits"):
        line = refusal("--resume", above)
        assert f"unfinished below it: {', '.join(newest)} (--resume auto" in line
    assert "it does not exist" in refusal("--resume", tmp_path / "absent")
    (tmp_path / "best.pth").touch()
    assert f"it is a file; give its folder, {tmp_path}" in refusal("--resume", tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("words", "is_told"),
    [
        (["--schedule", "step", "-e", "20"], True),
        (["--schedule", "step", "--step_size", "5", "-e", "20"], False),
        (["--schedule", "multistep", "--milestones", "30,40", "-e", "30"], True),
        (["--schedule", "multistep", "--milestones", "30,40", "-e", "31"], False),
        (["-e", "20"], False),
    ],
)
def test_a_schedule_that_never_lowers_the_rate_is_told(capsys, words, is_told):
    parse(*words)
    assert ("the schedule does nothing: it lowers the rate after epoch 30" in capsys.readouterr().out) == is_told
