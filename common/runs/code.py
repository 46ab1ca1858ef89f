"""The code that made a run: what it is known by, and its copy in the run folder, to make the run again from."""

import hashlib
import io
import subprocess
import zipfile
from importlib.metadata import distributions
from pathlib import Path

from common.system.files import remove_partial_files, write_bytes

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "code"
PROJECT, CHANGES, PACKAGES = "project.zip", "changes.diff", "packages.txt"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # in the zip file, so that the same code makes the same one
GIT_SECONDS = 10


def project_code() -> dict[str, bytes]:
    """Return all Python files of the scripts and of common/, by their paths: no run needs tools/."""
    paths = sorted([*ROOT.glob("*.py"), *ROOT.glob("common/**/*.py")])
    # Editors leave links to nothing beside files that are being edited.
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def experiments() -> dict[str, str]:
    """Return the texts of all experiments, by the names of their files; there may be anything beside them."""
    files = [path for path in sorted(ROOT.glob("*.py")) if path.is_file()]
    texts = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in files}
    return {name: text for name, text in texts.items() if "run_experiment(" in text}


def code_sha256(code: dict[str, bytes]) -> str:
    """Return the SHA-256 of files and of their names, given in their order."""
    digest = hashlib.sha256()
    for name, content in code.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def git_commit() -> str | None:
    """Return the commit of the experiments, with "+changes" if files differ from it, or None outside a checkout."""
    found = _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    return found.decode(errors="replace").strip() or None


def write_code(folder: Path, script: Path) -> None:
    """Write what made the run to code/ in its folder: the script, all code as a zip file, changes since the commit,
    and the versions of all packages that are installed.
    """
    folder, code, packed = folder / FOLDER, project_code(), io.BytesIO()
    folder.mkdir(exist_ok=True)
    remove_partial_files(folder)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in code.items():
            file.writestr(zipfile.ZipInfo(name, LONG_AGO), content, zipfile.ZIP_DEFLATED)
    write_bytes(folder / script.name, script.read_bytes())
    if changes := _git("diff", "HEAD", "--", "*.py"):
        write_bytes(folder / CHANGES, changes)
    packages = sorted({f"{package.name}=={package.version}\n" for package in distributions()}, key=str.lower)
    write_bytes(folder / PACKAGES, "".join(packages).encode())
    write_bytes(folder / PROJECT, packed.getvalue())


def _git(*words: str) -> bytes:
    """Return what git says, nothing where it is not there, or this is no checkout."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, timeout=GIT_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return b""
