"""A trained net on its whole test set: what it scores, by class, and where it errs most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from caffe_batch.datasets import DESCRIPTION, read_dataset
from caffe_batch.deploying.preprocessing import Origin, origin_of
from caffe_batch.deploying.transformation import Output, deployed
from caffe_batch.errors import InputError, Option
from caffe_batch.experiments.inference import Inference, Run, run_forward
from caffe_batch.layers.facts import SourceKind
from caffe_batch.net.batch import batch_size
from caffe_batch.net.data.database import open_database
from caffe_batch.net.data.listing import read_lines
from caffe_batch.net.graph import Net
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.records import count_records
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.trained import Trained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Passes if nothing says how many records there are.
_PASSES = 100
#: An output of a test net with more elements than this is no score.
_MOST_ELEMENTS = 32


@dataclass(frozen=True)
class ClassScore:
    """How a class was recognised.

    Attributes:
        label, name: The class.
        records: Its samples (of a segmentation: places).
        recall: The share of them that was recognised; None if there are none.
        precision: The share of those taken for it that are; None if none was.
        overlap: Those recognised as a share of both together (intersection over union); None if
            there are none.
    """

    label: int
    name: str
    records: int
    recall: float | None
    precision: float | None
    overlap: float | None


@dataclass(frozen=True)
class Mistake:
    """A sample that the net is wrong about.

    Attributes:
        record: Its number in the source, from 0.
        name: The record's key or path; empty if it isn't known.
        label, guess: The class and what it was taken for; -1 for a segmentation.
        loss: The cross-entropy; of a segmentation the mean over its places.
        wrong: The share of its places that are wrong; 1 for a single answer.
        scores: The probabilities of all classes; None for a segmentation.
        pixels: The picture (height, width, channels); None if it is none.
    """

    record: int
    name: str
    label: int
    guess: int
    loss: float
    wrong: float
    scores: NDArray[np.float64] | None = None
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Judged:
    """How a net's classes agree with the labels.

    Attributes:
        confusion: How often class i (row) was taken for class j (column).
        top_k: The share of labels among the k highest scores, by k, as Caffe's Accuracy counts.
        loss: The mean cross-entropy.
        samples: Samples that were tested.
        counted: Their labels that count.
        ignored: Those that are to be ignored.
        outside: Those that are no class of the net.
        classes: Each class.
        mistakes: The worst ones, the worst first.
        is_map: Whether there is an answer for each place of a picture.
    """

    confusion: NDArray[np.int64]
    top_k: Mapping[int, float]
    loss: float
    samples: int
    counted: int
    ignored: int
    outside: int
    classes: tuple[ClassScore, ...]
    mistakes: tuple[Mistake, ...]
    is_map: bool

    @property
    def mean_overlap(self) -> float | None:
        """The mean intersection over union of the classes that there are."""
        found = [each.overlap for each in self.classes if each.overlap is not None]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class NetTest:
    """What a test gave.

    Attributes:
        outputs: The mean of each value of the TEST net's outputs over all passes, by name.
        judged: How its classes agree with the labels; None for a net without classes.
        samples, passes: Those that were run.
        labels: Names of the classes; empty if they aren't known.
        notes: What there is to know.
    """

    outputs: Mapping[str, tuple[float, ...]]
    judged: Judged | None
    samples: int
    passes: int
    labels: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Comparison:
    """What is compared with labels, and how."""

    output: Output
    labels: str
    axis: int
    ignore: int | None
    samples: int


def run_test(
    trained: Trained,
    weights: Path,
    how: Inference,
    *,
    data: Path | None = None,
    top_k: Sequence[int] = (1, 5),
    worst: int = 24,
) -> NetTest:
    """Run a TEST net over its whole data once.

    Args:
        trained: The net.
        weights: Its weights.
        how: What runs it.
        data: Other data than its own: a data set, a database, a list; None for its own.
        top_k: The numbers of guesses to count; those above the number of classes are left out.
        worst: How many of the worst mistakes to keep.

    Raises:
        InputError: The data can't be read or doesn't fit.
        TrainingError: The worker ended early.
    """
    notes: list[str] = []
    sources = trained.sources
    file = trained.test if data is None else _with_data(trained.test, data)
    layers = file.layers(sources, allow_unknown=trained.plan.allow_unknown)
    net = file.build(layers)
    size = batch_size(layers)
    records = count_records(file, sources)
    if records is None:
        iterations = list(trained.recipe.solver.test_iter[:1]) or [_PASSES]
        passes = iterations[0]
        notes.append(f"how many records there are isn't known: {passes} passes were run")
    else:
        passes = -(-records // size)
    made = deployed(file, sources, allow_unknown=trained.plan.allow_unknown)
    origins = {
        name: origin_of(file, made.data_layers[name], shape, sources)
        for name, shape in made.inputs.items()
    }
    names = _names(origins, data)
    compared = _compared(file, net, made.outputs)
    picture = next((name for name, each in origins.items() if each.preprocessing), None)
    scalars = _scalar_outputs(net)
    collect: dict[str, Any] = {"values": scalars}
    if compared is not None:
        _check_classes(names, compared.output.shape[compared.axis], data)
        whole = compared.samples != size or records is None
        classes = compared.output.shape[compared.axis]
        collect["judged"] = {
            "scores": compared.output.source,
            "labels": compared.labels,
            "axis": compared.axis,
            "ignore": compared.ignore,
            "probabilities": compared.output.probabilities and not compared.output.made_by,
            "records": passes * compared.samples if whole else records,
            "pictures": picture,
            "worst": worst,
            "top_k": [k for k in sorted(set(top_k)) if k <= classes],
        }
    with TemporaryDirectory(prefix="caffe-batch-") as place:
        ran = run_forward(
            [Run(file, passes, collect)],
            [weights],
            how,
            Path(place).resolve(),
            trained.directory,
            rules=file.rules,
            rule_files=[Path(each) for each in trained.plan.rules],
        )
    (found,) = ran.results
    notes += ran.notes
    judged = None
    if compared is not None:
        origin = origins[picture] if picture is not None else None
        shown = _Shown(file, made.data_layers.get(picture or ""), origin, sources)
        judged = _judged(found, collect["judged"], names, shown, is_map=compared.output.is_map)
        if judged.outside:
            notes.append(f"{judged.outside:,} labels are no class of the net, and count nowhere")
    means = {
        name: tuple(float(each) for each in found[f"values:{name}"].reshape(passes, -1).mean(0))
        for name in scalars
    }
    if means and records is not None and passes * size != records:
        notes.append(
            f"the last pass begins the data again, as in Caffe's tests: the net's own outputs are "
            f"means over {passes * size:,} samples, all else is over {records:,}"
        )
    samples = records if records is not None else passes * size
    return NetTest(means, judged, samples, passes, names, tuple(notes))


def _scalar_outputs(net: Net) -> list[str]:
    """The named outputs of a TEST net that are scores: with few elements."""
    read = {index for node in net.nodes for index in node.bottoms}
    return [
        blob.name
        for index, blob in enumerate(net.blobs)
        if index not in read and blob.name[:1] != "(" and _elements(blob.shape) <= _MOST_ELEMENTS
        and any(index in node.tops and node.bottoms for node in net.nodes)
    ]  # fmt: skip


def _elements(shape: Sequence[int]) -> int:
    number = 1
    for size in shape:
        number *= size
    return number


def _compared(file: NetFile, net: Net, outputs: Sequence[Output]) -> _Comparison | None:
    """The first output whose classes a loss or a score compares with labels."""
    nodes = [node for node in net.nodes if node.layer.rule is not None]
    for output in outputs:
        if not output.classes:
            continue
        for (_, message), node in zip(file.selected(), nodes, strict=True):
            labels = node.rule.labels(node.site)
            reads = output.source in message.bottom or output.name in message.bottom
            if labels is None or labels.classes is None or not reads:
                continue
            axis = int(getattr(node.site.settings, "axis", 1)) % len(node.site.bottoms[0])
            source = message.bottom[0]
            made_by = output.made_by if source == output.source else ""
            return _Comparison(
                replace(output, source=source, made_by=made_by, shape=node.site.bottoms[0]),
                message.bottom[labels.bottom],
                axis,
                labels.ignore,
                node.site.bottoms[0][0],
            )
    return None


def _with_data(file: NetFile, data: Path) -> NetFile:
    """A TEST net that reads other data.

    Raises:
        InputError: There is no such data, or the net reads data of another kind.
    """
    if not data.exists():
        raise InputError([Option("data", str(data)), ": no such file or folder"])
    source = data
    if (data / DESCRIPTION).is_file():
        dataset = read_dataset(data)
        source = dataset.path((dataset.test or dataset.train).source)
    message = caffe_pb2.NetParameter()
    message.CopyFrom(file.message)
    changed = replace(file, message=message)
    wanted = (SourceKind.DATABASE,) if source.is_dir() else tuple(SourceKind)
    for _, layer, rule in changed.known():
        if rule.source is None:
            continue
        if rule.source.kind not in wanted or (
            source.is_file() and rule.source.kind is SourceKind.DATABASE
        ):
            raise InputError(
                f"{data} isn't what layer {layer.name!r} of type {layer.type} reads",
                hint="Give a database for a Data layer, a list for the others.",
            )
        own: Any = getattr(layer, rule.message)
        own.source = str(source.resolve())
        if layer.HasField("data_param"):
            lmdb = (source / "data.mdb").is_file()
            kinds = caffe_pb2.DataParameter
            layer.data_param.backend = kinds.LMDB if lmdb else kinds.LEVELDB
        return changed
    raise InputError([Option("data", str(data)), ": no layer of the TEST net reads a source"])


def _names(origins: Mapping[str, Origin], data: Path | None) -> tuple[str, ...]:
    """The names of the classes, from the data set."""
    for origin in origins.values():
        if origin.labels is not None and origin.labels.is_file():
            text = origin.labels.read_text(encoding="utf-8", errors="surrogateescape")
            return tuple(text.removesuffix("\n").split("\n"))
    return ()


def _check_classes(names: Sequence[str], classes: int, data: Path | None) -> None:
    if names and len(names) != classes:
        whose = f"{data} has" if data else "the data has"
        raise InputError(
            f"{whose} {len(names)} classes, and the net tells {classes} apart",
            hint="Test it on data with the classes that it was trained for.",
        )


@dataclass(frozen=True)
class _Shown:
    """What is known of the records, to show them."""

    file: NetFile
    layer: str | None
    origin: Origin | None
    sources: Sources

    def names(self, records: Sequence[int]) -> dict[int, str]:
        """The keys or paths of some records, as far as their order is known."""
        found = next((e for e in self.file.known() if e[1].name == self.layer), None)
        if found is None or not records:
            return {}
        _, message, rule = found
        own: Any = getattr(message, rule.message)
        if rule.source is None or own.rand_skip:
            return {}
        path = self.sources.find(own.source)
        if rule.source.kind is SourceKind.IMAGE_LIST and not own.shuffle:
            lines = read_lines(path)
            return {
                each: lines[each].rsplit(None, 1)[0].decode(errors="backslashreplace")
                for each in records
                if each < len(lines)
            }
        if rule.source.kind is not SourceKind.DATABASE:
            return {}
        wanted, names = set(records), dict[int, str]()
        lmdb = own.backend == caffe_pb2.DataParameter.LMDB
        with open_database(path, lmdb=lmdb) as database:
            for number, (key, _) in enumerate(islice(database.forward(), max(wanted) + 1)):
                if number in wanted:
                    names[number] = key.decode(errors="backslashreplace")
        return names

    def pixels(self, values: Any) -> Any:
        """The picture that an input was made of; None if it is none."""
        import numpy as np

        if self.origin is None or self.origin.preprocessing is None:
            return None
        mean = None
        if self.origin.mean is not None:
            blob = caffe_pb2.BlobProto.FromString(self.origin.mean.read_bytes())
            flat = np.array(blob.double_data or blob.data, np.float32)
            sizes = blob.shape.dim or (blob.channels, blob.height, blob.width)
            mean = flat.reshape(tuple(sizes)[-3:])
        return self.origin.preprocessing.shown(values, mean)


def _judged(
    found: Mapping[str, Any],
    asked: Mapping[str, Any],
    names: Sequence[str],
    shown: _Shown,
    *,
    is_map: bool,
) -> Judged:
    import numpy as np

    confusion = found["judged:confusion"]
    samples, counted, ignored, outside = map(int, found["judged:counts"])
    worst = found["judged:worst"]
    keys = shown.names([int(row[1]) for row in worst])
    mistakes = []
    for number, (loss, record, label, guess, wrong) in enumerate(worst):
        values = found.get(f"judged:picture{number}")
        mistakes.append(
            Mistake(
                record=int(record),
                name=keys.get(int(record), ""),
                label=int(label),
                guess=int(guess),
                loss=float(loss),
                wrong=float(wrong),
                scores=found["judged:scores"][number] if "judged:scores" in found else None,
                pixels=None if values is None else shown.pixels(values),
            )
        )
    rows, columns = confusion.sum(axis=1), confusion.sum(axis=0)
    hits = np.diagonal(confusion)
    classes = tuple(
        ClassScore(
            label,
            names[label] if label < len(names) else str(label),
            int(rows[label]),
            _share(hits[label], rows[label]),
            _share(hits[label], columns[label]),
            _share(hits[label], rows[label] + columns[label] - hits[label]),
        )
        for label in range(len(confusion))
    )
    return Judged(
        confusion=confusion,
        top_k={
            k: float(hit) / max(1, counted)
            for k, hit in zip(asked["top_k"], found["judged:hits"], strict=True)
        },
        loss=float(found["judged:loss"]) / max(1, counted),
        samples=samples,
        counted=counted,
        ignored=ignored,
        outside=outside,
        classes=classes,
        mistakes=tuple(mistakes),
        is_map=is_map,
    )


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None
