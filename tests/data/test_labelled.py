"""Labelled images from folders and tables: what is inferred, refused, split and saved."""

import csv
import dataclasses
import io
import json
import unicodedata
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from xception_jax.data.labelled import Columns, changes, check_classes, duplicates, open_labelled, split_source, to_csv
from xception_jax.data.labelled.labels import find_separator
from xception_jax.errors import UserError


def image(path, contents=None):
    """A file that is named as an image; nothing here decodes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode() if contents is None else contents)


def folder(root, sizes):
    """Folders with as many images as said."""
    for name, size in sizes.items():
        for i in range(size):
            image(root / name / f"{i:03}.jpg")
    return root


def table(root, header, *rows, name="labels.csv"):
    """A CSV file, and the images of its first column."""
    text = "\n".join([header, *rows]) + "\n"
    (root / name).write_text(text)
    for row in csv.reader(io.StringIO("\n".join(rows))):
        image(root / row[0])
    return root / name


def as_rows(data):
    """From file to its class, classes or numbers, by name."""
    if data.task == "single_label":
        return {file: data.class_names[k] for file, k in zip(data.files, data.targets, strict=True)}
    if data.task == "regression":
        return {file: row.tolist() for file, row in zip(data.files, data.targets, strict=True)}
    return {
        file: [name for name, there in zip(data.class_names, row, strict=True) if there]
        for file, row in zip(data.files, data.targets, strict=True)
    }


def assert_identical(a, b):
    for name in ("root", "files", "task", "class_names", "remarks"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("targets", "split", "group", "weight"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def counts(data, names=("train", "validation", "test")):
    """Images of each class in each split."""
    return {c: [n[c, s] for s in names] for n in [Counter(zip(as_rows(data).values(), data.split, strict=True))]
            for c in data.class_names}  # fmt: skip


# Folders


def test_folder_of_splits(tmp_path):
    folder(tmp_path, {"Training/cat": 2, "Training/dog": 1, "VAL/cat": 1, "VAL/dog": 1, "test/cat": 1, "test/dog": 1})
    data = open_labelled(tmp_path)
    assert data.task == "single_label"
    assert data.class_names == ("cat", "dog")
    assert data.targets.dtype == np.int32
    assert [data.files[i] for i in data.rows("train")] == [
        "Training/cat/000.jpg",
        "Training/cat/001.jpg",
        "Training/dog/000.jpg",
    ]
    assert [data.files[i] for i in data.rows("validation")] == ["VAL/cat/000.jpg", "VAL/dog/000.jpg"]
    assert data.targets[data.rows("train")].tolist() == [0, 0, 1]


def test_class_of_a_split_s_name(tmp_path):
    """Trains are photographed, too."""
    data = open_labelled(folder(tmp_path, {"train": 10, "bus": 10}))
    assert data.class_names == ("bus", "train")
    assert {name: sum(split) for name, split in counts(data).items()} == {"bus": 10, "train": 10}
    assert set(data.split.tolist()) == {"train", "validation", "test"}


def test_messy_folder(tmp_path):
    """Stray files, a class of two images and a class of none: all said, and the rest is used."""
    folder(tmp_path, {"cat": 20, "dog": 20, "rare": 2})
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("soon")
    (tmp_path / "notes.txt").write_text("mine")
    image(tmp_path / ".hidden.jpg")
    image(tmp_path / "cat" / "deep" / "er.PNG")
    image(tmp_path / "loose.jpg")
    data = open_labelled(tmp_path)
    assert "cat/deep/er.PNG" in data.files
    assert len(data.files) == 43
    assert counts(data)["rare"] == [2, 0, 0]
    said = " ".join(data.remarks)
    assert f"Files passed over in {tmp_path}: 1 .jpg outside of class folders" in said
    assert "1 .txt, 1 .txt outside of class folders." in said
    assert "no images: none." in said
    assert "Classes with less than 3 images, which are all in train: rare (1)" in said


def test_classes_of_folders_are_sorted_as_checkpoints_have_them(tmp_path):
    data = open_labelled(folder(tmp_path, {"1": 3, "2": 3, "10": 3}))
    assert data.class_names == ("1", "10", "2")
    (tmp_path / "saved.csv").write_bytes(to_csv(data))
    assert_identical(data, open_labelled(tmp_path / "saved.csv"))


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    folder(tmp_path, {f"train/{names[0]}": 1, "train/bar": 1, f"test/{names[1]}": 1, "test/bar": 1})
    data = open_labelled(tmp_path)
    assert data.class_names == ("bar", names[0])
    assert sorted(data.targets[data.rows("test")].tolist()) == [0, 1]
    assert all(path.is_file() for path in data.paths())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train/Cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 1}, 'classes "Cat" and "cat" differ only in case'),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/c": 1}, "train has no image of c"),
        ({"val/a": 1, "valid/b": 1}, 'two folders for validation, "val" and "valid"'),
        ({"a": 5}, "1 folders with images, but at least 2"),
        ({}, "0 folders with images, but at least 2"),
    ],
)
def test_refused_folders(tmp_path, sizes, message):
    with pytest.raises(UserError, match=message):
        open_labelled(folder(tmp_path, sizes))


def test_a_table_s_folder_names_the_table(tmp_path):
    path = table(tmp_path, "file,label", "images/a.jpg,x", "images/b.jpg,y")
    with pytest.raises(UserError, match=f"give its path, {path}"):
        open_labelled(tmp_path)
    with pytest.raises(UserError, match="there is no folder or table"):
        open_labelled(tmp_path / "lables.csv")


# Labels of tables


@pytest.mark.parametrize(
    ("header", "rows", "task", "names", "targets"),
    [
        ("file,label", ["a.jpg,dog", "b.jpg,cat"], "single_label", ("cat", "dog"), [1, 0]),
        ("file,label", ["a.jpg,t shirt", "b.jpg,dress"], "single_label", ("dress", "t shirt"), [1, 0]),
        ("Image;Class", ["a.jpg;10", "b.jpg;9"], "single_label", ("9", "10"), [1, 0]),
        ("file, label", ["a.jpg, 1.0", "b.jpg, 0.0"], "single_label", ("0", "1"), [1, 0]),
        ("path,tags", ["a.jpg,sea sky", "b.jpg,sky", "c.jpg,sea"], "multi_label", ("sea", "sky"),
         [[1, 1], [0, 1], [1, 0]]),
        ("file,label", ["a.jpg,x|y z", "b.jpg,"], "multi_label", ("x", "y z"), [[1, 1], [0, 0]]),
        ("file,labels", ['a.jpg,"x, y"', "b.jpg,x", "c.jpg,y"], "multi_label", ("x", "y"), [[1, 1], [1, 0], [0, 1]]),
        ("file,b,a", ["a.jpg,1,1", "b.jpg,0,1"], "multi_label", ("b", "a"), [[1, 1], [0, 1]]),
        ("file,b,a", ["a.jpg,1,0", "b.jpg,0,1"], "single_label", ("b", "a"), [0, 1]),
        ("file,age", ["a.jpg,1.5", "b.jpg,2"], "regression", ("age",), [[1.5], [2]]),
        ("file,target", [f"{i}.jpg,{i}" for i in range(30)], "regression", ("target",), [[i] for i in range(30)]),
        ("file,my_class", [f"{i}.jpg,{i}" for i in range(30)], "single_label", tuple(map(str, range(30))),
         list(range(30))),
    ],
)  # fmt: skip
def test_inferred_task(tmp_path, header, rows, task, names, targets):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]))
    for row in rows:
        image(tmp_path / row.replace(";", ",").split(",")[0])
    data = open_labelled(path, fractions=(1, 0, 0))
    assert (data.task, data.class_names, data.targets.tolist()) == (task, names, targets)
    assert data.targets.dtype == (np.int32 if task == "single_label" else np.float32)
    assert any(f"The task is {task}" in remark for remark in data.remarks)


def test_task_is_settable(tmp_path):
    path = table(tmp_path, "file,score", "a.jpg,1", "b.jpg,2", "c.jpg,2")
    assert open_labelled(path, fractions=(1, 0, 0)).task == "single_label"
    data = open_labelled(path, fractions=(1, 0, 0), task="regression")
    assert data.targets.tolist() == [[1], [2], [2]]
    columns = Columns(label=("score",))
    assert open_labelled(path, columns, fractions=(1, 0, 0), task="multi_label").class_names == ("1", "2")


def test_names_with_commas_are_one_label():
    """WordNet's names of ImageNet's classes."""
    cells = ["tench, Tinca tinca", "goldfish, Carassius auratus", "tiger shark, Galeocerdo cuvieri"]
    assert find_separator("label", cells) is None
    assert find_separator("label", ["a b", "b c", "a c", "a", "b"]) == " "


@pytest.mark.parametrize(
    ("header", "rows", "settings", "message"),
    [
        ("file,label", ["a.jpg,x", "b.jpg,y"], {"columns": Columns(label="lable")}, '"lable"; did you mean "label"'),
        ("name,label", ["a.jpg,x", "b.jpg,y"], {}, "which column has the files"),
        ("file,u,v", ["a.jpg,x,1", "b.jpg,y,2"], {}, "which column has the labels"),
        ("file", ["a.jpg", "b.jpg"], {}, "which column has the labels"),
        ("file,x", ["a.jpg,1.5", "b.jpg,high"], {"task": "regression"}, 'b.jpg: "high" in column "x" is not a number'),
        ("file,label", ["a.jpg,1.5", "b.jpg,nan"], {}, 'b.jpg: "nan" .* is not a number'),
        ("file,label", ["a.jpg,", "b.jpg,"], {}, "none of the 2 images has a label"),
        ("file,u,v", ["a.jpg,1,0", "b.jpg,,1"], {"columns": Columns(label=("u", "v"))}, "b.jpg: \"\" in column"),
        ("file,label,split", ["a.jpg,x,train", "b.jpg,y,tets"], {}, 'b.jpg: unknown split "tets"; did you mean "test"'),
        ("file,label,weight", ["a.jpg,x,1", "b.jpg,y,-1"], {}, 'b.jpg: the weight "-1" is not a number of 0 or more'),
        ("file,label", ["a.jpg,x", "./a.jpg,y"], {}, 'a.jpg is in two rows .* values of "label", "x" and "y"'),
        ("file,label", ["a.jpg,x ", "b.jpg,x"], {}, 'classes "x" and "x " differ only in case or spaces'),
        ("file,label", ["a.jpg,x", "b.jpg,x"], {}, 'are of the class "x"; at least 2'),
        ("file,label,patient", ["a.jpg,x,p", "b.jpg,y,"], {}, 'b.jpg: column "patient" is empty'),
        ("file,label", ["a.jpg,x,y"], {}, "line 2: 3 values for 2 columns"),
        ("file,label,label", ["a.jpg,x,y"], {}, 'two columns "label"'),
        ("file,label", [], {}, "has 0 rows"),
        ("file,label,split", ["a.jpg,x,train", "b.jpg,y,test"], {}, "train has no image of y.*: move"),
        ("file,u,v", ["a.jpg,1,0", "b.jpg,1,1"], {"task": "single_label"}, "b.jpg: 2 classes, but one is expected"),
    ],
)  # fmt: skip
def test_refused_tables(tmp_path, header, rows, settings, message):
    path = table(tmp_path, header, *rows)
    with pytest.raises(UserError, match=message):
        open_labelled(path, **settings)


def test_divided_group_is_refused(tmp_path):
    rows = ["a.jpg,x,train,p1", "b.jpg,y,train,p2", "c.jpg,x,test,p3", "d.jpg,y,test,p2"]
    path = table(tmp_path, "file,label,split,patient_id", *rows)
    with pytest.raises(UserError, match="groups in two splits, p2 \\(the first in train and test\\)"):
        open_labelled(path)
    assert open_labelled(path, Columns(group="")).group is None


def test_files_are_found_in_usual_places(tmp_path):
    """In "images", without a suffix, absolute, with Windows' separators; the rest is missing, and said."""
    image(tmp_path / "data" / "images" / "a.jpg")
    image(tmp_path / "data" / "sub" / "b.png")
    image(tmp_path / "far" / "c.jpg")
    rows = ["a,x", "sub\\b.png,y", f"{tmp_path}/far/c.jpg,x", "gone.jpg,y", "images/../images/a.jpg,x"]
    path = tmp_path / "data" / "labels.csv"
    path.write_text("\n".join(["file,label", *rows]))
    data = open_labelled(path, fractions=(0, 0, 1))
    assert data.files == ("images/a.jpg", "sub/b.png", f"{tmp_path}/far/c.jpg")
    assert all(file.is_file() for file in data.paths())
    assert "Files of the table that are missing and left out: gone.jpg (1)." in data.remarks
    assert "Rows that repeat another and are left out: 1." in data.remarks
    with pytest.raises(UserError, match=r"1 of the 5 files .* gone.jpg; at most 0 may be missing"):
        open_labelled(path, max_missing=0)


def test_parquet_says_the_same_as_csv(tmp_path):
    columns = {"file": ["a.jpg", "b.jpg", "c.jpg"], "labels": [["x", "y, z"], [], ["x"]], "weight": [1.0, 0.1, 2.0]}
    for file in columns["file"]:
        image(tmp_path / file)
    types = {"weight": pyarrow.float32()}
    arrays = {name: pyarrow.array(cells, types.get(name)) for name, cells in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(arrays), tmp_path / "labels.parquet")
    data = open_labelled(tmp_path / "labels.parquet", fractions=(1, 0, 0))
    assert as_rows(data) == {"a.jpg": ["x", "y, z"], "b.jpg": [], "c.jpg": ["x"]}
    assert data.weight.dtype == np.float32
    assert data.weight.tolist() == np.float32([1, 0.1, 2]).tolist()
    source = split_source(data, "train")
    assert source.weights.tolist() == data.weight.tolist()
    alike = dataclasses.replace(data, weight=None)
    assert split_source(alike, "train").fingerprint() != source.fingerprint()


@pytest.mark.parametrize(("split", "refused"), [("train", True), ("val", True), ("test", False)])
def test_a_split_without_weight_is_refused_where_weights_matter(tmp_path, split, refused):
    rows = [f"{s}{label}.jpg,{label},{s},{int(s != split)}" for s in ("train", "val", "test") for label in "xy"]
    path = table(tmp_path, "file,label,split,weight", *rows)
    if refused:
        with pytest.raises(UserError, match=rf"all images of {split}.* in .* have the weight 0"):
            open_labelled(path)
    else:
        assert open_labelled(path).weight[-2:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("x.csv", "file,label\nä.jpg,1".encode("latin-1"), "not UTF-8"),
        ("x.csv", b'file,label\n"a.jpg,1', "is damaged"),
        ("x.parquet", b"PAR1 not really", "is damaged"),
        ("x.xlsx", b"PK", "expected a folder, or a file .csv"),
        ("x.csv", b"", "has 0 rows"),
    ],
)
def test_damaged_tables(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=message):
        open_labelled(tmp_path / name)


@pytest.mark.parametrize(
    ("cells", "targets"),
    [(["x", "", "y", " "], [0, 1]), (["1.5", "", "2", ""], [[1.5], [2]]), (["x|y", "", "y", ""], None)],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_images_of_a_table_without_a_label_are_left_out(tmp_path, cells, targets, ending):
    """An empty cell for several labels is an image that has none of them."""
    path, rows = tmp_path / f"x.{ending}", {f"{i}.jpg": cell for i, cell in enumerate(cells)}
    for file in rows:
        image(tmp_path / file)
    as_csv = ["file,label", *(f"{file},{cell}" for file, cell in rows.items())]
    as_json = (json.dumps({"file": file, "label": cell or None}) for file, cell in rows.items())
    path.write_text("\n".join(as_csv if ending == "csv" else as_json))
    data = open_labelled(path, fractions=(1, 0, 0))
    if targets is None:
        assert as_rows(data) == {"0.jpg": ["x", "y"], "1.jpg": [], "2.jpg": ["y"], "3.jpg": []}
    else:
        assert (data.files, data.targets.tolist()) == (("0.jpg", "2.jpg"), targets)
        assert "Images without a label that are left out: 2, such as 1.jpg." in data.remarks


# Splits


def test_made_split_has_the_classes_in_proportion(tmp_path):
    """Each class within an image of its share, twice the same with a seed, and another with another."""
    sizes = {"a": 40, "b": 21, "c": 7, "d": 3}
    folder(tmp_path, sizes)
    data = open_labelled(tmp_path, seed=3)
    for name, split in counts(data).items():
        assert sum(split) == sizes[name]
        assert all(split)
        expected = np.multiply(sizes[name], (0.7, 0.15, 0.15))
        assert np.abs(split - expected).max() <= 1.2, name  # validation is drawn from what test has left
    np.testing.assert_array_equal(data.split, open_labelled(tmp_path, seed=3).split)
    assert (data.split != open_labelled(tmp_path, seed=4).split).any()
    assert any("with seed 3" in remark for remark in data.remarks)


def test_made_split_leaves_groups_whole(tmp_path):
    """Of 60 patients of uneven numbers of images, with classes as patients have them."""
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(60):
        classes = ["well"] if patient % 3 else ["ill", "well"]
        rows += [f"{patient}_{i}.jpg,{rng.choice(classes)},p{patient}" for i in range(rng.integers(1, 9))]
    data = open_labelled(table(tmp_path, "file,label,patient", *rows))
    splits = {}
    for group, split in zip(data.group, data.split, strict=True):
        splits.setdefault(group, set()).add(str(split))
    assert {len(s) for s in splits.values()} == {1}
    total = Counter(as_rows(data).values())
    for name, split in counts(data).items():
        np.testing.assert_allclose(np.divide(split, total[name]), (0.7, 0.15, 0.15), atol=0.08)


def test_class_of_one_group_is_learnt(tmp_path):
    rows = [f"{i}.jpg,{'rare' if i < 4 else 'common'},{'alone' if i < 4 else i // 2}" for i in range(40)]
    data = open_labelled(table(tmp_path, "file,label,group", *rows))
    assert counts(data)["rare"] == [4, 0, 0]
    assert any("less than 3 groups, which are all in train: rare (1)" in remark for remark in data.remarks)
    assert "test has no image of 1 of the 2 classes: rare." in data.remarks


def test_validation_is_taken_from_train(tmp_path):
    rows = [f"{i}.jpg,{'xy'[i % 2]},{'test' if i % 4 == 3 else 'train'},{i // 4}{i % 4 == 3}" for i in range(80)]
    data = open_labelled(table(tmp_path, "file,label,split,group", *rows), fractions=(0.8, 0.2, 0))
    assert {data.files[i] for i in data.rows("test")} == {f"{i}.jpg" for i in range(3, 80, 4)}
    assert 9 <= len(data.rows("validation")) <= 15
    assert not set(data.group[data.rows("validation")]) & set(data.group[data.rows("train")])
    assert any(remark.startswith("No validation split was given") for remark in data.remarks)


def test_no_test_split_is_said(tmp_path):
    data = open_labelled(folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}))
    assert data.rows("test").tolist() == []
    assert "There is no test split." in data.remarks
    with pytest.raises(UserError, match='has no split "test"'):
        split_source(data, "test")


def test_every_label_is_in_every_split(tmp_path):
    """Of several labels, those that three images have at least."""
    rng = np.random.default_rng(1)
    chance = np.linspace(0.02, 0.4, 12)
    flags = rng.random((300, 12)) < chance
    rows = [f"{i}.jpg,{'|'.join(f'l{k}' for k in np.flatnonzero(row))}" for i, row in enumerate(flags)]
    data = open_labelled(table(tmp_path, "file,labels", *rows))
    np.testing.assert_array_equal(data.targets[:, [data.class_names.index(f"l{k}") for k in range(12)]], flags)
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        assert data.targets[data.rows(split)].any(axis=0).all()
        assert len(data.rows(split)) == pytest.approx(300 * share, abs=5)


def test_labels_that_train_lacks_are_left_out(tmp_path):
    path = table(tmp_path, "file,labels,split", "a.jpg,x|y,train", "b.jpg,y,val", "c.jpg,x|z,test")
    data = open_labelled(path)
    assert as_rows(data) == {"a.jpg": ["x", "y"], "b.jpg": ["y"], "c.jpg": ["x"]}
    assert "Left out, because no image to train on has them: classes z." in data.remarks
    measured = open_labelled(path, fractions=(0, 0, 1))  # by weights that may know it
    assert as_rows(measured)["c.jpg"] == ["x", "z"]


def test_numbers_are_split_by_their_size(tmp_path):
    values = np.random.default_rng(2).permutation(np.linspace(0, 1, 200) ** 3)
    data = open_labelled(table(tmp_path, "file,y_", *(f"{i}.jpg,{v}" for i, v in enumerate(values))))
    assert data.task == "regression"
    for split in ("train", "validation", "test"):
        tenths = np.quantile(data.targets[data.rows(split), 0], (0.1, 0.5, 0.9))
        np.testing.assert_allclose(tenths, np.quantile(values, (0.1, 0.5, 0.9)), atol=0.1)


def test_impossible_fractions(tmp_path):
    with pytest.raises(UserError, match="their sum has to be 1"):
        open_labelled(folder(tmp_path, {"a": 4, "b": 4}), fractions=(0.7, 0.2, 0.2))


def test_nothing_is_made_or_taken_if_all_is_measured(tmp_path):
    """Whoever measures does not train: no split is made, missed, or has to have all classes."""
    data = open_labelled(folder(tmp_path / "whole", {"a": 4, "b": 4}), fractions=(0, 0, 1))
    assert set(data.split) == {"test"}
    assert [remark for remark in data.remarks if "split" in remark] == ["No split is given: all images are measured."]
    data = open_labelled(folder(tmp_path / "two", {"train/a": 9, "test/a": 1, "test/b": 1}), fractions=(0, 0, 1))
    assert Counter(data.split) == {"train": 9, "test": 2}
    assert not [remark for remark in data.remarks if "split" in remark or "no image" in remark]


# The same image twice


def test_equal_images_in_two_splits_are_counted(tmp_path):
    folder(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    same = bytes(range(256)) * 40
    for name in ("train/a/x.jpg", "test/a/y.jpg", "test/b/z.jpg"):
        image(tmp_path / name, same)
    image(tmp_path / "test/b/almost.jpg", bytes([1]) + same[1:])  # as long, with the same end
    data = open_labelled(tmp_path)
    assert [(data.files[a], data.files[b]) for a, b in duplicates(data)] == [
        ("train/a/x.jpg", "test/a/y.jpg"),
        ("train/a/x.jpg", "test/b/z.jpg"),
    ]
    assert any(remark.startswith("2 images are also in another split, byte for byte") for remark in data.remarks)
    with pytest.raises(UserError, match=r"2 images are also in another split.*train/a/x.jpg \(train\)"):
        open_labelled(tmp_path, refuse_duplicates=True)


def test_made_split_leaves_equal_images_together(tmp_path):
    for i in range(60):
        image(tmp_path / "ab"[i % 2] / f"{i}.jpg", str(i // 4 * 2 + i % 2).encode())  # each twice
    data = open_labelled(tmp_path, refuse_duplicates=True)
    assert duplicates(data) == []
    assert len(data.rows("test")) >= 4


# Classes of a checkpoint


def test_classes_go_by_name(tmp_path):
    path = table(tmp_path, "file,label,split", "a.jpg,cat,test", "b.jpg,dog,test")
    data = check_classes(open_labelled(path), ["dog", "bird", "cat"])
    assert data.class_names == ("dog", "bird", "cat")
    assert as_rows(data) == {"a.jpg": "cat", "b.jpg": "dog"}
    assert data.targets.tolist() == [2, 0]
    assert "No image is of 1 of the checkpoint's 3 classes: bird." in data.remarks
    (tmp_path / "saved.csv").write_bytes(to_csv(data))
    assert_identical(data, open_labelled(tmp_path / "saved.csv"))
    with pytest.raises(UserError, match=r'does not have 1 of the 2 classes of the data: cat; .* did you mean "cats"'):
        check_classes(open_labelled(path), ["dog", "cats"])
    labels = table(tmp_path, "file,labels,split", "c.jpg,x|y,test", "d.jpg,y,test", name="several.csv")
    assert check_classes(open_labelled(labels), ["y", "x"]).targets.tolist() == [[1, 1], [1, 0]]


# The saved table


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("file,label,split,group,weight", ['" a,b.jpg",b,train,g1,0.1', 'c.jpg,a|b,val,"g,2",3', "d.jpg,b,test,g3,1"]),
        ("file,label", [f"{i}.jpg,{i % 3} {i % 2}" for i in range(30)]),
        ("path,file,split,weight", ["a.jpg,0.1,train,1.5", "b.jpg,1e-7,test,2", "c.jpg,2,val,0"]),
        ("img,z,a,é", ["a.jpg,1,0,1", "b.jpg,0,1,1", "c.jpg,0,0,0"]),
    ],
)
def test_saved_table_is_read_as_the_same(tmp_path, header, rows):
    """From another folder, with settings that would have split it differently."""
    (tmp_path / "data").mkdir()
    columns = Columns(file="path", label=("file", "weight"), weight="") if header.startswith("path") else None
    data = open_labelled(table(tmp_path / "data", header, *rows), columns)
    (tmp_path / "run").mkdir()
    saved = tmp_path / "run" / "split.csv"
    saved.write_bytes(to_csv(data))
    assert_identical(data, open_labelled(saved, seed=7, fractions=(0.5, 0.25, 0.25)))


def test_saved_table_is_plain_csv(tmp_path):
    path = table(tmp_path, "file,label,patient", *(f"{i}.jpg,{'ab'[i % 2]},p{i}" for i in range(20)))
    data = open_labelled(path)
    rows = list(csv.DictReader(io.StringIO(to_csv(data).decode())))
    assert [row["file"] for row in rows] == [f"{i}.jpg" for i in range(20)]
    assert [row["label"] for row in rows] == ["a", "b"] * 10
    assert [row["group"] for row in rows] == [f"p{i}" for i in range(20)]
    assert [row["split"] for row in rows] == data.split.tolist()


def test_edited_table_is_read_as_edited(tmp_path):
    """Rows moved to another split, and sorted."""
    data = open_labelled(folder(tmp_path, {"a": 6, "b": 6}))
    lines = to_csv(data).decode().splitlines()
    first = data.split[0]
    moved = lines[1].replace(f'"{first}"', '"test"' if first == "train" else '"train"', 1)
    (tmp_path / "edited.csv").write_text("\n".join([lines[0], *lines[2:], moved]))
    edited = open_labelled(tmp_path / "edited.csv")
    assert edited.split[-1] != first
    assert as_rows(edited) == as_rows(data)
    (tmp_path / "damaged.csv").write_text("\n".join(lines).replace('""task""', '""tusk""'))
    with pytest.raises(UserError, match='column "about" is damaged'):
        open_labelled(tmp_path / "damaged.csv")


def test_changes_since_a_table_was_saved_are_named(tmp_path):
    rows = [f"{i}.jpg,{'ab'[i % 2]},{'train' if i < 6 else 'test'},g{i},{i + 1}" for i in range(8)]
    header, saved = "file,label,split,group,weight", tmp_path / "saved.csv"

    def opened(rows):
        return open_labelled(table(tmp_path, header, *rows), fractions=(1, 0, 0))

    saved.write_bytes(to_csv(opened(rows)))
    assert changes(saved, opened(rows)) == ""
    for row, expected in [
        ("2.jpg,b,train,g2,3", "images that differ: 1 with another label, such as 2.jpg"),
        ("2.jpg,a,test,g2,3", "images that differ: 1 with another split, such as 2.jpg"),
        ("2.jpg,a,train,h,3", "images that differ: 1 with another group, such as 2.jpg"),
        ("2.jpg,a,train,g2,9", "images that differ: 1 with another weight, such as 2.jpg"),
        ("x.jpg,a,train,g2,3", "images that differ: 1 new, such as x.jpg; 1 gone, such as 2.jpg"),
    ]:
        assert changes(saved, opened([*rows[:2], row, *rows[3:]])) == expected
    several = [f"{i}.jpg,{'a|b' if i < 3 else 'b'},train,g,1" for i in range(4)]
    saved.write_bytes(to_csv(opened(several)))
    assert changes(saved, opened(['0.jpg,"b|a",train,g,1', *several[1:3], "3.jpg,b|c,train,g,1"])) == (
        "images that differ: 1 with another label, such as 3.jpg"
    )
    assert changes(saved, opened(several[::-1])) == "the classes, or images, are in another order"
    saved.write_text("file,label\na.jpg,x\n")
    assert "is missing" in changes(saved, opened(several))


# As a data set


def test_source_gives_bytes_and_targets(tmp_path):
    data = open_labelled(folder(tmp_path, {"train/a": 1, "train/b": 1, "test/b": 2}))
    source = split_source(data, "test")
    assert source.class_names == ("a", "b")
    assert len(source) == 2
    assert source[1] == (str(tmp_path / "test/b/001.jpg").encode(), 1)
    assert source.example_id(1) == "test/b/001.jpg"
    assert source.fingerprint() != split_source(data, "train").fingerprint()
    path = table(tmp_path, "file,labels,split", "c.jpg,x|y,train", "d.jpg,y,train")
    several = split_source(open_labelled(path), "train")
    assert several[1][1].tolist() == [0, 1]
    assert several[1][1].dtype == np.float32
    relabelled = table(tmp_path, "file,labels,split", "c.jpg,x|y,train", "d.jpg,x,train")
    assert several.fingerprint() != split_source(open_labelled(relabelled), "train").fingerprint()
