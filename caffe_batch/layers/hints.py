"""What a user says about layer types without writing a rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from caffe_batch.errors import InputError, Option
from caffe_batch.layers.base import Rule
from caffe_batch.layers.own import Asked, SameShape


@dataclass(frozen=True, slots=True)
class TypeHints:
    """What a user says about layer types without writing a rule.

    Types are named as in a prototxt; a Python layer as ``Python:module.Class`` or ``Python:Class``.

    Attributes:
        treat_as: Types, and the other type whose rule each of them gets.
        same_shape: Types whose tops have the shape of a bottom, and which bottom; None for the one
            with the most elements.
        asked: Python layers whose tops the runtime has named; they are given as shapes.
    """

    treat_as: tuple[tuple[str, str], ...] = ()
    same_shape: tuple[tuple[str, int | None], ...] = ()
    asked: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, treat_as: Iterable[str] = (), same_shape: Iterable[str] = (), asked: Iterable[str] = ()
    ) -> TypeHints:
        """The hints in texts such as ``BN=BatchNorm``, and ``Axpy`` or ``Axpy=1``.

        Raises:
            InputError: A text isn't of that form, or a type is named twice.
        """
        hints = cls(
            tuple(dict.fromkeys(map(_pair, treat_as))),
            tuple(dict.fromkeys(map(_place, same_shape))),
            tuple(dict.fromkeys(asked)),
        )
        seen: dict[str, Option] = {}
        for option, layer_type in hints.named():
            if layer_type in seen:
                raise InputError(
                    [option, " and ", seen[layer_type], " are for the same type"]
                    if option != seen[layer_type]
                    else [option, f" names type {layer_type!r} twice"],
                    hint="Give one of them.",
                )
            seen[layer_type] = option
        return hints

    def overridden_by(self, said: TypeHints) -> TypeHints:
        """These hints, and others that come first where both are about a type."""
        newer = {layer_type for _, layer_type in said.named()}
        return TypeHints(
            (*said.treat_as, *(each for each in self.treat_as if each[0] not in newer)),
            (*said.same_shape, *(each for each in self.same_shape if each[0] not in newer)),
            tuple(dict.fromkeys((*said.asked, *self.asked))),
        )

    def named(self) -> Iterator[tuple[Option, str]]:
        """The types that the user names, each with the option that does."""
        for layer_type, _ in self.treat_as:
            yield Option("treat_as"), layer_type
        for layer_type, _ in self.same_shape:
            yield Option("same_shape"), layer_type

    @property
    def treat_as_texts(self) -> tuple[str, ...]:
        """``treat_as`` as the user wrote it."""
        return tuple(f"{one}={other}" for one, other in self.treat_as)

    @property
    def same_shape_texts(self) -> tuple[str, ...]:
        """``same_shape`` as the user wrote it."""
        return tuple(
            one if number is None else f"{one}={number}" for one, number in self.same_shape
        )

    def rules(self) -> Iterator[Rule]:
        """The rules of these types, without those of ``treat_as``."""
        for layer_type, number in self.same_shape:
            rule: Rule = SameShape(layer_type, number)
            rule.origin = Option("same_shape").shell
            yield rule
        for layer_type in self.asked:
            rule = Asked(layer_type)
            rule.origin = Option("run_python_layers").shell
            yield rule


NO_HINTS = TypeHints()


def _pair(text: str) -> tuple[str, str]:
    one, _, other = text.partition("=")
    if not one or not other:
        raise InputError(
            [Option("treat_as"), f" {text!r} is not of the form TYPE=KNOWN"],
            hint=["For instance ", Option("treat_as", "BN=BatchNorm"), "."],
        )
    return one, other


def _place(text: str) -> tuple[str, int | None]:
    layer_type, equals, number = text.partition("=")
    if not layer_type or (equals and not (number.isdecimal() and len(number) < 4)):
        raise InputError(
            [Option("same_shape"), f" {text!r} is not of the form TYPE or TYPE=BOTTOM"],
            hint=[
                "For instance ", Option("same_shape", "Axpy"), ", or ",
                Option("same_shape", "Axpy=1"), " for the shape of its second bottom.",
            ],
        )  # fmt: skip
    return layer_type, int(number) if equals else None
