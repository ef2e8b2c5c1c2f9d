"""What a net says of pictures, in lines with bars."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.experiments.classification import Answer, Classified, Guess

#: The length of a bar for 100 %.
_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"
#: Values of an output that aren't classes: as many are shown.
_SHOWN = 8


def answer_lines(found: Classified, answer: Answer) -> Iterator[str]:
    """The name of the picture, then a line for each class."""
    yield answer.picture
    if answer.problem:
        yield f"  {answer.problem}"
        return
    told = set[str]()
    several = len(found.deployment.outputs) > 1
    for output, classes, shares in found.guesses(answer):
        told.add(output)
        if several:
            yield f"  {output}:"
        yield from (f"  {_line(each, shares)}" for each in classes)
    for name, values in answer.values.items():
        if name not in told:
            shown = " ".join(f"{value:.5g}" for value in values.ravel()[:_SHOWN])
            more = " ..." if values.size > _SHOWN else ""
            sizes = " x ".join(map(str, values.shape)) or "a number"
            yield f"  {name} ({sizes}): {shown}{more}"
    if answer.picture in found.masks:
        yield f"  mask: {found.masks[answer.picture]}"


def _line(guess: Guess, shares: bool) -> str:
    if not shares:
        return f"{guess.score:>10.4g}  {guess.name}"
    return f"{bar(guess.score):<{_BAR}} {100 * guess.score:5.1f} %  {guess.name}"


def bar(share: float) -> str:
    """A bar in eighths of a column.

    >>> bar(0.5), bar(0.0), len(bar(1.0))
    ('██████████', '', 20)
    """
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
