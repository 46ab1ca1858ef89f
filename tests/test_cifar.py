import gc
import hashlib
import io
import os
import pickle
import shutil
import socket
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import closed_port, send, serving
from torchvision.datasets import CIFAR10

import common.data.published
import common.system.download
from common.data.load import Source
from common.data.published import load_published
from common.system.errors import BadInput

NAMES = [f"class {label}" for label in range(10)]
FOLDER = CIFAR10.base_folder


def batch_file(first, count):
    pixels = np.random.default_rng(first).integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
    return pickle.dumps({"data": pixels, "labels": [(first + place) % 10 for place in range(count)]})


FILES = {f"data_batch_{number}": batch_file(100 * number, 20) for number in range(1, 6)}
FILES |= {"test_batch": batch_file(900, 30), "batches.meta": pickle.dumps({"label_names": NAMES})}


def md5(content):
    return hashlib.md5(content).hexdigest()


def make_archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = make_archive()


def send_archive(handler):
    send(handler, ARCHIVE)


@pytest.fixture(autouse=True)
def little_cifar(monkeypatch, tmp_path):
    """The files above instead of CIFAR-10's, and nothing that leaves this machine."""
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(ARCHIVE))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(FILES[name])] for name in FILES if "data" in name])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(FILES["test_batch"])]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(FILES["batches.meta"])}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{closed_port()}/{CIFAR10.filename}")
    monkeypatch.setattr(common.data.published, "DOWNLOAD_FOLDER", tmp_path / "by default")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(monkeypatch):
    with serving(send_archive) as (server, asked):
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        yield asked


@contextmanager
def answering(monkeypatch, answer):
    with serving(answer) as (server, _), monkeypatch.context() as patch:
        patch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        yield


def extract(folder):
    (folder / FOLDER).mkdir(parents=True)
    for name, content in FILES.items():
        (folder / FOLDER / name).write_bytes(content)
    return folder / FOLDER


def check(parts):
    train, test = parts["train"], parts["test"]
    assert train.data.shape == (100, 32, 32, 3) and test.data.shape == (30, 32, 32, 3)
    first = pickle.loads(FILES["test_batch"])
    assert np.array_equal(test.data[0], first["data"][0].reshape(3, 32, 32).transpose(1, 2, 0))
    assert test.targets == first["labels"]
    assert train.classes == NAMES


def refusal(location):
    with pytest.raises(BadInput) as error:
        load_published("cifar10", str(location))
    return str(error.value)


def leftovers(folder):
    """Everything that lies in `folder`, except the archive itself and what was in it."""
    return sorted({path.name for path in folder.iterdir()} - {CIFAR10.filename, FOLDER})


@pytest.mark.parametrize("given", [True, False])
def test_it_is_downloaded_when_absent_and_not_again(tmp_path, server, given):
    folder = tmp_path / "not" / "yet there" if given else tmp_path / "by default"
    for _ in range(2):
        check(load_published("cifar10", str(folder) if given else None))
    assert server == [f"/{CIFAR10.filename}"]
    assert (folder / CIFAR10.filename).read_bytes() == ARCHIVE
    assert leftovers(folder) == []


def test_a_downloaded_archive_is_extracted_without_network(tmp_path):
    (tmp_path / CIFAR10.filename).write_bytes(ARCHIVE)
    check(load_published("cifar10", str(tmp_path)))
    assert (tmp_path / FOLDER).is_dir() and leftovers(tmp_path) == []


def test_an_archive_by_any_name_is_taken(tmp_path):
    archive = tmp_path / "my copy.tar.gz"
    archive.write_bytes(ARCHIVE)
    for _ in range(2):
        check(load_published("cifar10", str(archive)))
    assert leftovers(tmp_path) == ["my copy.tar.gz"]


def test_the_extracted_folder_and_its_parent_are_taken(tmp_path):
    folder = extract(tmp_path)
    check(load_published("cifar10", str(folder)))
    check(load_published("cifar10", str(tmp_path)))
    assert leftovers(tmp_path) == []


def test_an_archive_in_a_folder_that_cannot_be_written_is_extracted_elsewhere(tmp_path, monkeypatch):
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(ARCHIVE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    check(load_published("cifar10", str(archive)))
    assert not (tmp_path / FOLDER).exists() and len(list(elsewhere.iterdir())) == 1


@pytest.mark.parametrize("content", [ARCHIVE[:-1], ARCHIVE[:5000] + b"?" + ARCHIVE[5001:], b"", b"<html>busy</html>"])
@pytest.mark.parametrize("name", [CIFAR10.filename, "my copy.tar.gz"])
def test_an_archive_with_a_wrong_checksum_is_named(tmp_path, content, name):
    archive = tmp_path / name
    archive.write_bytes(content)
    line = refusal(tmp_path if name == CIFAR10.filename else archive)
    assert str(archive) in line and md5(content) in line and md5(ARCHIVE) in line and CIFAR10.url in line
    assert not (tmp_path / FOLDER).exists()


def half_and_no_more(handler):
    send(handler, ARCHIVE[: len(ARCHIVE) // 2], announced=len(ARCHIVE))


def half_and_reset(handler):
    half_and_no_more(handler)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.rfile.close()  # it holds the connection open
    handler.connection.close()


def nothing_but_noise(handler):
    handler.wfile.write(b"no HTTP at all\r\n\r\n")


def silence(handler):
    pass


def another_page(handler):
    send(handler, b"<html>log in first</html>")


def absent(handler):
    send(handler, b"no such page", status=404)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [half_and_no_more, half_and_reset, nothing_but_noise, silence, another_page, absent])
def test_a_failed_download_is_explained_and_leaves_nothing(tmp_path, monkeypatch, answer):
    if answer is half_and_reset and sys.platform != "linux":
        pytest.skip("how a connection is reset is the system's affair")
    with answering(monkeypatch, answer):
        line = refusal(tmp_path)
        assert CIFAR10.url in line and str(tmp_path / CIFAR10.filename) in line and "--dataset digits" in line
    gc.collect()  # a connection that was left open is told of here, and not in a later test
    assert list(tmp_path.iterdir()) == []
    with answering(monkeypatch, send_archive):
        check(load_published("cifar10", str(tmp_path)))


def test_a_server_that_stalls_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(common.system.download, "TIMEOUT", 0.2)
    over = threading.Event()

    def stall(handler):
        send(handler, ARCHIVE[:1000], announced=len(ARCHIVE))
        handler.wfile.flush()
        over.wait(20)

    with answering(monkeypatch, stall):
        line = refusal(tmp_path)
        over.set()
        assert "timed out" in line and CIFAR10.url in line
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_line_with_every_way_out(tmp_path):
    line = refusal(tmp_path)
    assert CIFAR10.url in line and str(tmp_path / CIFAR10.filename) in line
    assert "--data" in line and "--dataset digits" in line
    assert leftovers(tmp_path) == []


def test_a_download_that_ctrl_c_ends_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(common.system.download, "progress", raise_keyboard_interrupt)
    with answering(monkeypatch, send_archive), pytest.raises(KeyboardInterrupt):
        load_published("cifar10", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def raise_keyboard_interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["flipped", "shortened", "removed"])
def test_damage_in_the_extracted_folder_is_noticed(tmp_path, name, damage):
    path = extract(tmp_path) / name
    content = bytearray(FILES[name])
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "shortened": FILES[name][:-1], "removed": b""}[damage])
    if damage == "removed":
        path.unlink()
    for location in (tmp_path, tmp_path / FOLDER):
        line = refusal(location)
        assert str(tmp_path / FOLDER) in line and "delete that folder" in line


def test_the_way_out_of_damage_leads_out(tmp_path, server):
    (extract(tmp_path) / "test_batch").unlink()
    refusal(tmp_path)
    shutil.rmtree(tmp_path / FOLDER)
    check(load_published("cifar10", str(tmp_path)))


def test_two_processes_may_extract_at_once_on_a_disk_without_locks(tmp_path, monkeypatch):
    (tmp_path / CIFAR10.filename).write_bytes(ARCHIVE)
    rename = os.rename

    def another_was_faster(source, target):
        extract(tmp_path)
        rename(source, target)

    monkeypatch.setattr(os, "rename", another_was_faster)
    check(load_published("cifar10", str(tmp_path)))
    assert leftovers(tmp_path) == []


def test_many_threads_extract_once_and_remove_what_a_killed_process_left(tmp_path, capsys):
    (tmp_path / CIFAR10.filename).write_bytes(ARCHIVE)
    (tmp_path / ".extracting-cifar10-killed" / FOLDER).mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: load_published("cifar10", str(tmp_path)), range(4)):
            check(loaded)
    assert capsys.readouterr().out.count("extracting") == 1
    assert leftovers(tmp_path) == []


def test_all_images_arrive_in_their_parts(tmp_path):
    extract(tmp_path)
    [data] = Source(["cifar10"], str(tmp_path)).load(32, val_fraction=0.1)
    assert data.classes == NAMES
    assert [len(part) for part in (data.train, data.val, data.test)] == [90, 10, 30]
    images, labels = data.test.dataset.batch(torch.tensor([3]))
    raw = pickle.loads(FILES["test_batch"])
    assert np.array_equal(images[0].numpy(), raw["data"][3].reshape(3, 32, 32))
    assert labels.tolist() == [raw["labels"][3]]
    assert data.test.dataset.ids[3] == "test/3"


def test_an_archive_in_a_folder_that_cannot_be_written_is_extracted_once(tmp_path, monkeypatch):
    shared, own = tmp_path / "shared", tmp_path / "data"
    shared.mkdir()
    (shared / "archive.tar.gz").write_bytes(ARCHIVE)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(shared))
    monkeypatch.setattr("common.data.published.DOWNLOAD_FOLDER", own)
    extracted = set()
    for _ in range(2):
        check(load_published("cifar10", str(shared / "archive.tar.gz")))
        extracted.add((own / FOLDER).stat().st_ino)
    assert len(extracted) == 1 and [path.name for path in own.iterdir()] == [FOLDER]
