"""Which layer types have a rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from caffe_batch.errors import InputError, Option, UnknownLayerError, did_you_mean
from caffe_batch.layers.base import Rule
from caffe_batch.layers.hints import NO_HINTS, TypeHints
from caffe_batch.layers.own import PYTHON
from caffe_batch.layers.unknown import unknown_rule

#: The option that accepts layers without a rule.
_LEAVE_OUT = (
    Option("allow_unknown", True),
    " leaves its own memory out and marks the total as a lower bound",
)


class Registry(Mapping[str, Rule]):
    """The rules by Caffe's own type name; it never changes.

    Args:
        rules: One per type: Caffe's own, those of packages, the user's.
        files: The user's files that some of them come from, as absolute paths.
        forks: Rules for types that forks have; one of ``rules`` for the same type replaces it.
        fork: The fork whose types these are; None where it isn't known.
        hints: What the user says about types without a rule; some of the rules come from it.

    Attributes:
        files, fork, hints: As given.

    Raises:
        InputError: Two rules have the same type.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        files: tuple[Path, ...] = (),
        *,
        forks: Iterable[Rule] = (),
        fork: str | None = None,
        hints: TypeHints = NO_HINTS,
    ) -> None:
        self._rules: dict[str, Rule] = {}
        self.files, self.fork, self.hints = files, fork, hints
        for rule in rules:
            known = self._rules.get(rule.type)
            if known is not None:
                raise InputError(
                    f"two rules for layer type {rule.type!r}: {known.origin} and {rule.origin}",
                    hint="Leave one of them out; a rule can't replace another.",
                )
            self._rules[rule.type] = rule
        for rule in forks:
            self._rules.setdefault(rule.type, rule)

    def __getitem__(self, layer_type: str) -> Rule:
        """The rule of a type; of a Python layer, also one that names its class alone."""
        if layer_type not in self._rules and layer_type.startswith(PYTHON):
            return self._rules[PYTHON + layer_type.rpartition(".")[2]]
        return self._rules[layer_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def closest(self, layer_type: str) -> str | None:
        """A hint that names the types with a rule that are spelled alike; None if there is none."""
        return did_you_mean(layer_type, list(self._rules))

    def rule_for(self, layer_type: str, name: str, *, allow_unknown: bool = False) -> Rule:
        """The rule of a layer's type.

        Args:
            layer_type: The type.
            name: The layer, for messages.
            allow_unknown: Accept types without a rule, with one that knows nothing.

        Raises:
            UnknownLayerError: There is none, and ``allow_unknown`` is off.
        """
        rule = self.get(layer_type)
        if rule is not None:
            return rule
        if allow_unknown:
            return unknown_rule(layer_type)
        if layer_type.startswith(PYTHON):
            raise UnknownLayerError(
                "a Python layer's shapes and memory depend on its code",
                layer=name,
                hint=[
                    *_LEAVE_OUT,
                    "; ",
                    Option("input_shape", "TOP=CxHxW"),
                    " says what its tops look like, ",
                    Option("run_python_layers", True),
                    " asks the layer itself.",
                ],
            )
        near = self.closest(layer_type)
        raise UnknownLayerError(
            f"type {layer_type!r} is not a layer type of Caffe 1.0, nor one known of its forks",
            layer=name,
            hint=[
                f"{near + ' ' if near else ''}If it belongs to a fork of Caffe, ",
                *_LEAVE_OUT,
                "; ",
                Option("rules", "FILE.py"),
                " adds a rule for it, ",
                Option("treat_as", f"{layer_type}=TYPE"),
                " gives it that of another type.",
            ],
        )
