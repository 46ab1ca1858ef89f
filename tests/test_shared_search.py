"""Several machines on one search: a real PostgreSQL, four workers, one of them killed."""

import collections
import contextlib
import getpass
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, table

pytestmark = pytest.mark.slow
TOY = str(Path(__file__).with_name("toy.py"))


def find_server():
    """Return the folder of PostgreSQL's programs, which Debian does not put on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else found[-1].parent if found else None


@pytest.fixture
def database(tmp_path_factory):
    """The URL of an empty database of a server of its own."""
    programs = find_server()
    if programs is None:
        pytest.skip("there is no PostgreSQL server here")
    folder = tmp_path_factory.mktemp("postgres")
    # The server refuses to run as root; Debian's package brings a user for it.
    user = {"user": "postgres"} if getpass.getuser() == "root" else {}
    if user:
        for place in (folder, folder.parent):
            place.chmod(0o755)
        shutil.chown(folder, "postgres")
        if not _can_reach(folder):
            folder = Path("/var/lib/postgresql") / folder.name
            folder.mkdir()
            shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
    subprocess.run([programs / "initdb", "-D", folder / "db", "-U", "me", "-A", "trust"], check=True, **quiet)
    arguments = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen([programs / "postgres", "-D", folder / "db", *arguments], **quiet)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _can_reach(folder):
    return subprocess.run(["test", "-w", folder], user="postgres", cwd="/").returncode == 0


def test_four_workers_share_a_search_and_one_is_killed(tmp_path, database):
    points = [round(0.05 * number, 2) for number in range(12)]
    path = tmp_path / "shared.yaml"
    content = {
        "method": "grid", "program": TOY, "metric": {"name": "val_accuracy", "goal": "maximize"},
        "parameters": {"lr": {"values": points}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    words = [sys.executable, ROOT / "sweep.py", path, "--storage", database, "--dead_after", "8", "--output_dir"]
    fixed = ["--", "--seconds", "0.7"]
    outputs = [tmp_path / f"worker {number}" for number in range(4)]
    workers = [
        subprocess.Popen([*words, output, *fixed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for output in outputs
    ]
    deadline = time.monotonic() + 120
    while not list(outputs[0].glob("sweeps/shared/trials/*/toy")):
        assert time.monotonic() < deadline and workers[0].poll() is None
        time.sleep(0.05)
    workers[0].kill()
    said = [worker.communicate(timeout=180) for worker in workers]
    assert [worker.returncode for worker in workers] == [-9, 0, 0, 0], said
    assert not any("Traceback" in error for _, error in said)
    rows = table(outputs[1] / "sweeps" / "shared" / "trials.csv")
    assert collections.Counter(row["state"] for row in rows) == {"finished": 12}
    assert sorted(float(row["lr"]) for row in rows) == points  # each once
    tried_by = collections.Counter(Path(row["folder"]).parents[3].name for row in rows)
    assert all(tried_by[f"worker {number}"] for number in (1, 2, 3))
    tested = [path for output in outputs for path in output.glob("sweeps/shared/trials/*/toy/digits/now/test.json")]
    assert len(tested) == 1
    for _, (out, _) in zip(workers[1:], said[1:], strict=True):
        assert "12 finished" in out
