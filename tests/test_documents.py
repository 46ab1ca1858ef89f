"""What README, pages, docstrings and files of options show can be typed as it stands."""

import ast
import importlib
import re
import shlex
import tomllib

import pytest
import yaml
from helpers import ROOT

from tools.searching.trials import arguments
from tools.searching.varying import vary

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))  # in one order, as the processes of pytest-xdist need it
PAGES = [ROOT / "README.md", ROOT / "outputs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTION_FILES = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted((ROOT / "sweeps").glob("*.yaml"))]
COMMAND = re.compile(r"(?<![\w/])(?:python3?|\.venv/bin/python|(?:\.venv/bin/)?torchrun\b[^`]*?) (\w+\.py)\b([^`]*)")


def shown_commands():
    """Yield (where, script, the words behind it) of every command line that is shown anywhere."""
    texts = {path: path.read_text(encoding="utf-8") for path in [*PAGES, *OPTION_FILES]}
    texts |= {ROOT / name: ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) for name in SCRIPTS}
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            for script, rest in COMMAND.findall(line):
                if script != "SCRIPT.py":
                    yield f"{path.relative_to(ROOT)}:{number} {script}", script, words_of(line, rest)


def words_of(line, rest):
    """Return the words behind the script, without the remark that follows them; a loop has its first value."""
    if loop := re.search(r"for (\w+) in (\S+)", line):
        rest = rest.replace(f"${loop[1]}", loop[2])
    words, *_ = re.split(r"\s{2,}|\s#|;|\.$", rest)
    return shlex.split(words)


COMMANDS = list(shown_commands())


def test_what_is_installed_are_all_scripts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(f"{name}.py" for name in project["tool"]["setuptools"]["py-modules"]) == SCRIPTS


def test_commands_were_found():
    assert len(COMMANDS) >= 30
    assert {script for _, script, _ in COMMANDS} == set(SCRIPTS)


@pytest.mark.parametrize(("script", "words"), [pytest.param(*rest, id=where) for where, *rest in COMMANDS])
def test_a_shown_command_has_options_that_exist(script, words, tmp_path, monkeypatch):
    """Without what it resumes; files of options that are not in the repository are empty ones."""
    monkeypatch.chdir(tmp_path)
    if "--resume" in words:
        place = words.index("--resume")
        words = words[:place] + words[place + 2 :]
    for place, word in enumerate(words):
        if (ROOT / word).is_file():
            words[place] = str(ROOT / word)
        elif words[place - 1 : place] == ["--config"]:
            (tmp_path / word).touch()
    if words == ["--help"]:
        with pytest.raises(SystemExit) as ended:
            options_of(script, words)
        assert ended.value.code == 0
    else:
        options_of(script, words)


def options_of(script, words):
    """Let a script parse these words, and of a search the experiment's words behind `--` too."""
    parsed = importlib.import_module(script.removesuffix(".py")).parse_options(words)
    if script == "sweep.py":
        options, fixed = parsed
        program = options.file if options.vary else options.program
        program = program or yaml.safe_load((ROOT / options.file).read_text(encoding="utf-8"))["program"]
        program = program.removeprefix(f"{ROOT}/")
        options_of(program, fixed)
        if options.vary:
            script_of = importlib.import_module(program.removesuffix(".py"))
            vary(program, options.vary, lambda v: vars(script_of.parse_options(arguments(v, "${args}"))), options.grid)


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=str)
def test_shown_code_imports_what_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        lines = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(lines, type_ignores=[]), str(page), "exec"), {})
