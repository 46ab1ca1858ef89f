"""Trackers show what the run folder says, and nothing of what they do or fail to do changes a run."""

import gzip
import http.server
import importlib.util
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import matplotlib
import pytest
from helpers import ROOT, SMALL, command, environment, interrupt, read, same_result, small_run, without_pictures

import ex_1
import trainA
from common.runs import tracking
from common.runs.folder import write_config
from common.runs.tracking import Trackers, check_installed
from common.system.errors import BadInput, Diverged

pytest.importorskip("tensorboard")
pytest.importorskip("wandb")

BOTH = ["--tensorboard", "--wandb"]
WORDS = ["--dataset", "digits", "--limit", "300", *BOTH]


@pytest.fixture(scope="module", autouse=True)
def clean_environment(tmp_path_factory):
    """No account and no settings of W&B but offline mode, and a home folder where nothing is."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    kept |= {"HOME": str(home), "WANDB_MODE": "offline"}
    kept |= {"MPLCONFIGDIR": matplotlib.get_cachedir()}  # has a list of fonts
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    return ex_1.main([*SMALL, *BOTH, "--output_dir", str(tmp_path_factory.mktemp("tracked") / "größe 3")])


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of four epochs that got a Ctrl-C in its third; and what W&B had of it until then."""
    output_dir = tmp_path_factory.mktemp("resumed")
    folder = interrupt(lambda: small_run(output_dir, "-e", "4", *BOTH), output_dir, before_epoch=3)
    before = OfflineRun(folder)
    without_pictures(["--resume", str(folder)])
    return folder, before


def events(folder):
    """Return what TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()


def hparams(folder):
    """Return the options that TensorBoard shows, the names of its metrics, and whether the session has ended."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = events(folder).summary_metadata
    data = {tag: HParamsPluginData.FromString(m.plugin_data.content) for tag, m in found.items() if "hparams" in tag}
    options = data["_hparams_/session_start_info"].session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in options.items()}
    metrics = [info.name.tag for info in data["_hparams_/experiment"].experiment.metric_infos]
    return values, metrics, "_hparams_/session_end_info" in data


class OfflineRun:
    """What the one `.wandb` file in a run folder holds: W&B has no reader that works without its server."""

    def __init__(self, folder):
        from wandb.proto.wandb_internal_pb2 import Record

        [path] = (folder / "wandb").glob("*/*.wandb")
        self.epochs, self.summary, self.config, self.axes, self.exit_code = [], {}, {}, {}, None
        for content in _leveldb_records(path.read_bytes()):
            self._take_in(Record.FromString(content))

    def _take_in(self, record):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self.epochs.append(_items(record.history.item))
        elif kind == "summary":
            self.summary |= _items(record.summary.update)
        elif kind == "run":
            self.project, self.entity, self.id = record.run.project, record.run.entity, record.run.run_id
            self.config |= _items(record.run.config.update)
        elif kind == "metric":
            self.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            self.exit_code = record.exit.exit_code


def _items(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _leveldb_records(content, block=2**15, header=7):
    """Yield the records of a file in LevelDB's log format, which begins with a mark of W&B's."""
    assert content.startswith(b":W&B")
    position, record = header, b""
    while position + header <= len(content):
        length, kind = struct.unpack_from("<HB", content, position + 4)
        rest = block - position % block
        if rest < header or kind == 0:
            position += rest
            continue
        record += content[position + header : position + header + length]
        position += header + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def expected_scalars(folder):
    """Return name -> [(epoch, value), ...] of every number in train.json."""
    train, series, best = read(folder, "train.json"), {}, 0.0
    for record in train["epochs"]:
        best = max(best, record["val_accuracy"])
        for name, value in (record | {"best_val_accuracy": best}).items():
            if name != "epoch" and isinstance(value, int | float):
                series.setdefault(name, []).append((record["epoch"], value))
    return series


def tensorboard_scalars(folder):
    shown = events(folder)
    return {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def check_tensorboard(folder):
    shown, expected = tensorboard_scalars(folder), expected_scalars(folder)
    assert len(expected) > 8
    for name, points in expected.items():
        assert [step for step, _ in shown[name]] == [epoch for epoch, _ in points], name
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in points], rel=1e-6), name
    assert len(shown["best_epoch"]) == len(expected["lr"])


def check_wandb(folder):
    run, train = OfflineRun(folder), read(folder, "train.json")
    shown = [{key: value for key, value in row.items() if key[0] != "_"} for row in run.epochs]
    rows = [row for row in shown if "val_accuracy" in row]
    assert rows == [
        {key: value for key, value in row.items() if isinstance(value, int | float)} for row in train["epochs"]
    ]
    assert all(run.summary[name] == train[name] for name in ("best_val_accuracy", "best_epoch", "status"))
    assert run.axes["*"] == "epoch"
    assert run.summary["epoch"] == len(train["epochs"])  # by which an online run that goes on knows what the server has
    return run


@pytest.mark.slow
def test_tensorboard_shows_every_number_of_every_epoch(tracked):
    check_tensorboard(tracked)


@pytest.mark.slow
def test_tensorboard_shows_scores_and_pictures_at_the_end(tracked):
    shown, scalars = events(tracked), tensorboard_scalars(tracked)
    assert scalars["test/accuracy"] == [(2, pytest.approx(read(tracked, "test.json")["accuracy"]))]
    assert set(shown.Tags()["images"]) == {path.stem for path in tracked.glob("*.png")} >= {"loss", "confusion_matrix"}
    [picture] = shown.Images("confusion_matrix")
    assert picture.encoded_image_string.startswith(b"\x89PNG") and min(picture.width, picture.height) > 300


@pytest.mark.slow
def test_tensorboard_shows_the_options_beside_the_best_accuracy(tracked):
    values, metrics, has_ended = hparams(tracked)
    options = read(tracked, "config.json")["options"]
    assert {name for name, value in options.items() if value is not None} < set(values)
    assert (values["lr"], values["batch_norm"], values["dataset"], values["epochs"]) == (1e-3, True, "digits", 2)
    assert metrics == ["best_val_accuracy"] and has_ended
    assert len(list((tracked / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_wandb_has_every_number_of_every_epoch_and_the_best_as_summary(tracked):
    run = check_wandb(tracked)
    assert run.exit_code == 0
    assert run.summary["test/accuracy"] == read(tracked, "test.json")["accuracy"]


@pytest.mark.slow
def test_wandb_has_the_options_and_the_pictures(tracked):
    run, options = OfflineRun(tracked), read(tracked, "config.json")["options"]
    assert all(run.config[name] == value for name, value in options.items() if not isinstance(value, list))
    assert (run.config["dataset"], run.project, run.entity) == ("digits", "image-classification", "")
    pictures = {key for row in run.epochs for key, value in row.items() if key.endswith("/path")} | set(run.epochs[-1])
    names = {path.stem for path in tracked.glob("*.png")}
    assert names and all(any(key.split("/")[0] == name for key in pictures) for name in names)
    assert len(list(tracked.glob("wandb/*/files/media/images/*.png"))) == len(names)


@pytest.mark.slow
def test_a_tracked_run_ends_as_any_other(tracked, plain):
    assert same_result(tracked, plain)
    ours, others = ({path.name for path in folder.iterdir()} for folder in (tracked, plain))
    assert {"tensorboard", "wandb"} <= ours and {"tensorboard", "wandb"}.isdisjoint(others)


@pytest.mark.slow
def test_an_interrupted_run_is_closed_as_such_and_has_its_best(resumed):
    _, before = resumed
    assert (len(before.epochs), before.exit_code) == (2, 1)
    assert before.summary["status"] == "interrupted" and before.summary["best_val_accuracy"] > 0


@pytest.mark.slow
def test_a_resumed_run_has_every_epoch_once_and_goes_on_in_the_same_places(resumed):
    folder, before = resumed
    check_tensorboard(folder)
    run = check_wandb(folder)
    assert (run.id, run.exit_code) == (before.id, 0)
    assert hparams(folder)[2]


def test_what_the_server_of_wandb_has_is_not_sent_again():
    tracker = tracking.WeightsAndBiases(None, None)
    run = mock.Mock(summary={"epoch": 2})
    with mock.patch.object(tracker, "_open", lambda folder, config: run):
        tracker.start(None, None)
    for epoch in range(1, 5):
        tracker.epoch({"epoch": epoch, "val_accuracy": epoch / 8}, {"best_val_accuracy": epoch / 8})
    assert [call.args[0]["epoch"] for call in run.log.call_args_list] == [3, 4]
    assert run.summary["best_val_accuracy"] == 0.5


@pytest.mark.slow
def test_a_tracker_that_is_new_to_a_resumed_run_gets_all_epochs(tmp_path, plain):
    folder = tmp_path / "ex_1" / "digits" / "copy"
    shutil.copytree(plain, folder)
    with mock.patch("common.runs.tracking.WeightsAndBiases", lambda *_: failing("start")):
        without_pictures(["--resume", str(folder), "-e", "3", "--tensorboard", "--wandb"])
    check_tensorboard(folder)


def test_what_is_left_of_an_older_event_file_is_not_shown(tmp_path, plain):
    """Where the old file cannot be removed, what it holds is purged."""
    folder = tmp_path / "copy"
    shutil.copytree(plain, folder)
    with mock.patch("pathlib.Path.unlink", side_effect=PermissionError):
        for loss in (1.0, 2.0):
            tracker = tracking.TensorBoard()
            tracker.start(folder, read(folder, "config.json"))
            for epoch in (1, 2):
                tracker.epoch({"epoch": epoch, "val_loss": loss}, {})
            tracker.close("finished")
    assert len(list((folder / "tensorboard").iterdir())) == 2
    assert tensorboard_scalars(folder)["val_loss"] == [(1, 2.0), (2, 2.0)]


@pytest.mark.slow
def test_a_run_of_no_epochs_shows_its_accuracy(tmp_path):
    folder = small_run(tmp_path, "-e", "0", *BOTH)
    accuracy = read(folder, "train.json")["best_val_accuracy"]
    assert tensorboard_scalars(folder)["best_val_accuracy"] == [(0, pytest.approx(accuracy))]
    assert check_wandb(folder).summary["best_val_accuracy"] == accuracy


@pytest.mark.slow
def test_a_diverged_run_is_closed_as_such(tmp_path):
    with pytest.raises(Diverged):
        small_run(tmp_path, "-lr", "1e10", "-bn", "False", *BOTH)
    [folder] = tmp_path.glob("*/*/*")
    run = OfflineRun(folder)
    assert (run.summary["status"], run.exit_code) == ("diverged", 1)
    assert not hparams(folder)[2]


@pytest.mark.slow
def test_project_and_entity_are_those_that_are_asked_for(tmp_path, monkeypatch):
    run = OfflineRun(small_run(tmp_path, "-e", "0", "--wandb", "-wp", "mine", "-we", "us"))
    assert (run.project, run.entity) == ("mine", "us")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert OfflineRun(small_run(tmp_path, "-e", "0", "--wandb")).project == "theirs"
    options = vars(trainA.parse_options([]))
    assert (options["wandb_project"], options["wandb_entity"]) == ("assignment2", "sasuke")
    assert not options["wandb"]


@pytest.mark.slow
def test_disabled_wandb_leaves_nothing(tmp_path, monkeypatch, plain):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = small_run(tmp_path / "outputs", "--wandb")
    assert same_result(folder, plain)
    assert {path.name for path in folder.iterdir()} == {path.name for path in plain.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert "--wandb" not in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_without_a_key_it_records_offline_and_asks_nothing(tmp_path):
    import pty

    ours, theirs = pty.openpty()  # with a terminal W&B would ask
    env = environment(HOME=str(tmp_path / "home"), OMP_NUM_THREADS="1")
    del env["WANDB_MODE"]
    (tmp_path / "here").mkdir()
    words = [sys.executable, ROOT / "ex_1.py", *WORDS, "-e", "0", "--test", "False", "--output_dir", tmp_path / "out"]
    process = subprocess.Popen(
        [str(word) for word in words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path / "here", env=env
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 2**16):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait(timeout=60) == 0
    [folder] = (tmp_path / "out").glob("*/*/*")
    lines = [line for line in shown.decode().splitlines() if "wandb" in line]
    [log] = [line for line in (folder / "log.txt").read_text().splitlines() if "wandb" in line]
    assert len(lines) == 1 and log in lines[0]
    assert log.startswith("note: --wandb records offline (there is no API key); to upload that: wandb sync ")
    assert Path(log.split()[-1]).is_dir()
    check_wandb(folder)
    assert not list((tmp_path / "here").iterdir())


def failing(method, error=None):
    """Return a tracker that raises in one method."""
    tracker = mock.Mock(spec=["start", "epoch", "finish", "close"])
    tracker.name = f"failing_{method}"
    getattr(tracker, method).side_effect = error or RuntimeError(f"the {method}\nfails")
    return tracker


def calls(tracker):
    return [name for name, *_ in tracker.method_calls]


def run_with(trackers, output_dir, *options):
    with mock.patch.object(Trackers, "of", lambda options: Trackers(trackers)):
        return small_run(output_dir, *options)


@pytest.mark.slow
def test_a_tracker_that_fails_warns_once_and_changes_nothing(tmp_path, plain, capsys):
    trackers = [failing(method) for method in ("start", "epoch", "finish", "close")]
    folder = run_with(trackers, tmp_path)
    assert same_result(folder, plain)
    assert read(folder, "train.json")["status"] == "finished"
    warnings = capsys.readouterr().err.splitlines()
    assert sorted(warnings) == [
        f"warning: --failing_{name} has failed and is left out: RuntimeError: the {name} fails"
        for name in ("close", "epoch", "finish", "start")
    ]
    assert [calls(tracker) for tracker in trackers] == [
        ["start", "close"],
        ["start", "epoch", "close"],
        ["start", "epoch", "epoch", "finish", "close"],
        ["start", "epoch", "epoch", "finish", "close", "close"],
    ]
    log = (folder / "log.txt").read_text().splitlines()
    assert [line for line in log if line.startswith("warning")] == warnings


@pytest.mark.slow
def test_a_tracker_that_exits_does_not_end_the_run(tmp_path, capsys):
    """W&B exits when it finds that its own process has crashed."""
    folder = run_with([failing("close", SystemExit(255))], tmp_path)
    assert read(folder, "train.json")["status"] == "finished"
    assert capsys.readouterr().err == "warning: --failing_close has failed and is left out: SystemExit: 255\n"


@pytest.mark.slow
def test_ctrl_c_in_a_tracker_is_for_the_run(tmp_path, plain, capsys):
    """The epoch is saved before it is tracked, so that nothing is lost."""
    tracker, other = failing("epoch", KeyboardInterrupt()), failing("finish")
    with pytest.raises(KeyboardInterrupt):
        run_with([tracker, other], tmp_path)
    [folder] = tmp_path.glob("*/*/*")
    train = read(folder, "train.json")
    assert (train["status"], len(train["epochs"])) == ("interrupted", 1)
    assert (calls(tracker), calls(other)) == (["start", "epoch", "close"], ["start", "close"])
    assert "warning" not in capsys.readouterr().err
    assert same_result(without_pictures(["--resume", str(folder)]), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("tensorboard", marks=pytest.mark.slow), "wandb"])
def test_a_missing_package_is_said_before_anything_is_made(tmp_path, name):
    hide = (
        f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == {name!r} else f(n, *a)"
    )
    code = f"{hide}; import sys, ex_1; from common.system.start import run_script; run_script(ex_1.main)"
    done = command("-c", code, *WORDS, "--output_dir", tmp_path / "out", cwd=ROOT)
    line = f"error: --{name}: the package {name} is not installed; pip install -r requirements-extras.txt\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_called_like_a_package_is_none(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb")
    importlib.invalidate_caches()
    with pytest.raises(BadInput, match="--wandb: the package wandb is not installed"):
        check_installed({"tensorboard": False, "wandb": True})


@pytest.mark.slow
def test_options_alone_import_no_tracker():
    code = f"import sys, ex_1; ex_1.parse_options({BOTH}); print({{'wandb', 'tensorboard'}} & set(sys.modules))"
    assert command("-c", code, cwd=ROOT).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["-wp", "mine"], "--wandb_project does nothing without --wandb"),
        (["-we", "us"], "--wandb_entity does nothing without --wandb"),
        (["--wandb", "--explore"], "--wandb does nothing with --explore True"),
        (["--tensorboard", "--explore"], "--tensorboard does nothing with --explore True"),
        (["--wandb", "-wp", "mine", "-we", "us", "--tensorboard"], ""),
    ],
)
def test_options_that_do_nothing_are_remarked_on(words, note, capsys):
    ex_1.parse_options(words)
    assert capsys.readouterr().out == (f"note: {note}\n" if note else "")


def children(process):
    """Return the numbers of the processes that W&B has started for `process`."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [int(number) for number in found]


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(parent):
    """Return a process that trains for long, after its second epoch, and its run folder."""
    words = [sys.executable, str(ROOT / "ex_1.py"), *WORDS, "-e", "200", "--output_dir", str(parent / "ö ü")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=parent)
    while process.poll() is None and not list(parent.glob("*/*/*/*/previous.pth")):
        time.sleep(0.05)
    [folder] = parent.glob("*/*/*/*")
    return process, folder


@pytest.fixture
def under_way(tmp_path):
    """A process that trains with both trackers, its run folder, and what W&B has started for it."""
    process, folder = start(tmp_path)
    started = children(process)
    assert started
    yield process, folder, started
    process.kill()


@pytest.mark.slow
def test_sigterm_closes_the_trackers_and_leaves_no_process(under_way):
    process, folder, started = under_way
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "terminated (SIGTERM)\n")
    assert not any(is_alive(number) for number in started)
    check_tensorboard(folder)
    assert check_wandb(folder).exit_code == 1


@pytest.mark.slow
def test_after_sigkill_a_resume_shows_every_epoch_once(under_way, monkeypatch):
    process, folder, started = under_way
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(is_alive(number) for number in started) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(is_alive(number) for number in started)
    config = read(folder, "config.json")
    config["options"]["epochs"] = len(read(folder, "train.json")["epochs"]) + 1
    write_config(folder, config)
    without_pictures(["--resume", str(folder)])
    check_tensorboard(folder)
    check_wandb(folder)


@pytest.mark.slow
def test_wandb_whose_process_is_killed_is_left_out(under_way):
    process, folder, started = under_way
    for number in started:
        os.kill(number, signal.SIGKILL)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[1:]) == (143, ["terminated (SIGTERM)"])
    assert err.startswith("warning: --wandb has failed and is left out: ")
    check_tensorboard(folder)


@pytest.mark.long
def test_without_a_network_it_records_offline(tmp_path):
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = command(ROOT / "ex_1.py", *WORDS, "-e", "1", "--output_dir", tmp_path, env=environment(**key))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("note: --wandb records offline (") == 1
    [recorded] = tmp_path.glob("*/*/*/wandb/offline-run-*")
    assert f"wandb sync {recorded}" in done.stdout


class Server(http.server.ThreadingHTTPServer):
    """As much of W&B's server as a run needs; `rows` is the history that it has been sent, `summary` the last one."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.rows, self.summary, self.exit_codes = [], {}, []
        self.answers = threading.Event()  # as long as it is not set, what is sent gets no answer
        self.answers.set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        assert isinstance(sys.exc_info()[1], ConnectionError)  # W&B's process does not say goodbye

    def answer(self, query, variables):
        project = {"id": "p", "name": "project", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": variables.get("name"), "displayName": "run", "config": "{}"}
        if variables.get("entity") == "sasuke":
            return {"errors": [{"message": "permission denied"}]}
        if "upsertBucket" in query:
            return {"data": {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": True}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "RunResumeStatus" in query:
            tails = {
                "historyTail": json.dumps([json.dumps(row) for row in self.rows[-1:]]),
                "eventsTail": "[]",
                "wandbConfig": '{"t": 1}',
            }
            counts = {"historyLineCount": len(self.rows), "logLineCount": 0, "eventsLineCount": 0}
            bucket |= {"summaryMetrics": json.dumps(self.summary), "tags": []} | tails | counts
            return {"data": {"model": project | {"bucket": bucket if self.rows else None}}}
        return {"data": {}}

    def take_in(self, stream):
        for name, part in (stream.get("files") or {}).items():
            rows = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                self.rows[part["offset"] :] = rows
            elif name == "wandb-summary.json":
                self.summary = rows[-1]
        if stream.get("complete"):
            self.exit_codes.append(stream["exitcode"])


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            answer = self.server.answer(asked["query"], asked.get("variables") or {})
        elif self.path.endswith("/file_stream"):
            self.server.answers.wait()
            self.server.take_in(json.loads(body))
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
        server.shutdown()


@pytest.mark.slow
def test_online_a_resumed_run_goes_on_where_it_was(tmp_path, server, capfd):
    folder = small_run(tmp_path, "--wandb")
    without_pictures(["--resume", str(folder), "-e", "3"])
    epochs = [(row["epoch"], row["val_accuracy"]) for row in server.rows if "val_accuracy" in row]
    train = read(folder, "train.json")
    assert epochs == [(record["epoch"], record["val_accuracy"]) for record in train["epochs"]]
    assert server.exit_codes == [0, 0]
    assert all(server.summary[name] == train[name] for name in ("best_val_accuracy", "best_epoch", "status"))
    out, err = capfd.readouterr()
    assert "wandb" not in out and err == ""


@pytest.mark.slow
def test_an_upload_that_hangs_is_given_up(tmp_path, server, plain, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 2)
    server.answers.clear()
    folder = small_run(tmp_path, "--wandb")
    server.answers.set()
    assert same_result(folder, plain) and read(folder, "train.json")["status"] == "finished"
    assert capsys.readouterr().err == (
        "warning: --wandb has failed and is left out: TimeoutError: Timed out finishing run.\n"
    )


@pytest.mark.slow
def test_a_second_signal_ends_the_wait_for_an_upload(tmp_path, server):
    server.answers.clear()
    process, folder = start(tmp_path)
    process.send_signal(signal.SIGTERM)
    while read(folder, "train.json")["status"] == "running":
        time.sleep(0.05)
    time.sleep(2)
    assert process.poll() is None and read(folder, "train.json")["status"] == "interrupted"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=40)
    server.answers.set()
    assert (process.returncode, err) == (143, "terminated (SIGTERM)\n")
    check_tensorboard(folder)


@pytest.mark.slow
def test_somebody_else_s_project_is_recorded_offline(tmp_path, server, capsys):
    folder = small_run(tmp_path, "--wandb", "-we", "sasuke")
    assert "permission denied" in capsys.readouterr().out
    assert server.rows == []
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1


@pytest.mark.long
def test_of_several_processes_one_tracks(tmp_path):
    start = ["-m", "torch.distributed.run", "--nproc_per_node=2", ROOT / "ex_1.py"]
    done = command(*start, *WORDS, "-e", "2", "--output_dir", tmp_path, env=environment(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.glob("*/*/*")
    assert len(list((folder / "tensorboard").iterdir())) == 1
    check_tensorboard(folder)
    check_wandb(folder)
