"""Downloads to a folder that others use too."""

import hashlib
import threading
import time

import pytest
from helpers import send, serving

from common.system.download import DownloadFailed, download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def url(server):
    return f"http://127.0.0.1:{server.server_port}/file"


def test_what_a_killed_download_left_is_removed(tmp_path):
    path = tmp_path / "data" / "file.tar.gz"
    path.parent.mkdir()
    (path.parent / ".file.tar.gz.0123abcd.partial").write_bytes(CONTENT[:1000])
    (path.parent / ".file.tar.gz.lock").touch()
    (path.parent / ".another.tar.gz.0123abcd.partial").touch()
    with serving(lambda handler: send(handler, CONTENT)) as (server, _):
        download(url(server), path, "sha256", SHA256)
    assert path.read_bytes() == CONTENT
    assert sorted(one.name for one in path.parent.iterdir()) == [".another.tar.gz.0123abcd.partial", "file.tar.gz"]


def test_of_many_that_need_a_file_one_downloads_it(tmp_path):
    def slowly(handler):
        time.sleep(0.2)
        send(handler, CONTENT)

    path = tmp_path / "file.tar.gz"
    with serving(slowly) as (server, asked):
        threads = [threading.Thread(target=download, args=(url(server), path, "sha256", SHA256)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(asked) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["file.tar.gz"]


@pytest.mark.parametrize("announced", ["abc", "-5", "", "١٢"])
def test_a_length_that_is_no_number_is_not_believed(tmp_path, announced):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", announced.encode("utf-8").decode("latin-1"))
        handler.end_headers()
        handler.wfile.write(CONTENT)

    with serving(answer) as (server, _):
        try:
            download(url(server), tmp_path / "file", "sha256", SHA256)
        except DownloadFailed:
            assert list(tmp_path.iterdir()) == []
        else:
            assert (tmp_path / "file").read_bytes() == CONTENT
