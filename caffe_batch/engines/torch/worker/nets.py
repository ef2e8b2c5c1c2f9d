"""The nets of a worker with their data layers, built in Caffe's order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caffe_batch.engines.torch.data.feeds import Feed
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.net import Pass, TorchNet
from caffe_batch.engines.torch.refusals import check_runs
from caffe_batch.errors import InputError, InputShapeError
from caffe_batch.net.graph import Net, Node
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2

#: Fills the tops of a layer that no file feeds; by name.
Filling = Callable[[], Mapping[str, Tensor]]


class FedNet:
    """A net, and the data layers that feed it.

    Args:
        file: The net as it is written.
        graph: The same, built.
        opener: Opens its data layers.
        device: Where it runs.
        draws: Caffe's random numbers.
        precision: As in the worker's settings.
        trained: The train net, for a test net.
        filling: Fills the tops that no file feeds; None if there must be none.
        dtype: The type of its numbers.

    Attributes:
        net: The net.
        feeds: Its data layers, in order.
    """

    def __init__(
        self,
        file: NetFile,
        graph: Net,
        opener: Opener,
        *,
        device: torch.device,
        draws: Draws,
        precision: str,
        trained: TorchNet | None = None,
        filling: Filling | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.feeds: list[Feed] = []
        self._tops: list[tuple[str, ...]] = []
        self._device, self._half = device, precision == "bf16"
        self._filling = filling
        if filling is None:
            check_runs(graph)

        def at_data(node: Node, message: caffe_pb2.LayerParameter) -> None:
            if not opener.reads(message.type):
                return  # it is filled
            try:
                source = opener.open(message, file.phase)
            except InputError as error:
                raise InputError(
                    f"layer {message.name!r}: {error.message}", hint=error.hint_parts
                ) from error
            self.feeds.append(Feed(message.name, source, device))
            self._tops.append(tuple(graph.blobs[top].name for top in node.tops))

        self.net = TorchNet.of_file(
            file,
            graph,
            device=device,
            dtype=dtype,
            draws=draws,
            trained=trained,
            at_data=at_data,
        )

    def forward(self, keep: Collection[str] = ()) -> Pass:
        """A forward pass over the next batch.

        Args:
            keep: Names of blobs to return as well.

        Raises:
            InputError: A record can't be read; the layer is named.
        """
        with self.calculating():
            return self.net.forward(self.next_tops(), keep)

    def next_tops(self) -> dict[str, Tensor]:
        """What the data layers give to the next pass, by blob.

        Raises:
            InputError: As :meth:`forward`.
        """
        fed: dict[str, Tensor] = dict(self._filling()) if self._filling else {}
        for feed, names in zip(self.feeds, self._tops, strict=True):
            try:
                tops = feed.next()
            except InputError as error:
                raise InputError(
                    f"layer {feed.name!r}: {error.message}", hint=error.hint_parts
                ) from error
            fed |= {name: top.to(self.net.dtype) for name, top in zip(names, tops, strict=True)}
        return fed

    def calculating(self) -> AbstractContextManager[Any]:
        """The context of its passes: their precision."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half)

    def close(self) -> None:
        """End the threads that read."""
        for feed in self.feeds:
            feed.close()


#: Where a worker finds files: from its working directory, as Caffe does.
HERE = Sources((Path(),))


def graphs_of(files: Sequence[NetFile]) -> list[Net]:
    """The nets of some files.

    All of them must be looked at before the first database is opened for good: neither library
    opens one twice.

    Raises:
        InputError: Caffe would refuse one of them, or its data can't be read.
    """
    try:
        return [file.build(file.layers(HERE)) for file in files]
    except InputShapeError as error:
        cause = error.__cause__
        if not isinstance(cause, InputError):
            raise
        # A plan could do without the data, and names the option for that; a training can't.
        raise InputError(
            f"layer {error.layer!r}: {cause.message}", hint=cause.hint_parts
        ) from error
