"""What a run forward is fed with, and what is kept of it, whichever engine runs it.

Runs on the runtime's Python, 3.6 and newer, with numpy.

What is collected is a JSON object, all of it optional:

    values    names of blobs whose values are kept, each pass after the other
    inputs    the same, as the data layers have filled them
    classes   pairs (blob, axis): for each place the class of the largest value is kept
    judged    how predictions agree with labels: an object with
                scores, labels   the blobs
                axis             that of the classes
                probabilities    whether the scores are probabilities already
                ignore           a label that doesn't count, or null
                records          samples that count; later ones are repetitions
                pictures         the input of which to keep samples, or null
                worst            how many of the worst mistakes to keep
                top_k            the numbers k of guesses to count

In the result, an array has the name ``KIND:BLOB``.
"""

import heapq
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np


class Feed:
    """Arrays in a file, handed out pass by pass."""

    def __init__(self, path: str) -> None:
        with np.load(path) as found:
            self.arrays = {name: found[name] for name in found.files}

    def batch(self, number: int, passes: int) -> Iterable[Tuple[str, Any]]:
        """The values of each input in a pass."""
        for name, values in self.arrays.items():
            size = len(values) // passes
            yield name, values[number * size : (number + 1) * size]


class Collection:
    """What is kept.

    Attributes:
        inputs: The blobs wanted as the data layers have filled them.
        blobs: The blobs wanted as they are after a pass.
    """

    def __init__(self, collect: Mapping[str, Any]) -> None:
        judged = collect.get("judged")
        self.kept: Dict[str, List[Any]] = {}
        self.values: Sequence[str] = collect.get("values", ())
        self.classes: Sequence[Tuple[str, int]] = collect.get("classes", ())
        self.judge: Any = Judge(judged) if judged else None
        self.inputs = set(collect.get("inputs", ()))
        self.blobs = set(self.values) | {name for name, _ in self.classes}
        self.wanted = sorted(self.inputs)
        if judged:
            self.blobs |= {judged["scores"]}
            self.inputs |= {judged["labels"]}
            if judged["pictures"]:
                self.inputs.add(judged["pictures"])

    def add(self, inputs: Mapping[str, Any], blobs: Mapping[str, Any]) -> None:
        """Take in a pass."""
        for name in self.wanted:
            self._keep("inputs:" + name, inputs[name])
        for name in self.values:
            self._keep("values:" + name, np.array(blobs[name]))
        for name, axis in self.classes:
            self._keep("classes:" + name, np.argmax(blobs[name], axis=axis).astype(np.uint16))
        if self.judge is not None:
            self.judge.add(inputs, blobs)

    def _keep(self, name: str, values: Any) -> None:
        self.kept.setdefault(name, []).append(values)

    def save(self, path: str) -> None:
        """Write it."""
        arrays: Dict[str, Any] = {}
        for name, each in self.kept.items():
            arrays[name] = np.concatenate(each) if each[0].ndim else np.array(each)
        if self.judge is not None:
            arrays.update(self.judge.arrays())
        np.savez(path, **arrays)


class Judge:
    """Counts how predictions agree with labels.

    A sample is one position of axis 0. Where it has several labels (a segmentation), each counts,
    and the sample's own loss is their mean.
    """

    def __init__(self, judged: Mapping[str, Any]) -> None:
        self.settings = judged
        self.confusion: Any = None
        self.hits: Any = np.zeros(len(judged["top_k"]), np.int64)
        self.seen = self.counted = 0
        self.ignored = self.outside = 0
        self.loss = 0.0
        self.worst: List[Tuple[float, int, Any]] = []

    def add(self, inputs: Mapping[str, Any], blobs: Mapping[str, Any]) -> None:
        """Take in a pass."""
        judged = self.settings
        axis: int = judged["axis"]
        scores = np.moveaxis(np.asarray(blobs[judged["scores"]], np.float64), axis, -1)
        samples = min(len(scores), judged["records"] - self.seen)
        if samples <= 0:
            return
        classes = scores.shape[-1]
        scores = scores[:samples].reshape(samples, -1, classes)
        labels = np.asarray(inputs[judged["labels"]])
        labels = labels.reshape(len(labels), -1)[:samples].astype(np.int64)
        labels = labels.reshape(samples, -1)
        if self.confusion is None:
            self.confusion = np.zeros((classes, classes), np.int64)
        valid = np.ones(labels.shape, bool)
        if judged["ignore"] is not None:
            valid &= labels != judged["ignore"]
            self.ignored += int((~valid).sum())
        inside = (labels >= 0) & (labels < classes)
        self.outside += int((valid & ~inside).sum())
        valid &= inside
        safe = np.where(valid, labels, 0)
        shifted = scores - scores.max(axis=-1, keepdims=True)
        if judged["probabilities"]:
            logs = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        else:
            logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        own = np.take_along_axis(scores, safe[..., None], -1)[..., 0]
        # Caffe's Accuracy: a score that equals the label's counts as better (accuracy_layer.cpp).
        rank = (scores >= own[..., None]).sum(axis=-1)
        for place, k in enumerate(judged["top_k"]):
            self.hits[place] += int((valid & (rank <= k)).sum())
        others = np.where(np.arange(classes) == safe[..., None], -np.inf, scores)
        guess = np.where(rank <= 1, safe, np.argmax(others, axis=-1))
        np.add.at(self.confusion, (safe[valid], guess[valid]), 1)
        losses = -np.take_along_axis(logs, safe[..., None], -1)[..., 0]
        self.loss += float(losses[valid].sum())
        self.counted += int(valid.sum())
        self._keep_worst(inputs, scores, labels, guess, np.where(valid, losses, 0.0), valid)
        self.seen += samples

    def _keep_worst(
        self, inputs: Mapping[str, Any], scores: Any, labels: Any, guess: Any, losses: Any,
        valid: Any,
    ) -> None:  # fmt: skip
        judged = self.settings
        for sample in range(len(scores)):
            wrong = valid[sample] & (guess[sample] != labels[sample])
            if not judged["worst"] or not wrong.any():
                continue
            loss = float(losses[sample].sum() / valid[sample].sum())
            entry = (loss, -(self.seen + sample))
            if len(self.worst) == judged["worst"] and entry <= self.worst[0][:2]:
                continue
            single = labels.shape[1] == 1
            shift = scores[sample] - scores[sample].max(axis=-1, keepdims=True)
            exps = np.exp(shift)
            own = scores[sample] if judged["probabilities"] else exps / exps.sum(-1, keepdims=True)
            kept = {
                "label": int(labels[sample, 0]) if single else -1,
                "guess": int(guess[sample, 0]) if single else -1,
                "wrong": float(wrong.sum() / valid[sample].sum()),
                "scores": own[0] if single else None,
                "picture": np.array(inputs[judged["pictures"]][sample])
                if judged["pictures"]
                else None,
            }
            heapq.heappush(self.worst, (*entry, kept))
            if len(self.worst) > judged["worst"]:
                heapq.heappop(self.worst)

    def arrays(self) -> Dict[str, Any]:
        """What was found, by name."""
        worst = sorted(self.worst, key=lambda each: each[:2], reverse=True)
        if self.confusion is None:
            self.confusion = np.zeros((0, 0), np.int64)
        found = {
            "judged:confusion": self.confusion,
            "judged:hits": self.hits,
            "judged:counts": np.array([self.seen, self.counted, self.ignored, self.outside]),
            "judged:loss": np.array(self.loss),
            "judged:worst": np.array(
                [(loss, -at, k["label"], k["guess"], k["wrong"]) for loss, at, k in worst]
            ).reshape(-1, 5),
        }
        scores = [kept["scores"] for _, _, kept in worst]
        if worst and scores[0] is not None:
            found["judged:scores"] = np.array(scores)
        if self.settings["pictures"]:
            for number, (_, _, kept) in enumerate(worst):
                found[f"judged:picture{number}"] = kept["picture"]
        return found
