"""``test``: a trained net on its whole test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.api.jobs import Job
from caffe_batch.api.machines import RuntimeName, device_of, find_trainer
from caffe_batch.experiments import net_test
from caffe_batch.experiments.inference import Inference
from caffe_batch.files import write_text
from caffe_batch.jobs.best import Metric
from caffe_batch.training.trained import Chosen, choose_weights, read_trained


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class NetTest(net_test.NetTest):
    """The scores of a trained net on its test set.

    It has ``outputs`` (the mean of each output of the TEST net), ``judged`` (how well its
    classes agree with the labels: ``confusion``, ``top_k``, ``classes``, ``mistakes``; None for a
    net without classes), ``samples``, ``labels``, ``notes`` and:

    Attributes:
        job: The job.
        chosen: The weights that were tested.
        engine: Name of the engine.
        data: The data, if it wasn't the job's own.
    """

    job: Job
    chosen: Chosen
    engine: str
    data: str | None

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch test``."""
        told: dict[str, Any] = {
            "job": str(self.job.path),
            "snapshot": str(self.chosen.weights),
            "update": self.chosen.update,
            "engine": self.engine,
            "data": self.data,
            "samples": self.samples,
            "outputs": {
                name: values[0] if len(values) == 1 else list(values)
                for name, values in self.outputs.items()
            },
            "notes": list(self.notes),
        }
        judged = self.judged
        if judged is None:
            return told
        return {
            **told,
            "accuracy": judged.top_k.get(1),
            "top_k": {str(k): share for k, share in judged.top_k.items()},
            "loss": judged.loss,
            "mean_overlap": judged.mean_overlap,
            "counted": judged.counted,
            "ignored": judged.ignored,
            "outside": judged.outside,
            "classes": [
                {field.name: getattr(each, field.name) for field in fields(each)}
                for each in judged.classes
            ],
            "confusion": judged.confusion.tolist(),
            "mistakes": [
                {
                    "record": each.record,
                    "name": each.name,
                    "label": each.label,
                    "guess": each.guess,
                    "loss": each.loss,
                    "wrong": each.wrong,
                }
                for each in judged.mistakes
            ],
        }

    def draw(self, path: str | Path) -> Path:
        """Draw the confusion matrix, each row as shares of its class.

        Args:
            path: The picture; its suffix (.png, .svg, .pdf) decides the format.

        Raises:
            InputError: The net has no classes, there is no such format, or no matplotlib.
        """
        from caffe_batch.reporting.confusion_plot import draw_confusion

        draw_confusion(self, Path(path))
        return Path(path)

    def page(self, path: str | Path) -> Path:
        """Write a page with the scores, the confusion matrix and the worst mistakes.

        Args:
            path: The HTML file; it is self-contained.
        """
        from caffe_batch.reporting.net_test_page import render_test

        write_text(Path(path), render_test(self, str(self.job.path), self.chosen, self.data))
        return Path(path)

    def __repr__(self) -> str:
        share = self.judged.top_k.get(1) if self.judged else None
        scores = "" if share is None else f", accuracy {share:.4g}"
        return f"<NetTest of {self.samples:,} samples{scores}>"


def test(
    job: str | Path,
    *,
    snapshot: str | Path | None = None,
    best: bool | str = False,
    data: str | Path | None = None,
    test_net: int = 0,
    top_k: Sequence[int] = (1, 5),
    worst: int = 24,
    engine: str | None = None,
    runtime: RuntimeName = None,
    cpu: bool = False,
    gpu: int | None = None,
    threads: int = 1,
    observer: Callable[[int], None] = lambda passes: None,
) -> NetTest:
    """Run a trained net on its whole test set: scores by class, confusions, worst mistakes.

    Args:
        job: The job directory. Nothing in it is changed.
        snapshot: A .caffemodel, or a .solverstate with its weights beside it; None for the job's
            newest snapshot.
        best: Take the snapshot with the best test; a string names the output that decides.
        data: Other data: a data set made by :func:`data` (its test set), a database, a list;
            None for the TEST net's own.
        test_net: The number of the test net.
        top_k: Count how often the correct class is among this many of the highest scores.
        worst: How many of the worst mistakes to keep.
        engine: What computes: ``"caffe"`` or ``"pytorch"``; None for the engine that trained.
        runtime: The Python to run it on, as :meth:`Job.train` takes it.
        cpu: Run on the CPU even if there is a GPU.
        gpu: Run on this GPU.
        threads: CPU threads for the matrix products.
        observer: Called with the number of passes that are done.

    Raises:
        InputError: The job has no snapshot or no TEST net, or the data doesn't fit.
        RuntimeMissingError: There is no Python with the engine.
        TrainingError: The worker ended early.
    """
    found = Job(job)
    device = device_of(cpu=cpu, gpu=gpu)
    trained = read_trained(found.directory, test_net)
    usual = engines.find(engine or found.last_engine)
    chosen = choose_weights(
        found.directory,
        usual,
        snapshot=None if snapshot is None else Path(snapshot),
        best=Metric.parse(best) if isinstance(best, str) else best,
    )
    trainer = find_trainer(runtime, engine, found.last_engine)
    how = Inference(engines.find(trainer.engine), trainer.runtime, device, threads, observer)
    made = net_test.run_test(
        trained,
        chosen.weights,
        how,
        data=None if data is None else Path(data),
        top_k=top_k,
        worst=worst,
    )
    facts = {field.name: getattr(made, field.name) for field in fields(made)}
    notes = (*trainer.notes, *chosen.notes, *made.notes)
    return NetTest(
        **{**facts, "notes": notes},
        job=found,
        chosen=chosen,
        engine=trainer.engine,
        data=None if data is None else str(data),
    )
