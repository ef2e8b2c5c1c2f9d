"""Pictures through a net for inference, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from caffe_batch.deploying.folder import Deployment, Input
from caffe_batch.deploying.transformation import Output, inference_file
from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.experiments.deployment import with_inputs
from caffe_batch.experiments.inference import Inference, Run, run_forward
from caffe_batch.files import read_regular
from caffe_batch.layers.base import Shape
from caffe_batch.layers.registry import Registry
from caffe_batch.net.data.blob_file import blob_shape
from caffe_batch.net.graph import build
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import read_net
from caffe_batch.schema import caffe_pb2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

#: As many bytes of pictures go to a worker at once.
PORTION_BYTES = 256 << 20


@dataclass(frozen=True)
class Picture:
    """A picture that was asked about.

    Attributes:
        name: What it is called: its path, or ``-``.
        data: The file's bytes, if they are known already.
    """

    name: str
    data: bytes | None = None

    def read(self) -> bytes:
        """The bytes of its file.

        Raises:
            InputError: It can't be read.
        """
        if self.data is not None:
            return self.data
        try:
            return read_regular(Path(self.name))
        except OSError as error:
            raise InputError(f"{self.name} can't be read: {error.strerror}") from error


@dataclass(frozen=True)
class Answer:
    """What the net says of a picture.

    Attributes:
        picture: What the picture is called.
        size: Its height and width; None if it can't be read.
        values: Each wanted blob's values for it, by name.
        classes: For each map of classes, the class at each place, by name of the output.
        problem: Why it couldn't be used; empty if it could.
    """

    picture: str
    size: tuple[int, int] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Classifier:
    """A net for inference that takes pictures.

    Args:
        deployment: The net.
        how: What runs it.
        rules: What its layer types do.
        rule_files: The files with rules of the user's.
        batch_size: Pictures of a pass.
        blobs: Names of blobs whose values are wanted instead of the outputs'.

    Attributes:
        notes: What was done on the way, each once.

    Raises:
        InputError: The net doesn't take pictures, or has no such blob.
    """

    def __init__(
        self,
        deployment: Deployment,
        how: Inference,
        rules: Registry,
        rule_files: Iterable[Path] = (),
        *,
        batch_size: int = 32,
        blobs: Sequence[str] = (),
    ) -> None:
        self._deployment, self._how, self._rules = deployment, how, rules
        self._rule_files, self._batch = tuple(rule_files), batch_size
        self._net = read_net(deployment.net, allow_unknown_fields=True)
        self._input = _only_input(deployment)
        assert self._input.preprocessing is not None  # noqa: S101  # checked by _only_input
        self._preprocessing = self._input.preprocessing
        self._mean = _mean(deployment, self._input)
        self._parameters = self._shapes(self._input.shape)[1]
        self._own_size: dict[tuple[int, ...], bool] = {}
        self.notes: list[str] = []
        self._collect = self._wanted(blobs)

    def _wanted(self, blobs: Sequence[str]) -> dict[str, Any]:
        known = self._shapes(self._input.shape)[0]
        for blob in blobs:
            if blob not in known:
                from caffe_batch.errors import did_you_mean

                there = [name for name in known if "_split_" not in name]
                raise InputError(
                    f"the net has no blob {blob!r}",
                    hint=did_you_mean(blob, there) or f"It has {', '.join(there)}.",
                )
        if blobs:
            return {"values": list(dict.fromkeys(blobs))}
        maps = [each.name for each in self._deployment.outputs if each.is_map]
        others = [each.name for each in self._deployment.outputs if not each.is_map]
        return {"values": others, "classes": [[name, 1] for name in maps]}

    def _shapes(self, shape: Shape) -> tuple[dict[str, Shape], dict[str, Any]]:
        """The shapes of the blobs and of the parameters for another shape of the input."""
        file = inference_file(with_inputs(self._net, {self._input.name: shape}), self._rules)
        net = build(file.layers(Sources(()), allow_unknown=True), phase="TEST")
        return net.blob_shapes, net.param_shapes

    def answers(self, pictures: Iterable[Picture]) -> Iterator[Answer]:
        """What the net says of each picture, in their order.

        Raises:
            InputError: The engine refuses the net.
            TrainingError: The worker ended early.
        """
        portion: list[tuple[Answer, Values | None]] = []
        size = 0
        for picture in pictures:
            portion.append(self._prepared(picture))
            values = portion[-1][1]
            size += 0 if values is None else values.nbytes
            if size >= PORTION_BYTES:
                yield from self._answered(portion)
                portion, size = [], 0
        yield from self._answered(portion)

    def _prepared(self, picture: Picture) -> tuple[Answer, Values | None]:
        from caffe_batch.datasets.pictures import DamagedPictureError, decoded, fitted
        from caffe_batch.datasets.settings import Settings

        try:
            pixels = decoded(picture.read(), gray=self._preprocessing.channels == 1).pixels
            size = (pixels.shape[0], pixels.shape[1])
            record = self._preprocessing.fitted(pixels)
            if not self._takes((1, self._preprocessing.channels, *record.shape[:2])):
                height, width = self._input.shape[2:]
                self._note(f"pictures are resized to {height} x {width}, which the net takes")
                record = fitted(record, Settings(resize=(height, width)))
            return Answer(picture.name, size), self._preprocessing.values(record, self._mean)
        except (DamagedPictureError, CaffeBatchError) as error:
            why = error.message if isinstance(error, CaffeBatchError) else str(error)
            return Answer(picture.name, problem=why), None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _takes(self, shape: Shape) -> bool:
        """Whether the weights fit the net with an input of this shape."""
        if shape[2:] == self._input.shape[2:]:
            return True
        if shape not in self._own_size:
            try:
                self._own_size[shape] = self._shapes(shape)[1] == self._parameters
            except CaffeBatchError:
                self._own_size[shape] = False
        return self._own_size[shape]

    def _answered(self, portion: Sequence[tuple[Answer, Values | None]]) -> Iterator[Answer]:
        """Run a portion: pictures of one size together."""
        import numpy as np

        by_shape: dict[Shape, list[int]] = {}
        for number, (_, values) in enumerate(portion):
            if values is not None:
                by_shape.setdefault(values.shape, []).append(number)
        found = [answer for answer, _ in portion]
        runs: list[Run] = []
        for shape, numbers in by_shape.items():
            fixed = self._input.shape[0]
            batch = fixed if fixed > 1 else min(self._batch, len(numbers))
            passes = -(-len(numbers) // batch)
            fed = np.zeros((passes * batch, *shape), np.float32)
            for place, number in enumerate(numbers):
                fed[place] = portion[number][1]
            net = with_inputs(self._net, {self._input.name: (batch, *shape)})
            file = inference_file(net, self._rules)
            runs.append(Run(file, passes, self._collect, {self._input.name: fed}))
        if runs:
            with TemporaryDirectory(prefix="caffe-batch-") as name:
                folder = Path(name).resolve()
                ran = run_forward(
                    runs,
                    [self._deployment.weights],
                    self._how,
                    folder,
                    Path().resolve(),
                    rules=self._rules,
                    rule_files=self._rule_files,
                )
            for note in ran.notes:
                self._note(note)
            for numbers, arrays in zip(by_shape.values(), ran.results, strict=True):
                for place, number in enumerate(numbers):
                    own = {
                        name.removeprefix("values:"): _sample(array, place, len(numbers))
                        for name, array in arrays.items() if name.startswith("values:")
                    }  # fmt: skip
                    classes = {
                        name.removeprefix("classes:"): array[place]
                        for name, array in arrays.items() if name.startswith("classes:")
                    }  # fmt: skip
                    found[number] = replace(found[number], values=own, classes=classes)
        yield from found


def _sample(array: Any, place: int, samples: int) -> Any:
    """The values of one sample; a blob without a sample for each picture has none.

    Raises:
        InputError: It has fewer rows than there were pictures.
    """
    if not array.ndim or len(array) < samples:
        raise InputError(
            f"a blob of shape {array.shape} has no values of its own for each of {samples} pictures"
        )
    return array[place]


def _only_input(deployment: Deployment) -> Input:
    inputs = deployment.inputs
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise InputError(f"the net has the inputs {names}, and a picture fills one")
    if inputs[0].preprocessing is None:
        raise InputError(
            f"how a picture becomes {inputs[0].name!r} isn't known: {inputs[0].why_not}",
            hint="Only nets whose TEST net reads pictures (Data, ImageData) can be asked.",
        )
    return inputs[0]


def _mean(deployment: Deployment, given: Input) -> Values | None:
    """The mean image; None if there is none."""
    import numpy as np

    assert given.preprocessing is not None  # noqa: S101  # checked before
    if given.preprocessing.mean_file is None:
        return None
    path = deployment.folder / given.preprocessing.mean_file
    shape = blob_shape(path)
    blob = caffe_pb2.BlobProto.FromString(read_regular(path))
    return np.array(blob.double_data or blob.data, np.float32).reshape(shape[-3:])


@dataclass(frozen=True)
class Guess:
    """A class, and how sure the net is.

    Attributes:
        label: Its number.
        name: Its name; the number if it has none.
        score: Its probability, or its score where the net gives no probabilities.
    """

    label: int
    name: str
    score: float


def guesses(scores: Any, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    """The classes with the highest scores, the highest first; of equal ones the lower number."""
    import numpy as np

    flat = np.asarray(scores, np.float64).ravel()
    order = np.argsort(-flat, kind="stable")[:top]
    return tuple(
        Guess(int(each), labels[each] if each < len(labels) else str(each), float(flat[each]))
        for each in order
    )


def shares(classes: Any, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    """The classes that cover most of a map, with their shares of it."""
    import numpy as np

    counts = np.bincount(np.asarray(classes, np.int64).ravel())
    found = guesses(counts / max(1, counts.sum()), labels, top)
    return tuple(each for each in found if each.score > 0)


def described(answer: Answer, outputs: Sequence[Output], labels: Sequence[str], top: int) -> Any:
    """An answer for other programs."""
    told: dict[str, Any] = {"picture": answer.picture, "problem": answer.problem or None}
    if answer.problem:
        return told
    for output in outputs:
        if output.name in answer.classes:
            found = shares(answer.classes[output.name], labels, top)
        elif output.name in answer.values and output.classes:
            found = guesses(answer.values[output.name], labels, top)
        else:
            continue
        told.setdefault("classes", {})[output.name] = [
            {"label": each.label, "name": each.name, "score": each.score} for each in found
        ]
    rest = {
        name: values.tolist() for name, values in answer.values.items()
        if name not in told.get("classes", {})
    }  # fmt: skip
    return {**told, **({"values": rest} if rest else {})}


@dataclass(frozen=True)
class Classified:
    """What a net says of pictures.

    Attributes:
        deployment: The net for inference.
        answers: One for each picture, in their order.
        top: How many classes were asked for.
        masks: The mask that was written for each picture that has one, by its name.
        notes: What there is to know.
    """

    deployment: Deployment
    answers: tuple[Answer, ...]
    top: int
    masks: dict[str, Path]
    notes: tuple[str, ...]

    def guesses(self, answer: Answer) -> Iterator[tuple[str, tuple[Guess, ...], bool]]:
        """The classes that each output gives a picture.

        Yields:
            The output, its classes with the highest scores (of a map: with the largest shares), and
            whether these are shares or probabilities.
        """
        labels = self.deployment.labels
        for output in self.deployment.outputs:
            if output.name in answer.classes:
                yield output.name, shares(answer.classes[output.name], labels, self.top), True
            elif output.name in answer.values and output.classes:
                found = guesses(answer.values[output.name], labels, self.top)
                yield output.name, found, output.probabilities

    def json(self) -> list[Any]:
        """The JSON of ``caffe-batch classify``."""
        labels, outputs = self.deployment.labels, self.deployment.outputs
        told = []
        for answer in self.answers:
            mask = self.masks.get(answer.picture)
            found = described(answer, outputs, labels, self.top)
            told.append({**found, **({"mask": str(mask)} if mask else {})})
        return told
