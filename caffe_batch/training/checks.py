"""What training requires of a job, checked before anything is written or started."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path

from caffe_batch.device import Device
from caffe_batch.engines.base import Engine
from caffe_batch.errors import Call, InputError, Option, RuntimeMissingError, Text
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.registry import Registry
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.shared import Shared
from caffe_batch.prototxt import read_net
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.inspection import inspect, known


def check_gpu(device: Device | None, runtime: Runtime, engine: Engine, gpus: int = 1) -> None:
    """Refuses a GPU if the build has no GPU code, before a worker finds that out.

    Args:
        device: What was asked for; None leaves it to the engine.
        runtime: What it runs in.
        engine: What trains.
        gpus: How many GPUs train together, the first of which was asked for.

    Raises:
        InputError: A GPU was asked for, and the build has no GPU code; or there are fewer GPUs
            than the plan needs.
    """
    if device is None or device.is_cpu:
        return
    try:
        info = inspect(runtime, engine)
    except RuntimeMissingError:
        return  # the worker says what is wrong with it
    if not info.gpu:
        raise InputError(
            f"training on GPU {device.gpu} is not possible: this {engine.title} is built without "
            "GPU code",
            hint=[Option("cpu", True), " trains on the CPU."],
        )
    there = len(info.devices) - (device.gpu or 0)
    if 0 < there < gpus:  # else they weren't counted, and the worker says what is wrong
        raise InputError(
            f"the plan is for {gpus} GPUs, and {engine.title} sees {there} from GPU {device.gpu} "
            f"on: {'; '.join(info.devices)}",
            hint=[
                "Plan with ", Option("gpus", there), ": the effective batch stays the same, "
                "iter_size grows.",
            ],
        )  # fmt: skip


def check_accumulates(iter_size: int) -> None:
    """Refuses to measure the noise scale during a training whose updates are one micro-batch.

    Raises:
        InputError: iter_size is 1.
    """
    if iter_size < 2:
        raise InputError(
            [
                Option("noise_scale"),
                f" compares the micro-batches of an update, but iter_size is {iter_size}",
            ],
            hint=[
                Call("`caffe-batch noise NET`", "caffe_batch.noise(NET)"),
                " measures it without accumulation.",
            ],
        )


def check_measures_alone(gpus: int) -> None:
    """Refuses to measure the noise scale while several ranks share an update's micro-batches.

    Raises:
        InputError: There are several.
    """
    if gpus > 1:
        raise InputError(
            [Option("noise_scale"), f" measures on one GPU, and the plan is for {gpus}"],
            hint=[
                Call("`caffe-batch noise NET`", "caffe_batch.noise(NET)"),
                " measures it on one.",
            ],
        )


def check_counts_samples(batch_size: int | None) -> None:
    """Refuses to measure the noise scale if the samples of a micro-batch aren't known.

    Raises:
        InputError: They aren't: the files are trained as they are.
    """
    if batch_size is None:
        raise InputError(
            [
                Option("noise_scale"),
                " needs the number of samples in a micro-batch, which isn't known for files "
                "that are trained as they are",
            ],
            hint=[
                Call("`caffe-batch noise NET`", "caffe_batch.noise(NET)"),
                " measures it for a net whose batch is known.",
            ],
        )


def missing_files(net: Path, directory: Path, rules: Registry) -> list[str]:
    """The files and databases that a net names and that don't exist, with the layer.

    Args:
        net: The net's file.
        directory: Where relative paths start.
        rules: What the layer types do.
    """
    return [
        f"{file} (layer {layer!r})"
        for layer, file in dict.fromkeys(named_files(net, rules))
        if not (directory / file).exists()
    ]


def named_files(net: Path, rules: Registry) -> Iterator[tuple[str, str]]:
    """The files and databases that the layers of a net read, with the layers' names.

    Args:
        net: The net's file.
        rules: What the layer types do; what a type without a rule reads isn't known.
    """
    for layer in read_net(net, allow_unknown_fields=True).layer:
        rule = rules.get(layer.type)
        if rule is None:
            continue
        if rule.source:
            yield layer.name, getattr(layer, rule.message).source
        if "transform_param" in rule.messages() and layer.transform_param.mean_file:
            yield layer.name, layer.transform_param.mean_file


def check_own_types(files: Iterable[NetFile], engine: Engine) -> None:
    """Refuses nets with layers that an engine doesn't have in any runtime.

    Args:
        files: The nets of a recipe.
        engine: What should run them.

    Raises:
        InputError: There are such layers; names them all.
    """
    if engine.own_types is not None:
        _refuse_others(files, engine.own_types, engine.title, engine.types_hint)


def check_layer_types(
    files: Iterable[NetFile], engine: Engine, runtime: Runtime, *, fed: bool = False
) -> None:
    """Refuses nets with layers that the engine can't run in this runtime.

    Asking a runtime takes seconds. An engine that has the same types everywhere needn't be asked. A
    runtime that hasn't been asked yet was installed by caffe-batch and has every type of Caffe 1.0,
    so it is asked about other types only.

    Args:
        files: The nets that a worker will build.
        engine: What runs them.
        runtime: Where.
        fed: Whether the worker feeds the layers that wait for a program.

    Raises:
        InputError: There are such layers; names them all.
    """
    files = list(files)
    if engine.own_types is not None:
        check_own_types(files, engine)
        return
    info = known(runtime, engine)
    usual = all(layer.type in BUILT_IN for file in files for _, layer in file.selected())
    if info is None and engine.installable and usual:
        return
    types = engine.layer_types(info or inspect(runtime, engine))
    if fed:
        types |= {rule.type for file in files for _, _, rule in file.known() if rule.fed_by_program}
    who = f"{engine.title} in the runtime {runtime.name}"
    _refuse_others(files, types, who, engine.types_hint)


def _refuse_others(files: Iterable[NetFile], types: Container[str], who: str, hint: Text) -> None:
    """Refuses layers of any other type than these."""
    names: dict[str, dict[str, None]] = {}  # sets that keep their order
    for file in files:
        for _, layer in file.selected():
            if layer.type not in types:
                names.setdefault(layer.type, {})[layer.name] = None
    if names:
        listed = "; ".join(
            f"{kind} ({'layer' if len(each) == 1 else 'layers'} {', '.join(map(repr, each))})"
            for kind, each in names.items()
        )
        what = "this layer type" if len(names) == 1 else "these layer types"
        raise InputError(f"{who} doesn't have {what}: {listed}", hint=hint)


def check_is_fed(recipe: Recipe) -> None:
    """Refuses nets that wait for a program to give them their data: `train` isn't one.

    Real Caffe silently trains on the zeros of an Input layer, and aborts at a MemoryData layer.

    Raises:
        InputError: A layer of the train net, or of a test net, does.
    """
    for file in (recipe.train, *recipe.tests):
        for _, layer, rule in file.known():
            if rule.fed_by_program:
                raise InputError(
                    f"layer {layer.name!r} of type {layer.type} in the {file.phase} net waits for "
                    "a program to feed it, and there is none here",
                    hint="Train a net that reads the data itself (Data, ImageData, HDF5Data, "
                    "...); this one can be planned and measured, but not trained.",
                )


def check_ranks(gpus: int, engine: Engine) -> None:
    """Refuses a plan for more GPUs than an engine trains on.

    Raises:
        InputError: It is for more.
    """
    if engine.most_ranks is not None and gpus > engine.most_ranks:
        raise InputError(
            f"the plan is for {gpus} GPUs, but with {engine.title} train uses only one",
            hint=[
                "Plan with ", Option("gpus", 1), ": the effective batch stays the same, iter_size "
                "grows. Or with ", Option("engine", "pytorch"), ", which trains on all of them.",
            ],
        )  # fmt: skip


def check_precision(engine: Engine, precision: Precision) -> None:
    """Refuses a precision that an engine doesn't have.

    Raises:
        InputError: It has others.
    """
    if precision not in engine.precisions:
        raise InputError(
            f"{engine.title} calculates in {' or '.join(each.value for each in engine.precisions)},"
            f" not in {precision.value}",
            hint=[Option("engine", "pytorch"), " has it, or leave ", Option("precision"), " out."],
        )


def check_shared(engine: Engine, shared: Sequence[Shared]) -> None:
    """Refuses to count together what the GPUs of an engine each count for themselves.

    Raises:
        InputError: They do.
    """
    if shared and engine.most_ranks is not None:
        raise InputError(
            [
                Option("sync_batch_norm", True), " and ", Option("sync_valid", True),
                f" need another engine: each GPU of {engine.title} counts for itself",
            ],
            hint=[Option("engine", "pytorch"), " counts over all of them."],
        )  # fmt: skip
