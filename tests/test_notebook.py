"""The notebook runs from beginning to end, wherever it is opened, and is stored without outputs."""

import shutil

import pytest
from helpers import ROOT

NOTEBOOK = ROOT / "docs" / "start.ipynb"


@pytest.fixture
def notebook():
    """What the notebook holds."""
    import nbformat  # only here: it warns of what other packages call deprecated

    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def tree(tmp_path):
    """A copy of the scripts in a folder with a space in its name, so that the run leaves nothing in the project."""
    tree = tmp_path / "a project"
    for folder in ("common", "docs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tree)
    return tree


def test_the_notebook_is_stored_without_outputs(notebook):
    import nbformat

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 4
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.slow
@pytest.mark.parametrize("opened_in", [".", "docs"])
def test_the_notebook_runs(notebook, tree, opened_in, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tree / opened_in)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert "test accuracy 0." in said and "% interval" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert list(tree.glob("outputs/ex_1/digits/*/report.html"))  # beside the scripts, not in docs/
