"""A GPU for tests on machines that have none: it says what a real one would have waited for, and what it would refuse.

    with PretendGPU() as gpu:
        ex_1.main(["--device", "cuda", ...])
    gpu.waits      Counter of (what the process waited for, "file.py:line")
    gpu.launches   Counter of (operator, "file.py:line"): what a real GPU would be given to do
    gpu.bytes_up   copied to it so far

Its tensors say that they are on "cuda" and hold their numbers in main memory, where all the work is done. So results
are those of the CPU, no time can be measured, and what only C++ asks for, such as cuDNN's choices, is the CPU's too.
Threads that are begun within the block are not watched, and may work on tensors of the CPU alone.
"""

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from unittest import mock

import torch
from torch._C._distributed_c10d import Work, _create_work_from_future
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import _foreach_supported_types as optimized_at_once
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _foreach_supported_types as handled_at_once
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

GPU = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parent.parent
STAGED = 2**16  # bytes that the driver takes from ordinary memory at once; for more it waits, even if told not to

# The host has to learn a number before it can go on: a value, or the shape of the result.
WAITING = {
    "_local_scalar_dense", "_unique2", "argwhere", "bincount", "equal", "is_nonzero", "masked_select", "nonzero",
    "unique_consecutive", "unique_dim",
}  # fmt: skip
# What CUDA refuses under torch.use_deterministic_algorithms(True), as its documentation lists it.
NOT_REPEATABLE = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_upsample_bilinear2d_aa_backward",
    "adaptive_max_pool2d_backward", "avg_pool3d_backward", "fractional_max_pool2d_backward", "grid_sampler_2d_backward",
    "histc", "kthvalue", "max_unpool2d", "nll_loss2d_forward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "replication_pad2d_backward", "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward", "upsample_linear1d_backward", "upsample_trilinear3d_backward",
}  # fmt: skip
NO_WORK = ("_local_scalar_dense", "detach", "empty", "is_", "new_empty")  # beginnings of names of operators
MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda)
INDEXING = ("index", "index_put", "index_put_")
FROM_THE_HOST = (torch.tensor, torch.as_tensor, torch.asarray)


class Stream:
    """Work that is done in turn; `now` gets what there is to do, and may do it before that of others is done.

    `given` counts what it was given. It begins its next work when others have done as many as `awaited` says.
    """

    def __init__(self, *_):
        self.given, self.awaited = 0, {self: 0}

    def wait_stream(self, other):
        self.awaited[other] = other.given

    @classmethod
    @contextmanager
    def use(cls, stream):
        """Give `stream` what there is to do in the block."""
        before, cls.now = cls.now, stream
        try:
            yield
        finally:
            cls.now = before

    def check(self, tensor):
        """Refuse a tensor whose numbers may not be there yet, or whose memory may be used again too early."""
        if tensor.made_by is not self and self.awaited.get(tensor.made_by, 0) < tensor.made_as:
            raise RuntimeError("a stream does not wait for what another one makes")
        if self not in tensor.users:
            raise RuntimeError("the memory of a tensor may be used again before this stream has used it")


Stream.now = Stream()


class Event:
    """A moment in the work of a stream."""

    def record(self):
        """Note what there is to be done until then."""

    def query(self):
        """Tell whether it is done."""
        return True


class OnGPU(torch.Tensor):
    """A tensor on the pretend GPU; `numbers` is the tensor on the CPU that it stands for.

    For PyTorch's C++ it is a tensor on the CPU, and only Python is told otherwise: C++ would look for a driver.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device="cpu", **layout)

    def __init__(self, numbers):
        Stream.now.given += 1
        self.numbers, self.made_by, self.made_as, self.users = numbers, Stream.now, Stream.now.given, {Stream.now}

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a tensor on the pretend GPU, outside of its block or in another thread")

    def record_stream(self, stream):
        """Keep the memory until the work is done that `stream` is given before the tensor goes away."""
        self.users.add(stream)

    def untyped_storage(self):
        """The memory itself, which tells whether two tensors share it."""
        return self.numbers.untyped_storage()

    def __repr__(self):
        return f"OnGPU({self.numbers!r})"

    def __deepcopy__(self, memo):
        copy = OnGPU(self.numbers.clone()).requires_grad_(self.requires_grad)
        copy._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol):
        return self.cpu().__reduce_ex__(protocol)


for _types in (optimized_at_once, handled_at_once):  # lists of tensors, all by one call
    _types.append(OnGPU)


class PretendGPU(TorchFunctionMode):
    """See above. The machine has `count` GPUs, with so many bytes of `memory`, which only copies to it fill."""

    def __init__(self, count=1, memory=80 * 2**30):
        super().__init__()
        self.waits, self.launches, self.bytes_up = Counter(), Counter(), 0
        self._count, self._memory = count, memory
        self._at_work = False  # so that what C++ makes on the way lies on the GPU
        self._patches = ExitStack()

    def __enter__(self):
        for patch in self._changes():
            self._patches.enter_context(patch)
        changes_parameters = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # one on the CPU cannot become one of ours
        self._patches.callback(torch.__future__.set_overwrite_module_params_on_conversion, changes_parameters)
        self._patches.enter_context(_Operators(self))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def _changes(self):
        """Yield replacements of what asks the driver, or C++, which takes our tensors for those of the CPU."""
        yield mock.patch.multiple(
            torch.cuda,
            is_available=lambda: True,
            device_count=lambda: self._count,
            set_device=lambda device: None,
            current_device=lambda: 0,
            is_bf16_supported=lambda *_, **__: True,
            get_device_name=lambda *_: "a pretend GPU",
            mem_get_info=lambda *_: (self._memory - self.bytes_up, self._memory),
            max_memory_allocated=lambda *_: 0,
            reset_peak_memory_stats=lambda *_: None,
            is_current_stream_capturing=lambda: False,
            _lazy_init=lambda: None,
            manual_seed_all=lambda seed: None,
            get_rng_state=lambda *_: torch.zeros(16, dtype=torch.uint8),
            set_rng_state=lambda *_: None,
            synchronize=lambda *_: self.wait("synchronize"),
            Event=Event,
            Stream=Stream,
            stream=Stream.use,
            current_stream=lambda *_: Stream.now,
        )
        yield mock.patch.object(torch.Tensor, "pin_memory", _pinned)  # by threads too
        yield mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        autocast, group = torch.autocast, torch._C._group_tensors_by_device_and_dtype
        for name in ("_ddp_init_helper", "_pre_forward"):  # they make what gradients are gathered in to be sent
            yield mock.patch.object(DistributedDataParallel, name, self._at(getattr(DistributedDataParallel, name)))
        yield mock.patch.object(torch, "autocast", lambda _, *args, **kwargs: autocast("cpu", *args, **kwargs))
        yield mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", lambda *args: _by_device(group(*args)))

    def _at(self, method):
        """Return a method for which what C++ makes lies on the GPU."""

        @wraps(method)
        def wrapper(*args, **kwargs):
            with mock.patch.object(self, "_at_work", True):
                return method(*args, **kwargs)

        return wrapper

    # What is counted

    def wait(self, what):
        """Count that the process waits for the GPU."""
        self.waits[what, _where()] += 1

    def launch(self, name):
        """Count a piece of work for the GPU."""
        if not name.startswith(NO_WORK):
            self.launches[name, _where()] += 1

    def _note_copy(self, host, up, non_blocking):
        self.bytes_up += host.nbytes if up else 0
        is_pinned = getattr(host, "is_pretend_pinned", False)
        if not non_blocking or not (is_pinned or (up and host.nbytes <= STAGED)):
            self.wait("copy to the GPU" if up else "copy from the GPU")

    # What Python calls: functions of torch and methods of tensors

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        is_ours = bool(args) and isinstance(args[0], OnGPU)
        if func in MOVES:
            return self._move(func, *args, **kwargs)
        if is_ours and func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if is_ours and func is torch.Tensor.tolist:
            self.wait("tolist")
            return args[0].numbers.tolist()
        if kwargs.pop("pin_memory", False):
            return _pinned(func(*args, **kwargs))
        if func in FROM_THE_HOST and _is_gpu(kwargs.get("device")):
            return self._move(torch.Tensor.to, func(*args, **kwargs | {"device": "cpu"}), GPU)
        before, self._at_work = self._at_work, self._at_work or _any_ours(args, kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self._at_work = before

    def _move(self, func, tensor, *args, copy=False, **kwargs):
        """Do what `Tensor.to`, `cpu` and `cuda` do."""
        if func is not torch.Tensor.to:
            args, kwargs = (func.__name__,), kwargs | {"non_blocking": kwargs.get("non_blocking", False)}
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        is_ours = isinstance(tensor, OnGPU)
        if is_ours:
            Stream.now.check(tensor)
        settings = {"dtype": dtype or tensor.dtype, "memory_format": memory_format or torch.preserve_format}
        if device is None or _is_gpu(device) == is_ours:
            return torch.Tensor.to(tensor, copy=copy, **settings)
        assert not (tensor.requires_grad and torch.is_grad_enabled()), "no gradients pass from device to device here"
        self._note_copy(tensor, not is_ours, non_blocking)
        moved = torch.Tensor.to(_numbers(tensor).detach(), copy=True, **settings)
        return moved if is_ours else OnGPU(moved)

    # What C++ calls: operators

    def operate(self, func, args, kwargs):
        """Do the work of an operator."""
        name, tensors = func._schema.name.removeprefix("aten::"), _tensors((args, kwargs))
        is_for_gpu = _is_gpu(kwargs.get("device"))
        if is_for_gpu:
            kwargs = kwargs | {"device": torch.device("cpu")}
        if not _any_ours(tensors):
            made = func(*args, **kwargs)
            is_for_gpu = is_for_gpu or (self._at_work and not tensors and kwargs.get("device") is not None)
            if not isinstance(made, torch.Tensor) or not is_for_gpu:
                return made
            self.launch(name)
            return OnGPU(made)
        for tensor in filter(_any_ours, tensors):
            Stream.now.check(tensor)
        if name == "copy_" and isinstance(args[0], OnGPU) != isinstance(args[1], OnGPU):
            up = isinstance(args[0], OnGPU)
            self._note_copy(args[1] if up else args[0], up, args[2] if len(args) > 2 else False)
        else:
            self._check_devices(func, name, args, tensors)
            if not any(result.alias_info and not result.alias_info.is_write for result in func._schema.returns):
                self.launch(name)  # it is no view
        if name in WAITING or (name == "index" and _has_mask(args[1])):
            self.wait(name)
        if torch.are_deterministic_algorithms_enabled() and name in NOT_REPEATABLE:
            raise RuntimeError(f"{name} does not have a deterministic implementation")
        made = func(*_change(_numbers, args), **_change(_numbers, kwargs))
        if func.namespace == "c10d":  # a message between processes, which a GPU sends while others go on
            Work.unbox(made[-1]).wait()
            return (*_change(_ours, made[:-1]), _done(args[0]).boxed())
        return return_and_correct_aliasing(func, args, kwargs, _change(_ours, made))

    def _check_devices(self, func, name, args, tensors):
        """Refuse tensors of the CPU, but for single numbers, and for indices, which are copied first."""
        of_cpu = [tensor for tensor in tensors if not isinstance(tensor, OnGPU)]
        takes_numbers = torch.Tag.pointwise in func.tags or name == "fill_"
        if of_cpu and name in INDEXING and isinstance(args[0], OnGPU):
            self.wait("copy of indices to the GPU")
        elif of_cpu and name == "where" and not any(tensor.dim() for tensor in of_cpu):
            self.wait("copy to the GPU")  # others get such a number along with their work
        elif any(tensor.dim() or not takes_numbers for tensor in of_cpu):
            shapes = [tuple(tensor.shape) for tensor in of_cpu]
            raise RuntimeError(f"{func}: not all tensors are on the same device; on the CPU are those of {shapes}")


class _Operators(TorchDispatchMode):
    """Shows a `PretendGPU` all operators, those that C++ calls too."""

    def __init__(self, gpu):
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self._gpu.operate(func, args, kwargs or {})


def _where():
    """Return the line of the project that is being executed."""
    frame = sys._getframe(2)
    while frame is not None:
        if path := _path_here(frame.f_code.co_filename):
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@lru_cache(None)
def _path_here(filename):
    """Return where in the project a file is; None: elsewhere, or this one."""
    path = Path(filename)
    if filename == __file__ or not path.is_relative_to(ROOT) or "site-packages" in path.parts:
        return None
    return path.relative_to(ROOT).as_posix()


def _pinned(tensor):
    """Return a copy that can go to and from the GPU while both work."""
    copy = tensor.clone()
    copy.is_pretend_pinned = True
    return copy


def _is_gpu(device):
    return device is not None and torch.device(device).type == "cuda"


def _tensors(value):
    """Return all tensors in lists, tuples and dicts within one another."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for each in inner for tensor in _tensors(each)]


def _any_ours(*values):
    return any(isinstance(tensor, OnGPU) for tensor in _tensors(values))


def _change(change, value):
    """Return `value` with `change(what)` instead of all that is in lists, tuples and dicts within one another."""
    if isinstance(value, dict):
        return {name: _change(change, each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_change(change, each) for each in value])
    return change(value)


def _numbers(value):
    return value.numbers if isinstance(value, OnGPU) else value


def _ours(value):
    return OnGPU(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGPU) else value


def _done(result):
    """Return what waits for a message that has arrived."""
    future = torch.futures.Future()
    future.set_result(result)
    return _create_work_from_future(future)


def _has_mask(indices):
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _by_device(groups):
    """Return what groups tensors by (device, type) with the device that our tensors say they are on."""
    return {(lists[0][0].device, dtype): (lists, places) for (_, dtype), (lists, places) in groups.items()}
