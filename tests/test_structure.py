"""How the project is built: who imports whom, what an experiment looks like, how many parameters a function takes."""

import ast
import functools
import json
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers import ROOT, command

from common.options.shared import experiment_parser

ORDER = [  # each room of common/ and then of tools/ imports from itself and from those before it
    "system", "transforms", "data", "models", "figures", "optim", "inside", "runs", "training", "exploring",
    "throughput", "options", "evaluation", "experiment", "predicting", "outputs", "prediction", "packing",
    "exporting", "searching", "comparing", "verifying",
]  # fmt: skip
TOOLS = set(ORDER[ORDER.index("predicting") :])  # no experiment needs them
SCRIPTS = sorted([*ROOT.glob("ex_*.py"), *ROOT.glob("train*.py")])
MODULES = sorted(path for package in ("common", "tools") for path in (ROOT / package).rglob("*.py"))
MOST_ARROWS, MOST_FLOORS = 130, 8  # within common/, and with tools/


def module_name(path):
    """common/data/load.py -> common.data.load; a package is its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module):
    """common.data.load -> data; common.figures -> figures; tools.packing -> packing; common itself is no room."""
    return module.split(".")[1] if module.startswith(("common.", "tools.")) else None


def imports_of(path):
    """Return the modules of the project that a file imports, inside functions too; of packages, what is taken."""
    known = {module_name(module) for module in [*MODULES, *ROOT.glob("*.py")]}
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import that begins with a dot"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & known or {node.module}
    return names & known


IMPORTS = {module_name(path): imports_of(path) for path in [*MODULES, *ROOT.glob("*.py")]}


def reached_from(module, seen=None):
    """Return a module with all that it imports, directly and through others."""
    seen = set() if seen is None else seen
    if module not in seen:
        seen.add(module)
        for imported in IMPORTS[module]:
            reached_from(imported, seen)
    return seen


def arrows():
    """Return the imports from one room into another: pairs (module, room)."""
    pairs = {(module, room(imported)) for module in IMPORTS if room(module) for imported in IMPORTS[module]}
    return {(module, target) for module, target in pairs if target and target != room(module)}


def test_every_room_has_its_place_in_the_order():
    assert {room(module) for module in IMPORTS} - {None} <= set(ORDER)


def test_nothing_in_common_imports_from_tools():
    assert [name for name in IMPORTS if name.startswith("tools.")]
    users = {name for name in IMPORTS if any(other.startswith("tools") for other in IMPORTS[name])}
    assert sorted(name for name in users if name.startswith("common")) == []


def test_imports_go_from_later_rooms_to_earlier_ones():
    assert len(arrows()) > 50
    upward = [f"{module} -> {target}" for module, target in arrows() if ORDER.index(room(module)) < ORDER.index(target)]
    assert sorted(upward) == []
    assert not [module for module in IMPORTS if room(module) and any(not room(name) for name in IMPORTS[module])]


@pytest.mark.parametrize("name", sorted({room(module) for module in IMPORTS} - {None}))
def test_no_circle_inside_a_room(name):
    inside = {module: {other for other in IMPORTS[module] if room(other) == name} for module in IMPORTS}
    try:
        list(TopologicalSorter({module: others for module, others in inside.items() if others}).static_order())
    except CycleError as circle:
        pytest.fail(f"these import each other: {circle.args[1]}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_experiment_imports_nothing_of_a_tool(script):
    reached = reached_from(script.stem)
    assert len(reached) > 10
    assert sorted(module for module in reached if room(module) in TOOLS) == []


def test_rooms_have_few_arrows_and_few_floors():
    floors = {}
    rooms = {target for _, target in arrows()} | {room(module) for module, _ in arrows()}
    below = {name: {target for module, target in arrows() if room(module) == name} for name in rooms}
    for name in TopologicalSorter(below).static_order():
        floors[name] = 1 + max((floors[other] for other in below[name]), default=0)
    count = sum(module.startswith("common.") for module, _ in arrows())
    found = f"{count} arrows (at most {MOST_ARROWS}), {max(floors.values())} floors (at most {MOST_FLOORS})"
    assert count <= MOST_ARROWS and max(floors.values()) <= MOST_FLOORS, f"{found}: {floors}"


HEAVY = {"matplotlib", "sklearn", "scipy", "h5py", "torchvision", "pandas", "optuna", "wandb", "tensorboard", "yaml"}


@pytest.mark.slow
def test_importing_a_script_imports_nothing_heavy():
    """All in one process, as torch alone takes seconds."""
    names = [script.stem for script in SCRIPTS]
    code = (
        "import importlib, json, sys\nfound = {}\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = sorted({HEAVY} & set(sys.modules))\n"
        "print(json.dumps(found))"
    )
    done = command("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == names
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


PARTS = ["docstring", "imports", "constants", "parse_options", "build_transforms", "build_model", "train_and_test",
         "main", "if __name__"]  # fmt: skip
LONGEST_SCRIPT = 160


def kind(node):
    """Return which of PARTS a statement of a script is; None: one of its helpers, which may stand anywhere."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return "docstring"
    if isinstance(node, ast.Import | ast.ImportFrom):
        return "imports"
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return "constants"
    if isinstance(node, ast.If):
        return "if __name__"
    return node.name if node.name in PARTS else None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_experiment_has_its_parts_in_one_order(script):
    text = script.read_text(encoding="utf-8")
    kinds = [kind(node) for node in ast.parse(text).body]
    seen = [name for place, name in enumerate(kinds) if name and name != next(filter(None, kinds[place + 1 :]), None)]
    assert seen == PARTS
    assert len(text.splitlines()) <= LONGEST_SCRIPT


SHARED_OPTIONS = """
    --accumulate --balanced_sampling --batch_schedule --batch_size --class_weights --clip_grad --compile --config
    --cutmix --data --dataset --deterministic --device --ema --epochs --explore --folds --gamma --help
    --label_smoothing --limit --lr --milestones --mixup --momentum --null_test --optimizer --output_dir --override
    --patience --plateau_patience --precision --print_every --resume --save_every --save_minutes --schedule --seed
    --skip_unreadable --split_seed --step_size --submission_labels --sync_bn --tensorboard --test --tta --wandb
    --wandb_entity --wandb_project --warmup_epochs --watch --weight_decay --weights --weights_key --workers
"""  # of every experiment


def test_the_way_from_entry_to_result_is_short():
    names = ("ex_1", "common/experiment", "common/runs/run", "common/training/fit", "common/training/loop")
    assert sum(len((ROOT / f"{name}.py").read_text().splitlines()) for name in names) <= 660


def test_the_shared_options_are_these():
    parser = experiment_parser("ex_1.py", "", dataset=["digits"], epochs=1, batch_size=1, lr=1e-3)
    names = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    assert names == set(SHARED_OPTIONS.split())


@functools.cache
def functions():
    """Return (path:line name, node) of every function and method."""
    found = []
    for path in [*MODULES, *sorted(ROOT.glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node))
    return found


def parameters(node):
    """Return the parameters of a function without self and cls."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    every += [star for star in (node.args.vararg, node.args.kwarg) if star]
    return [parameter for parameter in every if parameter.arg not in ("self", "cls")]


def test_no_function_has_many_parameters():
    counts = {where: len(parameters(node)) for where, node in functions()}
    assert len(counts) > 300
    assert {where: count for where, count in counts.items() if count > 8} == {}


@pytest.mark.parametrize(("name", "most"), [("fit", 7), ("train_one_epoch", 6)])
def test_the_loop_takes_few_parameters_and_says_what_they_are(name, most):
    [node] = [node for where, node in functions() if where.startswith("common/training/") and node.name == name]
    assert len(parameters(node)) <= most
    assert node.returns is not None and all(parameter.annotation for parameter in parameters(node))
