import collections
import datetime
import io
import os
import pickle
import random
import zipfile

import pytest
import torch
from torch import nn

from common.models.weights import load_weights
from common.system.checkpoints import Damaged, load_checkpoint, save_checkpoint, unpack
from common.system.errors import BadInput, explain
from common.system.files import Unreadable

CLASSES = ["a", "b"]


def small_model(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def state_of(model):
    """A copy: the state dict itself follows its model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(model, path):
    before = state_of(model)
    with pytest.raises(BadInput) as error:
        load_weights(model, str(path), CLASSES)
    assert same_weights(model.state_dict(), before)
    assert "--weights" in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


CONTENT = {
    "number": 3, "real": 0.1, "none": None, "truth": True, "text": "größe 😀 \n", "name": os.fsdecode(b"\xff"),
    "list": [1, [2.5, "x"]], "tuple": (1, 2), "dict": {"a": {"b": []}}, 7: "key",
}  # fmt: skip


def test_what_is_saved_is_loaded(tmp_path):
    tensors = [torch.randn(3, 4), torch.arange(5), torch.tensor(2.5, dtype=torch.bfloat16), torch.empty(0)]
    save_checkpoint(tmp_path / "a.pth", CONTENT | {"tensors": tensors})
    loaded = load_checkpoint(tmp_path / "a.pth")
    for one, other in zip(loaded.pop("tensors"), tensors, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert loaded == CONTENT
    assert type(loaded["tuple"]) is tuple and loaded["number"].__class__ is int


def test_states_of_model_and_optimizer_survive(tmp_path):
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "a.pth", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    loaded = load_checkpoint(tmp_path / "a.pth")
    fresh = small_model(seed=1)
    fresh.load_state_dict(loaded["model"])
    assert same_weights(fresh.state_dict(), model.state_dict())
    assert loaded["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    moments = loaded["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, optimizer.state_dict()["state"][0]["exp_avg"])


def test_the_file_is_read_by_torch_load_as_it_is(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"model": small_model().state_dict(), "epoch": 3})
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)
    assert loaded["epoch"] == 3 and same_weights(loaded["model"], small_model().state_dict())


def test_the_same_content_makes_the_same_file(tmp_path):
    for name in ("a.pth", "b.pth"):
        save_checkpoint(tmp_path / name, CONTENT | {"weights": torch.arange(9.0)})
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def positions(length, count=120):
    """Places in a file: both ends, where the structure and the checksum are, and some in between."""
    ends = [*range(10), *range(length - 80, length)]
    return sorted({*ends, *random.Random(0).sample(range(length), count)})


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.pth"
    save_checkpoint(path, {"model": small_model().state_dict(), "epoch": 3})
    return path.read_bytes()


def test_every_flipped_bit_is_noticed(tmp_path, sound):
    path = tmp_path / "a.pth"
    for place in positions(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match="a.pth is damaged"):
            load_checkpoint(path)


def test_every_truncation_and_extension_is_noticed(tmp_path, sound):
    path = tmp_path / "a.pth"
    for content in [sound[:place] for place in positions(len(sound))] + [sound + b"\n", sound + sound, sound[1:]]:
        path.write_bytes(content)
        with pytest.raises(Damaged, match="a.pth is damaged"):
            load_checkpoint(path)


def test_a_missing_file_is_damage_too_and_its_text_is_for_people(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(Damaged, match="cannot be read") as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)
        assert explain(error.value)[0] == 2


def test_a_sound_checkpoint_of_another_kind_is_told_apart(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"model": {}, "epoch": 2})
    assert load_checkpoint(path, {"model"}) == load_checkpoint(path, {"model", "epoch"}) == {"model": {}, "epoch": 2}
    with pytest.raises(Damaged, match="another kind"):
        load_checkpoint(path, {"model", "optimizer"})


def test_the_checkpoint_before_is_kept_on_request(tmp_path):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for epoch in (1, 2, 3):
        save_checkpoint(last, {"epoch": epoch}, keep_old_as=previous)
        assert load_checkpoint(last) == {"epoch": epoch}
        assert previous.exists() == (epoch > 1)
        assert epoch == 1 or load_checkpoint(previous) == {"epoch": epoch - 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "previous.pth"]


def test_what_cannot_be_saved_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_checkpoint(path, {"epoch": lambda: None}, keep_old_as=tmp_path / "previous.pth")
    assert load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def save_ours(path, weights):
    save_checkpoint(path, {"model": weights, "epoch": 3})


def save_ours_bare(path, weights):
    save_checkpoint(path, weights)


def save_old_format(path, weights):
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def save_ordered(path, weights):
    torch.save(collections.OrderedDict(weights), path)


WAYS = [save_ours, save_ours_bare, save_ordered, save_old_format]


@pytest.mark.parametrize("save", WAYS)
def test_weights_of_the_same_network_are_loaded(tmp_path, save):
    stored, model = small_model(seed=1), small_model(seed=0)
    stored(torch.randn(8, 2))  # moves the statistics of batch norm
    save(tmp_path / "a.pth", stored.state_dict())
    load_weights(model, str(tmp_path / "a.pth"), CLASSES)
    assert same_weights(model.state_dict(), stored.state_dict())


@pytest.mark.parametrize(("classes", "warned"), [(["a", "b"], False), (["b", "a"], True), (["a", "c"], True)])
def test_weights_trained_for_other_classes_are_loaded_with_a_warning(tmp_path, capsys, classes, warned):
    content = {"model": small_model(seed=1).state_dict(), "config": {"classes": classes}}
    save_checkpoint(tmp_path / "a.pth", content)
    model = small_model()
    load_weights(model, str(tmp_path / "a.pth"), CLASSES)
    assert same_weights(model.state_dict(), content["model"])
    assert ("warning" in capsys.readouterr().out) == warned


@pytest.mark.parametrize("config", [None, "words", [1], {}, {"classes": None}, {"classes": 7}, {"classes": [1, 2]}])
def test_weights_of_others_may_carry_whatever_else(tmp_path, config):
    torch.save({"model": small_model(seed=1).state_dict(), "config": config}, tmp_path / "a.pth")
    model = small_model()
    load_weights(model, str(tmp_path / "a.pth"), CLASSES)
    assert same_weights(model.state_dict(), small_model(seed=1).state_dict())


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


OTHER_NETWORKS = {
    "other shape": (small_model(width=4).state_dict(), ["0.weight", "[4, 2]", "[3, 2]"]),
    "one missing": (without(small_model().state_dict(), "1.running_mean"), ["1.running_mean is missing"]),
    "one too many": (small_model().state_dict() | {"3.bias": torch.zeros(2)}, ["it has 3.bias too"]),
    "empty": ({}, ["0.weight is missing"]),
    "no tensors": (dict.fromkeys(small_model().state_dict(), 3), ["0.weight has the shape []"]),
    "a list": ([1, 2], ["no weights by name"]),
    "a tensor": (torch.zeros(3), ["no weights by name"]),
    "extra keys of two kinds": (small_model().state_dict() | {"x": torch.zeros(1), 3: torch.zeros(1)}, ["too"]),
}


@pytest.mark.parametrize("save", [save_ours, save_ours_bare, torch.save])
@pytest.mark.parametrize("kind", OTHER_NETWORKS)
def test_weights_of_another_network_are_refused_and_the_difference_named(tmp_path, kind, save):
    weights, culprits = OTHER_NETWORKS[kind]
    path = tmp_path / "a.pth"
    save(weights, path) if save is torch.save else save(path, weights)
    line = refusal(small_model(), path)
    assert "does not fit this network" in line
    assert [culprit for culprit in culprits if culprit not in line] == []


def zipped(name, content):
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(name, content):
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


FOREIGN = {
    "empty": b"",
    "one byte": b"\x80",
    "hello": b"hello",
    "text": b"just a text file\n" * 10,
    "html": b"<!DOCTYPE html><html>not found</html>",
    "json": b'{"model": [1, 2]}',
    "yaml": b"lr: 0.1\nepochs: 3\n",
    "csv": b"id,label\n1,2\n",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "zeros": bytes(1000),
    "noise": random.Random(1).randbytes(1000),
    "zip": zipped("readme.txt", b"words"),
    "zip with data.pkl": zipped("archive/data.pkl", b"words"),
    "tar": tarred("readme.txt", b"words"),
    "pickle of a dict": pickle.dumps({"a": 1}),
    "pickle of a date": pickle.dumps(datetime.date(2024, 1, 2)),
}


TORCH_WARNS = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of a file that it then refuses


@TORCH_WARNS
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    refusal(small_model(), path)


@pytest.mark.slow
@TORCH_WARNS
def test_random_text_and_bytes_are_refused(tmp_path):
    chance = random.Random(0)
    path = tmp_path / "a.pth"
    for number in range(300):
        letters = range(256) if number % 2 else range(32, 127)
        path.write_bytes(bytes(chance.choices(letters, k=chance.choice([1, 2, 5, 50]))))
        refusal(small_model(), path)


@pytest.mark.parametrize("path", ["absent.pth", "x" * 5000])
def test_a_file_that_is_not_there_is_named(path):
    assert "cannot be read" in refusal(small_model(), path)


def test_a_damaged_checkpoint_of_ours_gives_no_weights(tmp_path, sound):
    path, sealed = tmp_path / "a.pth", len(sound) - 72
    model, intact = small_model(), small_model().state_dict()
    for place in positions(sealed):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert "is damaged" in refusal(model, path)
    # In the checksum's own line the damage may go unnoticed, because the weights are whole.
    for place in range(sealed, len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            load_weights(model, str(path), CLASSES)
        except BadInput:
            continue
        assert same_weights(model.state_dict(), intact)


@pytest.mark.parametrize("save", [save_ours, save_ordered, save_old_format])
def test_a_truncated_file_gives_no_weights(tmp_path, save):
    path, model = tmp_path / "a.pth", small_model()
    save(path, small_model(seed=1).state_dict())
    content = path.read_bytes()
    for place in sorted(random.Random(0).sample(range(len(content) - 80), 80)):
        path.write_bytes(content[:place])
        refusal(model, path)


class Trap:
    """Its pickle runs a command when it is opened."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@TORCH_WARNS
@pytest.mark.parametrize("way", ["torch.save", "old format", "bare pickle", "in a checkpoint of ours"])
def test_nothing_in_a_file_is_ever_executed(tmp_path, way):
    sprung = tmp_path / "sprung"
    content = {"model": small_model().state_dict(), "trap": Trap(f"echo x > {sprung}")}
    path = tmp_path / "a.pth"
    if way == "torch.save":
        torch.save(content, path)
    elif way == "old format":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif way == "bare pickle":
        path.write_bytes(pickle.dumps(content["trap"]))
    else:
        save_checkpoint(path, content)
        with pytest.raises(Damaged, match="no checkpoint that can be read safely"):
            load_checkpoint(path)
    assert "no checkpoint that can be read safely" in refusal(small_model(), path)
    assert not sprung.exists()
    # Else the trap is none, and the test shows nothing.
    pickle.loads(pickle.dumps(content["trap"]))
    assert sprung.exists()


def test_a_word_in_a_text_is_no_attack(tmp_path):
    content = {"config": {"data": "/home/me/bytearray/x", "classes": ["bytearray"]}}
    save_checkpoint(tmp_path / "a.pth", content)
    assert load_checkpoint(tmp_path / "a.pth") == content


@pytest.mark.parametrize("name", ["archive/data.PKL", "archive/data.pkl"])
def test_a_bytearray_is_refused_whatever_its_entry_is_called(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"cbuiltins\nbytearray\n(I1000\ntR.")
        archive.writestr("archive/version", "3")
    with pytest.raises(Unreadable):
        unpack(buffer.getvalue())
