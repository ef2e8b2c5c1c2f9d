"""Sources that are read side by side: which data layers' records are combined."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.net.graph import Net


def read_together(net: Net) -> Iterator[tuple[str, str]]:
    """Pairs of layers without bottoms whose samples meet in a layer; names, each pair once.

    Blobs joined along the axis of the samples don't make them meet: each sample stays on its own.
    """
    origins: dict[int, frozenset[str]] = {}
    found: dict[tuple[str, str], None] = {}
    order = {node.layer.name: number for number, node in enumerate(net.nodes)}
    for node in net.nodes:
        if not node.bottoms:
            names = frozenset([node.layer.name])
        else:
            names = frozenset[str]().union(*(origins.get(bottom, ()) for bottom in node.bottoms))
            if node.rule.coupling(node.site).along != 0:
                meeting = sorted(names, key=lambda name: order[name])
                for number, first in enumerate(meeting):
                    for second in meeting[number + 1 :]:
                        found.setdefault((first, second))
        for top in node.tops:
            origins[top] = names
    yield from found
