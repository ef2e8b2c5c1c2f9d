"""Where the pictures and their classes come from, and what makes no data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_batch import api
from caffe_batch.datasets.sources import Found, Naming, find_pictures
from caffe_batch.errors import InputError
from tests.datasets.making import noise, write_classes


def listed(folder: Path, text: str, name: str = "list.txt") -> Path:
    """A list, and all the pictures that the tests' lists name."""
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(("a b.png", "c.png", "d,e.png", "名.png", "f.png")):
        noise(number, 7, 7).save(folder / picture)
    path = folder / name
    path.write_text(text)
    return path


def labels(found: Found) -> dict[str, int]:
    return {item.name: item.label for item in (*found.train, *(found.test or ()))}


def refused(source: Path, **options: Any) -> InputError:
    """The error of a conversion, which leaves nothing behind."""
    out = source.parent / "out"
    before = sorted(source.parent.iterdir())
    with pytest.raises(InputError, match=r"\w") as error:
        api.data(source, out, **{"processes": 1, **options})
    assert sorted(source.parent.iterdir()) == before
    return error.value


def test_a_folder_of_classes(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"b": 1, "a": 2, "Z": 1, "größe": 1, "sub x": 1})
    noise(50).save(source / "loose.png")
    (source / "b" / "deeper" / "still").mkdir(parents=True)
    noise(51).save(source / "b" / "deeper" / "still" / "line\nbreak.jpg")
    (source / "b" / "notes.txt").write_text("no picture")
    (source / "b" / ".hidden.png").write_text("no picture")
    (source / ".git").mkdir()
    found = find_pictures(source)
    assert found.classes == ("Z", "a", "b", "größe", "sub x")
    assert found.test is None
    assert labels(found) == {
        "Z/0.png": 0, "a/0.png": 1, "a/1.png": 1, "b/0.png": 2,
        "b/deeper/still/line\nbreak.jpg": 2, "größe/0.png": 3, "sub x/0.png": 4,
    }  # fmt: skip
    assert found.notes == (
        "Left out, since their names aren't those of pictures: 'b/notes.txt'.",
        "Left out, since they are in no class's folder: 'loose.png'.",
    )


def test_folders_named_by_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"10": 1, "9": 1, "100": 1})
    assert find_pictures(source).classes == ("9", "10", "100")


def test_links(tmp_path: Path) -> None:
    """Links to folders and files are followed, but not in a circle."""
    source = write_classes(tmp_path / "set", {"a": 1, "b": 1})
    (source / "a" / "again").symlink_to(source)
    (source / "a" / "itself").symlink_to("itself")
    (source / "loop").symlink_to("loop")
    other = write_classes(tmp_path / "other", {"x": 2})
    (source / "c").symlink_to(other / "x")
    found = find_pictures(source)
    assert labels(found) == {"a/0.png": 0, "b/0.png": 1, "c/0.png": 2, "c/1.png": 2}
    assert "Links that lead back to a folder above aren't followed: 'a/again'." in found.notes


@pytest.mark.parametrize("second", ["test", "val", "validation"])
def test_two_folders(tmp_path: Path, second: str) -> None:
    write_classes(tmp_path / "set" / "train", {"a": 2, "b": 1})
    write_classes(tmp_path / "set" / second, {"b": 1, "a": 1})
    found = find_pictures(tmp_path / "set")
    assert [item.label for item in found.train] == [0, 0, 1]
    assert found.test is not None
    assert [item.label for item in found.test] == [0, 1]


def test_two_lists_and_their_names(tmp_path: Path) -> None:
    listed(tmp_path / "set", "a b.png 1\nc.png 0\n", "train.txt")
    listed(tmp_path / "set", "f.png 1\r\n\r\n名.png\t0\r\n", "val.txt")
    found = find_pictures(tmp_path / "set", naming=Naming(("cat", "dog")))
    assert found.classes == ("cat", "dog")
    assert labels(found) == {"a b.png": 1, "c.png": 0, "f.png": 1, "名.png": 0}
    assert found.test is not None
    assert len(found.test) == 2


def test_three_sets_are_too_many(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_classes(tmp_path / "set" / name, {"a": 1, "b": 1})
    error = refused(tmp_path / "set")
    assert error.message.endswith("has more than two sets: train, test, val")
    train, test = tmp_path / "set" / "train", tmp_path / "set" / "test"
    assert len(find_pictures(train, test).train) == 2


def test_a_list_with_names_as_labels_and_a_root(tmp_path: Path) -> None:
    listed(tmp_path / "pictures", "")
    (tmp_path / "list").write_text("a b.png cat\nc.png dog\nd,e.png cat\n")
    found = find_pictures(tmp_path / "list", root=tmp_path / "pictures")
    assert found.classes == ("cat", "dog")
    assert labels(found) == {"a b.png": 0, "c.png": 1, "d,e.png": 0}


def test_a_csv_file(tmp_path: Path) -> None:
    text = 'split,Label,Path,more\ntrain,dog,a b.png,\n"train","cat","d,e.png",x\nval,cat,名.png,\n'
    found = find_pictures(listed(tmp_path / "set", text, "set.csv"))
    assert found.classes == ("cat", "dog")
    assert [item.name for item in found.train] == ["a b.png", "d,e.png"]
    assert found.test is not None
    assert [item.name for item in found.test] == ["名.png"]
    plain = find_pictures(listed(tmp_path / "set", "file,class\nc.png,0\nf.png,1\n", "set.csv"))
    assert plain.test is None
    assert plain.classes == ("0", "1")


def test_gaps_between_labels(tmp_path: Path) -> None:
    source = listed(tmp_path / "set", "a b.png 3\nc.png 7\nf.png 3\n")
    error = refused(source)
    assert error.message == "the labels are 2 numbers from 3 to 7, and 0 is not among them"
    assert [option.shell for option in error.remedies] == ["--renumber", "--labels FILE"]
    found = find_pictures(source, naming=Naming(renumber=True))
    assert found.classes == ("3", "7")
    assert labels(found) == {"a b.png": 0, "c.png": 1, "f.png": 0}
    assert found.notes == ("The labels 3 to 7 became 0 to 1.",)
    named = find_pictures(source, naming=Naming(tuple("abcdefgh")))
    assert labels(named) == {"a b.png": 3, "c.png": 7, "f.png": 3}
    assert named.notes == ("Classes without a picture: 6.",)
    with pytest.raises(InputError, match="the label 7 has no name: 7 classes are named"):
        find_pictures(source, naming=Naming(tuple("abcdefg")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b.png 0\nc.png 1.5\n", "has the label '1.5', and others are whole numbers from 0"),
        ("a b.png 0\nc.png dog\n", "line 2 of {} has the label 'dog', and others are whole"),
        ("a b.png -1\nc.png -2\n", "line 1 of {} has the label '-1', which is no class"),
        ("a b.png 0\nc.png\n", "line 2 of {} is 'c.png', and `path label` is expected"),
        ("a b.png 0\nc.png 1 \n", "line 2 of {} is 'c.png 1 ', and `path label` is expected"),
        ("a b.png 0\nc.png 4294967296\n", "the label 4294967296 is larger than Caffe's largest"),
        (
            f"a b.png 0\nc.png {'1' * 5000}\n",
            f"the label {'1' * 20}... is larger than Caffe's largest",
        ),
        (
            "a b.png 0\nno.png 1\ngone.png 1\n",
            "of the 3 files that {} lists 2 can't be found",
        ),
        ("a b.png 0\nc.png 1\na b.png 1\n", "lists a file more than once: 'a b.png'"),
        ("\n\n", "{} lists no picture"),
        ("a b.png 0\nc.png 0\n", "{} has only one class, '0', and a classifier needs two"),
        ("a b.png 0\0", "{} is not a list of pictures but a binary file"),
    ],
)
def test_lists_that_make_no_data_set(tmp_path: Path, text: str, message: str) -> None:
    source = listed(tmp_path / "set", text)
    assert message.format(source) in refused(source).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'path'; its first line names none"),
        (
            "image,tint\nc.png,0\n",
            "has no column 'label'; its first line names 'image', 'tint'",
        ),
        ("path,label\nc.png\n", "line 2 of {} has 1 columns, and the first line names 2"),
        ("path,label\nd,e.png,1\n", "line 2 of {} has 3 columns, and the first line names 2"),
        ("path,label\nc.png,\n", "line 2 of {} has no path or no label"),
        ("path,label,set\nc.png,0,holdout\n", "line 2 of {} has the set 'holdout'"),
        ('path,label\n"c.png,0\n', "{} is not a CSV file: "),
        ("path,label,set\nc.png,0,test\nf.png,1,test\n", "{} has no picture of the set 'train'"),
    ],
)
def test_csv_files_that_make_no_data_set(tmp_path: Path, text: str, message: str) -> None:
    source = listed(tmp_path / "set", text, "set.csv")
    assert message.format(source) in refused(source).message


def test_folders_that_make_no_data_set(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    assert refused(source).message == f"{source} has no classes: it is empty"
    noise(1).save(source / "a.png")
    assert refused(source).message == f"{source} has no classes: its pictures lie in it directly"
    (source / "a.png").unlink()
    (source / "x").mkdir()
    assert refused(source).message.endswith("no folder in it has a picture")
    write_classes(source, {"a": 2})
    assert refused(source).message == f"{source} has folders without a picture: 'x'"
    (source / "x").rmdir()
    assert "has only one class, 'a'" in refused(source).message
    assert refused(tmp_path / "gone").message == f"{tmp_path / 'gone'}: no such file"


def test_classes_whose_names_are_nearly_the_same(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"cat": 1, "Cat": 1, "é": 1, "e\u0301": 1})
    assert [note[:42] for note in find_pictures(source).notes] == [
        "The classes 'Cat' and 'cat' differ only in",
        "The classes 'e\u0301' and 'é' differ only in up",
    ]


def test_a_class_with_a_line_break_in_its_name(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"a": 1, "two\nlines": 1})
    assert "the name of the class 'two\\nlines' has a line break" in refused(source).message


def test_a_class_with_a_single_picture(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"a": 3, "b": 1, "c": 1})
    error = refused(source)
    assert error.message == "a class with a single picture can't be in both sets: 'b', 'c'"
    made = api.data(source, tmp_path / "out", test_share=0, processes=1)
    assert made.dataset.test is None
    assert made.dataset.train.by_class == (3, 1, 1)


def test_a_source_of_one_class_if_it_is_meant(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"a": 4})
    made = api.data(source, tmp_path / "out", allow_one_class=True, processes=1)
    assert made.dataset.labels == ("a",)


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"a": 40, "b": 2})
    noise(99, 7, 9).save(source / "a" / "1.png")
    error = refused(source, test_share=0)
    assert "the pictures differ in size: " in error.message
    assert "'a/1.png' is 7 x 9" in error.message
    assert [option.shell for option in error.remedies] == ["--resize 256", "--keep-sizes"]


def test_an_output_that_exists(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="full exists already"):
        api.data(source, tmp_path / "full")
    with pytest.raises(InputError, match="file exists already and is no folder"):
        api.data(source, tmp_path / "full" / "file")
    (tmp_path / "empty").mkdir()
    assert api.data(source, tmp_path / "empty", processes=1).dataset.classes == 2


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    for options, message in (
        ({"resize": "big"}, "resize takes a size, not 'big'"),
        ({"resize": "0"}, "resize takes sides of 1 to 32,768 pixels"),
        ({"resize": 8, "keep_sizes": True}, "resize and keep_sizes contradict each other"),
        ({"fit": "crop"}, 'fit="crop" needs resize'),
        ({"encode_type": "jpg"}, 'encode_type="jpg" needs encoded=True'),
        ({"test_share": "100%"}, "test_share takes a share below 100%, not '100%'"),
    ):
        assert refused(source, **options).message == message
