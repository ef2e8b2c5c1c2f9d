"""Tasks in copies of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caffe_batch.engines.torch.worker.processes import side_by_side


@pytest.mark.parametrize("processes", [None, 1, 3, 20])
def test_each_task_is_done_once(tmp_path: Path, processes: int | None) -> None:
    def task(number: int) -> None:
        with (tmp_path / str(number)).open("a") as file:
            file.write(f"{os.getpid()}\n")

    assert [*side_by_side(task, 7, processes)] == [1, 2, 3, 4, 5, 6, 7]
    by = [(tmp_path / str(number)).read_text().split() for number in range(7)]
    assert all(len(each) == 1 for each in by)
    assert (str(os.getpid()) in {each[0] for each in by}) == (processes is None)


def test_a_task_that_dies_ends_no_other(tmp_path: Path) -> None:
    def task(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), 9)
        if number == 2:
            raise ValueError("this one can't be done")
        (tmp_path / str(number)).touch()

    assert [*side_by_side(task, 5, 2)][-1] == 5
    assert {path.name for path in tmp_path.iterdir()} == {"0", "3", "4"}
