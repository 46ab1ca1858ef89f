"""A trained network as an ONNX file: a picture of any size goes in, probabilities come out.

What evaluation does to a picture lies in the graph: the square of it, the sizes, the crop, the normalization. So the
file is all that another program needs. The graph is that of ONNX's operator set 18.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

from common.data.arrays import Split
from common.data.images import read_image
from common.data.load import Source
from common.system.errors import BadInput
from common.system.files import partial_file
from common.system.log import info, progress
from common.transforms.basic import Compose, Normalize, Resize

OPSET = 18  # the first whose Resize averages when it makes smaller, as Pillow does
EXACT = 1e-3  # of a probability: what another order of additions may change, for squares as the run has stored them
OF_FILES = 0.05  # the same for photographs: Pillow rounds between the rows and the columns, the graph does not
BATCH = 64


class Exportable(nn.Module):
    """A network with what evaluation does before it: (N, 3, S, S) float32 from 0 to 255 -> probabilities (N, classes).

    Sizes are rounded to whole numbers after each change, as they are for images of uint8.
    """

    def __init__(self, model: nn.Module, transform: Compose):
        super().__init__()
        self.model, self.transforms = model, transform.transforms
        normalize = transform.normalize  # whose own constants are kept for others, and must not be traced
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(normalize, name))[:, None, None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        for transform in self.transforms:
            if isinstance(transform, Resize):
                pixels = transform(pixels).round().clamp(0, 255)
            elif isinstance(transform, Normalize):
                pixels = (pixels / 255 - self.mean) / self.std
            else:
                pixels = transform(pixels)
        return self.model(pixels).float().softmax(1)


def build_onnx(network: Exportable, size: int, fit: str, about: dict) -> onnx.ModelProto:
    """Return the graph: `image` (N, height, width, 3) uint8 -> `probabilities` (N, classes) float32.

    Args:
        size, fit: side in pixels of the square of a picture that the network was made for, and how it becomes that, as
            `common.data.images.frame` says.
        about: texts for the metadata, by name.

    Raises:
        BadInput: the network has an operator that ONNX does not.
    """
    example = torch.zeros(2, 3, size, size)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                network.eval(), (example,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["pixels"], output_names=["probabilities"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            )  # fmt: skip
    except Exception as error:  # PyTorch raises nearly anything for what it cannot translate
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"this network cannot be written as ONNX ({type(error).__name__}: {reason})") from error
    before = _square_of_any_picture(size, fit, program.model_proto.ir_version)
    whole = onnx.compose.merge_models(before, program.model_proto, io_map=[("square", "pixels")])
    helper.set_model_props(whole, {name: str(text) for name, text in about.items()})
    onnx.checker.check_model(whole)
    return whole


def _square_of_any_picture(size: int, fit: str, ir_version: int) -> onnx.ModelProto:
    """Return the graph of `frame` and `square`: `image` (N, H, W, 3) uint8 -> `square` (N, 3, size, size) float32."""
    sides = [size, size]
    constants = {"zero": np.float32(0), "full": np.float32(255), "two": np.float32(2), "axes": np.array([2, 3]),
                 "sides": np.array(sides), "length": np.array([size])}  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["numbers"], to=TensorProto.FLOAT),
    ]
    if fit == "squash":
        nodes.append(node("Identity", ["sides"], ["target"]))
    else:  # the shorter side becomes `size`
        nodes += [
            node("Shape", ["numbers"], ["shape"], start=2, end=4),
            node("ReduceMin", ["shape"], ["shorter"], keepdims=1),
            node("Mul", ["shape", "length"], ["product"]),
            node("Div", ["product", "shorter"], ["target"]),
        ]
    nodes += [
        node("Resize", ["numbers", "", "", "target"], ["resized"], mode="linear", antialias=1, axes=[2, 3],
             coordinate_transformation_mode="half_pixel"),
        node("Round", ["resized"], ["rounded"]),
        node("Clip", ["rounded", "zero", "full"], ["whole"]),
        node("Sub", ["target", "sides"], ["spare"]),
        node("Cast", ["spare"], ["spare_float"], to=TensorProto.FLOAT),
        node("Div", ["spare_float", "two"], ["half"]),
        node("Round", ["half"], ["start_float"]),
        node("Cast", ["start_float"], ["start"], to=TensorProto.INT64),
        node("Add", ["start", "sides"], ["end"]),
        node("Slice", ["whole", "start", "end", "axes"], ["square"]),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    square = helper.make_tensor_value_info("square", TensorProto.FLOAT, ["batch", 3, size, size])
    values = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "square of a picture", [image], [square], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=ir_version)


class Comparison(NamedTuple):
    """Images (n, H, W, 3) uint8, each time with the probabilities (n, classes) that PyTorch gives; `count` in all.

    What they are is told, and a probability may differ by `bound`.
    """

    what: str
    bound: float
    count: int
    pairs: Iterator[tuple[np.ndarray, np.ndarray]]


def squares(validation: Split, probabilities: Callable[[list], np.ndarray]) -> Comparison:
    """Compare on images as the run has stored them; `probabilities` are of a list of (S, S, 3) uint8."""

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for indices in validation.indices.split(BATCH):
            images = np.ascontiguousarray(validation.dataset.batch(indices)[0].permute(0, 2, 3, 1).numpy())
            yield images, probabilities(list(images))

    return Comparison("validation images", EXACT, len(validation), pairs())


def photographs(
    files: list[Path], read: Callable[[Path], tuple], probabilities: Callable[[list], np.ndarray]
) -> Comparison:
    """Compare on files of any size, whose squares `read(path)[0]` gives."""
    pairs = ((np.asarray(read_image(path)[0])[None], probabilities([read(path)[0]])) for path in files)
    return Comparison("image files", OF_FILES, len(files), pairs)


def save_checked(model: onnx.ModelProto, path: Path, comparisons: list[Comparison]) -> None:
    """Write the file if ONNX Runtime says with it what PyTorch says; BadInput is raised if it does not."""
    with partial_file(path) as partial:
        onnx.save(model, partial)
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        for comparison in comparisons:
            _compare(session, comparison)


def _compare(session: onnxruntime.InferenceSession, comparison: Comparison) -> None:
    largest, changed = 0.0, 0
    with progress(comparison.count, f"comparing {comparison.what}") as bar:
        for images, wanted in comparison.pairs:
            (found,) = session.run(None, {"image": images})
            largest = max(largest, float(np.abs(found - wanted).max()))
            changed += int((found.argmax(1) != wanted.argmax(1)).sum())
            bar.update(len(images))
    told = f"{comparison.count:,} {comparison.what}: largest difference of a probability {largest:.2g}"
    told += f", {changed} predictions changed"
    if not largest <= comparison.bound:
        bound = f"(at most {comparison.bound})"
        raise BadInput(f"ONNX Runtime and PyTorch differ too much, nothing is written; {told} {bound}")
    info(told)


def validation_images(run: Path, config: dict, options: dict, data: str | None, at_most: int) -> Split:
    """Return validation images of a run, at most so many, read from where they were, or from `data`.

    BadInput is raised if they are not there.
    """
    known = {field.name: options[field.name] for field in fields(Source) if field.name in options}  # of older runs few
    source = Source(**known | {"dataset": [config["dataset"]]} | ({"data": data} if data else {}))
    (images,) = source.read(config["stored_size"], config.get("fit", "crop"))
    try:
        with open(run / "val_predictions.npz", "rb") as file:
            wanted = set(np.load(io.BytesIO(file.read()), allow_pickle=False)["ids"].astype(str).tolist())
    except Exception as error:  # whatever is damaged in it
        raise BadInput(f"{run / 'val_predictions.npz'} cannot be read: which images validated is not known") from error
    split = images.splits.get("val", images.splits["train"])  # names can be the same in both
    places = [place for place, one in enumerate(split.dataset.ids) if str(one) in wanted][:at_most]
    if places:
        return Split(split.dataset, torch.tensor(places), split.hashes)
    raise BadInput(f"the validation images of {run} are not in its data set any more: say with --data where they are")
