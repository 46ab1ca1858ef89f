import errno
import json
import math
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from common.runs.folder import lock
from common.system.errors import BadInput, explain
from common.system.files import partial_file, remove_partial_files, write_bytes, write_json


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"", b"new", bytes(range(256)) * 5000, memoryview(b"new")])
@pytest.mark.parametrize("old", [None, b"old"])
def test_the_content_arrives_whole_and_alone(tmp_path, content, old):
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)
    write_bytes(path, content)
    assert path.read_bytes() == bytes(content)
    assert names_in(tmp_path) == ["file.bin"]


def test_what_is_being_written_is_not_seen_under_the_final_name(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with partial_file(path) as partial:
        partial.write_bytes(b"half")
        assert partial.parent == tmp_path
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"half"
    assert names_in(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), partial_file(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert names_in(tmp_path) == ([] if old is None else ["file.bin"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_full_disk_leaves_the_old_file_and_is_explained(tmp_path, monkeypatch, failing, keep):
    path, kept = tmp_path / "file.bin", tmp_path / "previous.bin"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError) as error:
        patch.setattr(os, failing, full)
        write_bytes(path, b"new", keep_old_as=kept if keep else None)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file.bin"]
    code, line = explain(error.value)
    assert code == 4 and str(path) in line and "disk is full" in line


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: order.append("fsync") or real_fsync(file))
    monkeypatch.setattr(os, "replace", lambda *names: order.append("replace") or real_replace(*names))
    write_bytes(tmp_path / "file.bin", b"new")
    assert order == ["fsync", "replace", "fsync"]  # the content, the name, the folder that has the name


def test_the_file_before_is_kept_under_the_asked_name(tmp_path):
    path, kept = tmp_path / "last", tmp_path / "previous"
    write_bytes(path, b"1", keep_old_as=kept)
    assert names_in(tmp_path) == ["last"]
    for number in (b"2", b"3"):
        before = path.read_bytes()
        write_bytes(path, number, keep_old_as=kept)
        assert (path.read_bytes(), kept.read_bytes()) == (number, before)
    assert names_in(tmp_path) == ["last", "previous"]


def test_a_folder_that_is_gone_is_named(tmp_path):
    path = tmp_path / "gone" / "file.bin"
    with pytest.raises(FileNotFoundError) as error:
        write_bytes(path, b"new")
    assert str(path.parent) in str(error.value)


def test_only_what_was_left_half_written_is_removed(tmp_path):
    for name in ("last.pth", ".hidden", "notes.partial"):
        (tmp_path / name).write_bytes(b"whole")
    with pytest.raises(ZeroDivisionError), partial_file(tmp_path / "last.pth") as partial:
        partial.write_bytes(b"half")
        left_by_a_killed_process = partial.name
        raise ZeroDivisionError
    (tmp_path / left_by_a_killed_process).write_bytes(b"half")
    remove_partial_files(tmp_path)
    assert names_in(tmp_path) == [".hidden", "last.pth", "notes.partial"]


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_reads_back(tmp_path):
    content = {"a": [1, 2.5, None, True, "x"], "b": {"c": (1, 2)}, "größe 😀": "größe\n"}
    write_json(tmp_path / "a.json", content)
    assert strict(tmp_path / "a.json") == content | {"b": {"c": [1, 2]}}
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "größe" in text and text.endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(tmp_path, value):
    write_json(tmp_path / "a.json", {"plain": value, "list": [1.0, value], "deep": {"deeper": ({"deepest": value},)}})
    expected = {"plain": None, "list": [1.0, None], "deep": {"deeper": [{"deepest": None}]}}
    assert strict(tmp_path / "a.json") == expected


def test_keys_become_text_and_names_that_are_not_utf8_are_still_written(tmp_path):
    write_json(tmp_path / "a.json", {1: "one", "name": os.fsdecode(b"caf\xe9")})
    written = strict(tmp_path / "a.json")
    assert written["1"] == "one" and written["name"].startswith("caf")


def test_content_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert strict(path) == {"a": 1}
    assert names_in(tmp_path) == ["a.json"]


def test_a_folder_has_one_user_at_a_time_and_keeps_no_trace(tmp_path):
    for _ in range(2):
        with lock(tmp_path):
            with pytest.raises(BadInput, match="in use by another process"), lock(tmp_path):
                pass
        assert names_in(tmp_path) == []
    with pytest.raises(BadInput, match="cannot be written to"), lock(tmp_path / ("long" * 100)):
        pass


LOCKING_PROGRAM = """
import sys
from pathlib import Path
from common.runs.folder import lock
with lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_process_gives_its_folder_up(tmp_path):
    words = [sys.executable, "-c", LOCKING_PROGRAM, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(BadInput, match="in use by another process"), lock(tmp_path):
            pass
        process.kill()
    with lock(tmp_path):
        pass
    assert names_in(tmp_path) == []
