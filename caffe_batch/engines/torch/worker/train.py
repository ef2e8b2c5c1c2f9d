"""Runs one training, for the supervisor. Beside what main.py lists, the settings have

solver           the job's solver.prototxt
job              the job directory; nets named in the solver are looked for in it first
snapshots        folder of the snapshots
resume           solverstate to continue from, or null
weights          .caffemodel files for update 0, loaded one after the other
log, log_bytes   where stdout and stderr go, and at which size a new file is started
record_every     updates per loss record
frozen           with the noise scale: (name of the layer, index) of each parameter whose
                 lr_mult is 0; null without
max_loss         a loss above it counts as diverged, as nan and inf always do; or null
snapshot_at_tests  whether to take a snapshot of the weights of each test
samples          how many samples each net has read, the train net's first; null at update 0
rules            files with the rules of layers
fork             the fork of Caffe whose types these are, or null
ranks            how many processes train together
shared           what these count together: "batch_norm", "valid"
patience_s       seconds after which a rank that doesn't answer is lost
rank             with several, the place of this one (ranks/launch.py); absent in the launcher
"""  # noqa: D400, D415  # a list

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from caffe_batch import __version__
from caffe_batch.engines.caffe.data_position import drawn_anew
from caffe_batch.engines.caffe.inside.trained_weights import without_weights
from caffe_batch.engines.caffe.snapshots import snapshot_of
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers.batch_norm import BatchNorm
from caffe_batch.engines.torch.layers.python import with_python
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.ranks.group import (
    RankLostError,
    Ranks,
    all_or_none,
    check_alike,
    join,
)
from caffe_batch.engines.torch.ranks.statuses import LOST_STATUS, RANKS
from caffe_batch.engines.torch.snapshots import load_weights, read_state, restore_history
from caffe_batch.engines.torch.update import Update
from caffe_batch.engines.torch.worker.devices import (
    NoDeviceError,
    choose_device,
    device_name,
    set_precision,
)
from caffe_batch.engines.torch.worker.micro_gradients import MicroGradients, NoiseSampler
from caffe_batch.engines.torch.worker.moments import Surroundings, of_rank, read_moment
from caffe_batch.engines.torch.worker.nets import HERE, FedNet, graphs_of
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.solving import DivergedError, Rates, Trained, Training
from caffe_batch.engines.torch.worker.speech import Events, log
from caffe_batch.engines.torch.worker.starting import started
from caffe_batch.errors import InputError
from caffe_batch.layers.loading import rules_with
from caffe_batch.net.reading import follow_solver
from caffe_batch.net.recipe import Recipe
from caffe_batch.prototxt import read_solver
from caffe_batch.schema import caffe_pb2

INTERRUPTED_STATUS, DIVERGED_STATUS, FAILED_STATUS = 40, 41, 1


def main(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    """Train; returns the worker's exit status."""
    try:
        return _train(settings, events, requests)
    except RankLostError as error:
        log(error.message, f"{RANKS}:1", "W")
        return LOST_STATUS


def _train(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    recipe = job_recipe(settings)
    solver = recipe.solver
    try:
        device, choice = choose_device(settings, solver)
    except NoDeviceError as error:
        events.send("refused", why=error.message, wants="device")
        return FAILED_STATUS
    choices = [choice, set_precision(settings["precision"], device), *left_out(solver)]
    started(events, device_name(device), [each for each in choices if each])
    ranks = join(settings, device)
    check_alike(ranks, _same_for_all(settings, recipe))
    resume = snapshot_of(Path(settings["resume"])) if settings["resume"] else None
    moment = read_moment(resume) if resume else None
    seed = moment.facts["seed"] if moment else solver.random_seed
    draws = Draws(ranks.given(CaffeRandom(seed).seed))
    torch.manual_seed(draws.seed + ranks.rank)
    opener = Opener(draws, HERE.find, ranks.rank, ranks.size)
    nets: list[FedNet] = []
    files = (recipe.train, *recipe.tests)
    with all_or_none(ranks):
        for file, graph in zip(files, graphs_of(files), strict=True):
            nets.append(
                FedNet(
                    file,
                    graph,
                    opener,
                    device=device,
                    draws=draws,
                    precision=settings["precision"],
                    trained=nets[0].net if nets else None,
                )
            )
    count_together(nets[0].net, ranks, settings["shared"])
    if ranks.rank:  # what is drawn from now on differs, as in Caffe (solver.cpp, Init)
        draws.state = CaffeRandom(draws.seed + ranks.rank).state
    surroundings = Surroundings(draws, opener, nets, device)
    update, rates = Update(solver, nets[0].net.params), Rates(solver)
    choices = []
    done = 0
    if resume:
        with all_or_none(ranks):
            state = read_state(resume.state)
            load_weights(resume.weights, [net.net for net in nets])
            restore_history(resume.state, state, update.history)
        done, rates.step = state.update, state.current_step
        own = of_rank(moment, ranks.rank, ranks.size) if moment else None
        if not (own and surroundings.return_to(own)):
            choices += drawn_anew(recipe.train, _without_moment(resume))
            if settings["samples"]:
                surroundings.skip(settings["samples"])
    else:
        try:
            with all_or_none(ranks):
                fresh = start_from(weight_files(solver, settings["weights"]), nets)
        except InputError as error:
            events.send("refused", why=error.message, wants="weights")
            return FAILED_STATUS
        choices += [without_weights(fresh)] if fresh else []
    noise = None
    if settings["frozen"] is not None:
        measured = MicroGradients(nets[0].net, [(name, i) for name, i in settings["frozen"]])
        noise = NoiseSampler(measured, settings["record_every"], events.send)
    large = [
        (number, output.name, output.elements)
        for number, net in enumerate(nets[1:])
        for output in net.net.outputs
        if output.elements > 1
    ]
    events.send("built", update=done, choices=choices, large_outputs=large)
    made = Trained(solver, nets[0], nets[1:], update, rates, surroundings, ranks)
    training = Training(made, events, requests, settings, done, noise)
    with ExitStack() as at_end:  # a thread that still reads can keep Python from ending
        at_end.callback(opener.close)
        at_end.callback(ranks.close)
        for net in nets:
            at_end.callback(net.close)
        try:
            finished = training.solve()
        except DivergedError as found:
            events.send("diverged", update=training.done, loss=found.loss)
            return DIVERGED_STATUS
        events.send("finished" if finished else "stopped", update=training.done)
    return 0 if finished else INTERRUPTED_STATUS


def count_together(net: TorchNet, ranks: Ranks, shared: Sequence[str]) -> None:
    """Let layers of a train net count over the samples of all ranks.

    Args:
        net: The net.
        ranks: All of them.
        shared: What they share: ``"batch_norm"``, ``"valid"``.
    """
    if ranks.size == 1:
        return
    for layer in net.running:
        if ("batch_norm" if isinstance(layer, BatchNorm) else "valid") in shared:
            layer.together = ranks


def _same_for_all(settings: Mapping[str, Any], recipe: Recipe) -> dict[str, str]:
    """What all ranks need alike, by what it is called."""
    files = (
        Path(settings["solver"]).read_bytes(),
        *(
            file.message.SerializeToString(deterministic=True)
            for file in (recipe.train, *recipe.tests)
        ),
    )
    return {
        "torch": str(torch.__version__),
        "caffe-batch": __version__,
        "the recipe": hashlib.sha256(b"".join(files)).hexdigest()[:12],
        "the snapshot": str(settings["resume"]),
        "common counts": " and ".join(settings["shared"]) or "none",
    }


def _without_moment(snapshot: Snapshot) -> str:
    """Why a snapshot doesn't say where its random numbers were."""
    if not snapshot.moment.exists():
        return "as the snapshot was taken by another engine, or without their state"
    return f"as {snapshot.moment.name} is damaged, or belongs to other weights or another net"


def left_out(solver: caffe_pb2.SolverParameter) -> Iterator[str]:
    """What a solver asks for and isn't done, a sentence each; the training is the same."""
    if solver.debug_info:
        yield (
            "solver.prototxt says debug_info: PyTorch leaves that out, so the log doesn't list the "
            "mean absolute values of blobs and gradients."
        )


def job_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The solver with nets and snapshots in the job directory, and its nets.

    Raises:
        InputError: They can't be read.
    """
    path, job = Path(settings["solver"]), Path(settings["job"])
    solver = read_solver(path, allow_unknown_fields=True)

    def inside(name: str) -> str:
        own = job / os.path.basename(name)
        return str(own) if own.is_file() else name

    for field in ("net", "train_net"):
        if solver.HasField(field):
            setattr(solver, field, inside(getattr(solver, field)))
    solver.test_net[:] = [inside(name) for name in solver.test_net]
    stem = os.path.basename(solver.snapshot_prefix) or "snapshot"
    solver.snapshot_prefix = str(Path(settings["snapshots"]) / stem)
    rules = with_python(rules_with(settings["rules"], settings.get("fork")))
    return follow_solver(solver, path, allow_unknown_fields=True, rules=rules)


def weight_files(solver: caffe_pb2.SolverParameter, given: Sequence[str]) -> list[Path]:
    """The weights to start from: those that the solver names (solver.cpp, LoadNetWeights) first."""
    named = [name.strip() for names in solver.weights for name in names.split(",")]
    return [Path(name) for name in (*named, *given)]


def start_from(files: Sequence[Path], nets: Sequence[FedNet]) -> list[str]:
    """Load weights; returns the layers with parameters that no file has.

    Raises:
        InputError: A file has nothing for the train net, or doesn't fit it.
    """
    if not files:
        return []
    own = [layer.name for layer in nets[0].net.layer_blobs if layer.blobs]
    loaded: set[str] = set()
    for path in files:
        found = load_weights(path, [net.net for net in nets])
        if not found:
            raise InputError(
                f"no layer of the net has weights in {path}", hint="Give weights of this net."
            )
        loaded |= found
    return [name for name in dict.fromkeys(own) if name not in loaded]
