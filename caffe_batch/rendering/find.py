"""Finds templates: in the user's own folder first, then in the package's."""

from __future__ import annotations

from pathlib import Path

from caffe_batch import resources
from caffe_batch.errors import Call, InputError, Option, did_you_mean
from caffe_batch.rendering.apart import apart
from caffe_batch.rendering.environment import make_environment
from caffe_batch.rendering.template import SUFFIXES, Template, describe, name_of


def available(templates_dir: Path | None = None) -> list[Template]:
    """The templates of the user's folder and of the package, sorted by name.

    Files whose names begin with ``_`` are parts of other templates and are left out.

    Raises:
        InputError: The folder doesn't exist, or a template can't be read.
    """
    if templates_dir is None:
        return _available(None)
    return apart(f"a template in {templates_dir}", _available, templates_dir)


def names() -> list[str]:
    """The names of the package's templates, sorted, without a look into any."""
    return sorted(_files(None))


def _available(templates_dir: Path | None) -> list[Template]:
    environment = make_environment(folders(templates_dir))
    return [describe(environment, path) for _, path in sorted(_files(templates_dir).items())]


def find(template: str, templates_dir: Path | None = None) -> Template:
    """The template of that name, or in that file.

    Raises:
        InputError: There is none (the message names similar ones), or it can't be read.
    """
    path = find_path(template, templates_dir)
    if is_own(path, templates_dir):
        return described(path, templates_dir)
    return apart(f"template {name_of(path)}", described, path, templates_dir)


def described(path: Path, templates_dir: Path | None) -> Template:
    """The template in a file, read in this process."""
    return describe(make_environment([path.parent, *folders(templates_dir)]), path)


def is_own(path: Path, templates_dir: Path | None) -> bool:
    """Whether a template, with all that it may include, comes with the package."""
    return templates_dir is None and path.resolve().parent == resources.folder("templates")


def find_path(template: str, templates_dir: Path | None = None) -> Path:
    """The file of a template.

    Args:
        template: A path (anything with a ``/``, or an existing file ending in ``.j2``), or a name
            with or without its suffix.
        templates_dir: The user's own templates, searched before the package's.

    Raises:
        InputError: There is none; the message names similar ones.
    """
    path = Path(template)
    if "/" in template or (path.suffix == ".j2" and path.is_file()):
        if path.is_file():
            return path
        raise InputError(
            f"{template}: there is no such template file",
            hint=[
                "Give the path of a file, or a name from ",
                Call("`caffe-batch render --list`", "caffe_batch.templates()"),
                ".",
            ],
        )
    files = _files(templates_dir)
    name = name_of(path).removesuffix(".prototxt")
    if name not in files:
        raise InputError(
            f"there is no template {template!r}",
            hint=did_you_mean(name, list(files))
            or f"The templates are {', '.join(sorted(files))}.",
        )
    return files[name]


def folders(templates_dir: Path | None) -> list[Path]:
    """The folders with templates, in the order in which they are searched.

    Raises:
        InputError: The user's folder doesn't exist.
    """
    if templates_dir is None:
        return [resources.folder("templates")]
    if not templates_dir.is_dir():
        raise InputError(
            f"{templates_dir}: there is no such folder",
            hint=[
                Option("templates"),
                f" takes a folder with files that end in {' or '.join(SUFFIXES)}.",
            ],
        )
    return [templates_dir, resources.folder("templates")]


def _files(templates_dir: Path | None) -> dict[str, Path]:
    """The files of all templates, by name."""
    files: dict[str, Path] = {}
    for folder in folders(templates_dir):
        for path in sorted(folder.glob("[!_.]*.j2")):
            files.setdefault(name_of(path), path)
    return files
