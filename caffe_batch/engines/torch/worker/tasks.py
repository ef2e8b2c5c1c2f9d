"""Runs a task, and says in a sentence why it couldn't."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from caffe_batch.engines.torch.ranks.launch import end_with, launch
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import (
    Events,
    failed_layer,
    fatal,
    log_only_problems,
)
from caffe_batch.errors import CaffeBatchError, InputShapeError, NetError, in_shell

#: By task: its module, whose ``main`` takes the settings, the events and the requests.
_TASKS = {
    name: f"caffe_batch.engines.torch.worker.{name}"
    for name in ("train", "noise", "verify", "memory", "inference", "export")
}

FAILED_STATUS = 1


def run(settings: Mapping[str, Any]) -> int:
    """Run the task of a worker's settings; returns its exit status.

    A training on several ranks starts each of them with the same settings and its place.
    """
    place = settings.get("rank")
    if place is None and settings.get("ranks", 1) > 1:
        return launch(settings)
    leads = place is None or place["rank"] == 0
    if not leads:
        log_only_problems()
    requests, events = Requests(), Events(settings["events"], leads=leads)
    requests.listen()  # before torch is imported, which takes seconds
    if place:
        end_with(place["launcher"])
    try:
        main: Callable[..., int] = import_module(_TASKS[settings["task"]]).main
        status = main(settings, events, requests)
    except CaffeBatchError as error:
        from caffe_batch.engines.torch.layers.python import PythonError  # torch is imported by now

        hint = f" {in_shell(error.hint_parts)}" if error.hint_parts else ""
        refuses = isinstance(error, NetError) and not isinstance(error, InputShapeError)
        if refuses and not events.built:
            events.send("refused", why=f"{error.message}.{hint}", wants="net")
        if isinstance(error, PythonError):
            traceback.print_exception(error.__cause__)
            failed_layer(error.message)
        else:
            fatal(f"{error.message}.{hint}")
    except OSError as error:
        fatal(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except BaseException:
        traceback.print_exc()
    else:
        return status
    sys.stderr.flush()
    return FAILED_STATUS
