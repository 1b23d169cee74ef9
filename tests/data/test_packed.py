"""Data sets with the images inside of large files, Hugging Face's and TFDS': what is read, and what is refused."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.data.test_labelled import as_rows, assert_identical, counts, folder, image
from xception_jax.data.labelled import Columns, open_labelled, split_source, to_csv
from xception_jax.data.labelled.columns import read_table
from xception_jax.errors import UserError
from xception_jax.filesystem import paths

BINARY, TEXT = pyarrow.binary(), pyarrow.string()
IMAGE = pyarrow.struct({"bytes": BINARY, "path": TEXT})
ANIMALS = {"_type": "ClassLabel", "names": ["dog", "cat", "eel, electric"]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shard(path, columns, features=None, types=None):
    """A Parquet file as the library `datasets` writes it; images are of given contents."""
    features = features or {}
    types = {"image": IMAGE, **(types or {})}
    arrays = {name: pyarrow.array(cells, types.get(name)) for name, cells in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(arrays).replace_schema_metadata(metadata), path, row_group_size=3)
    return path


def embedded(*names):
    return [{"bytes": f"contents of {name}".encode(), "path": name} for name in names]


def images(prefix, labels, features=ANIMALS, **more):
    """Columns of a shard with an image for each label."""
    names = [f"{prefix}{i}.jpg" for i in range(len(labels))]
    return {"image": embedded(*names), "label": labels, **more}, {"image": {"_type": "Image"}, "label": features}


def hub_folder(root):
    """As `hf download --repo-type=dataset --local-dir` leaves it."""
    shard(root / "data/train-00000-of-00002-1a2b.parquet", *images("a", [0, 1, 0, 1, 2, 2]))
    shard(root / "data/train-00001-of-00002-3c4d.parquet", *images("b", [2, 0, 1]))
    shard(root / "data/validation-00000-of-00001.parquet", *images("c", [2, 1, 0]))
    shard(root / "data/test-00000-of-00001.parquet", *images("d", [1, 0, 2]))
    shard(root / ".cache/huggingface/data/test-00000-of-00001.parquet", *images("x", [1]))
    (root / "README.md").write_text("---\nlicense: mit\n---")
    (root / ".gitattributes").write_text("*.parquet filter=lfs")
    return root


def test_files_with_other_classes_for_the_same_numbers_are_refused(tmp_path):
    shard(tmp_path / "set/train.parquet", *images("a", [0, 1]))
    other = {"_type": "ClassLabel", "names": ["cat", "dog", "eel, electric"]}
    shard(tmp_path / "set/test.parquet", *images("b", [0, 1], other))
    with pytest.raises(UserError, match=r'other classes for the numbers of column "label": cat, dog, .*, and dog, cat'):
        open_labelled(tmp_path / "set")


def test_folders_may_be_links(tmp_path):
    """To another disk, say; each is read once."""
    hub_folder(tmp_path / "disk")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data").symlink_to(tmp_path / "disk/data")
    (tmp_path / "set/data/again").symlink_to(tmp_path / "set")
    assert len(open_labelled(tmp_path / "set").files) == len(open_labelled(tmp_path / "disk").files) == 15


def test_folder_of_shards(tmp_path):
    """Classes in the order and by the names of the schema; splits by the files' names; contents byte for byte."""
    data = open_labelled(hub_folder(tmp_path / "animals"))
    assert data.task == "single_label"
    assert data.class_names == ("dog", "cat", "eel, electric")
    assert {split: len(data.rows(split)) for split in ("train", "validation", "test")} == {
        "train": 9,
        "validation": 3,
        "test": 3,
    }
    rows = as_rows(data)
    assert rows["data/train-00000-of-00002-1a2b/000004_a4.unknown"] == "eel, electric"
    assert rows["data/train-00001-of-00002-3c4d/000002_b2.unknown"] == "cat"
    source = split_source(data, "test")
    assert [source[i] for i in range(3)] == [
        (f"contents of d{i}.jpg".encode(), label) for i, label in ((0, 1), (1, 0), (2, 2))
    ]
    assert f"The images of {tmp_path / 'animals'} are unpacked in {data.root}." in data.remarks


def test_shards_are_unpacked_once_and_again_if_they_change(tmp_path, capsys):
    folder = hub_folder(tmp_path / "animals")
    first = open_labelled(folder)
    assert "unpacking 15 images" in capsys.readouterr().out
    assert_identical(open_labelled(folder), first)
    assert capsys.readouterr().out == ""
    (first.root / "images.parquet").unlink()  # as if it had been interrupted, in the middle of a file
    whole = first.paths()[4].read_bytes()
    first.paths()[4].write_bytes(whole[:3])
    assert_identical(open_labelled(folder), first)
    assert first.paths()[4].read_bytes() == whole
    test = shard(folder / "data/test-00000-of-00001.parquet", *images("other", [1, 0, 2]))
    os.utime(test, (1, 1))
    assert b"other" in split_source(open_labelled(folder), "test")[0][0]


def test_moved_data_set_is_not_unpacked_again(tmp_path, capsys):
    first = open_labelled(hub_folder(tmp_path / "animals"))
    (tmp_path / "animals").rename(tmp_path / "beasts")
    capsys.readouterr()
    moved = open_labelled(tmp_path / "beasts")
    assert capsys.readouterr().out == ""
    assert moved.root == first.root
    assert f"The images of {tmp_path / 'beasts'} are unpacked in {first.root}." in moved.remarks


def test_saved_table_of_a_data_set_is_read_as_the_same(tmp_path):
    columns, features = images("a", [0, 1] * 20, patient=[f"p{i // 4}" for i in range(40)], weight=[1.5] * 40)
    data = open_labelled(shard(tmp_path / "one.parquet", columns, features), seed=3)
    assert data.group is not None
    assert all(sum(split) == 20 and all(split) for split in (counts(data)["dog"], counts(data)["cat"]))
    assert any("with seed 3" in remark and "groups undivided" in remark for remark in data.remarks)
    (tmp_path / "saved.csv").write_bytes(to_csv(data))
    assert_identical(data, open_labelled(tmp_path / "saved.csv"))


@pytest.mark.parametrize(
    ("columns", "features", "types", "task", "names", "targets"),
    [
        ({"label": [1, 0, 2]}, {}, {}, "single_label", ("0", "1", "2"), [1, 0, 2]),
        ({"label": ["b c", "a", "b c"]}, {}, {}, "single_label", ("a", "b c"), [1, 0, 1]),
        ({"age": [1.5, 2.0, 3.0]}, {}, {}, "regression", ("age",), [[1.5], [2], [3]]),
        ({"species": [1, 0, 2], "width": [7, 7, 8]}, {"species": ANIMALS}, {}, "single_label",
         ("dog", "cat", "eel, electric"), [1, 0, 2]),
        ({"labels": [[0, 2], [], [1]]}, {"labels": {"_type": "Sequence", "feature": ANIMALS}}, {}, "multi_label",
         ("dog", "cat", "eel, electric"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        ({"labels": [[0, 2], [], [1]]}, {"labels": [ANIMALS]}, {}, "multi_label",
         ("dog", "cat", "eel, electric"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        ({"label": [1, 0, 2], "sex": [0, 1, 1]}, {"sex": ANIMALS}, {}, "single_label", ("0", "1", "2"), [1, 0, 2]),
        ({"label": ["b", "a", "b"]}, {"label": ANIMALS}, {}, "single_label", ("a", "b"), [1, 0, 1]),
        ({"tags": [["x"], [], ["y"]]}, {}, {}, "multi_label", ("x", "y"), [[1, 0], [0, 0], [0, 1]]),
        ({"tags": [["x y", "z"], ["z"], ["x y"]]}, {}, {}, "multi_label", ("x y", "z"), [[1, 1], [0, 1], [1, 0]]),
    ],
)  # fmt: skip
def test_labels_are_what_the_schema_says(tmp_path, columns, features, types, task, names, targets):
    path = shard(tmp_path / "x.parquet", {"image": embedded("0", "1", "2"), **columns}, features, types)
    data = open_labelled(path, fractions=(1, 0, 0))
    assert (data.task, data.class_names, data.targets.tolist()) == (task, names, targets)


def test_images_without_a_label_are_left_out_and_those_without_contents_are_unreadable(tmp_path):
    columns, features = images("a", [0, 1, -1, None, 1])
    columns["image"][1] = {"bytes": None, "path": "gone.jpg"}
    data = open_labelled(shard(tmp_path / "x.parquet", columns, features), fractions=(0, 0, 1))
    assert data.targets.tolist() == [0, 1, 1]
    assert [file.read_bytes() for file in data.paths()] == [b"contents of a0.jpg", b"", b"contents of a4.jpg"]
    assert "Images without a label that are left out: 2, such as x/000002_a2.unknown." in data.remarks
    assert any(remark.endswith("classes eel, electric.") for remark in data.remarks)


@pytest.mark.parametrize(
    ("labels", "features", "kept"),
    [
        ([[0], None, [], [1]], {"label": [ANIMALS]}, [[1, 0], [0, 0], [0, 1]]),
        (["a", None, "b", ""], {}, [0, 1]),
        ([1.5, None, 2.5, float("nan")], {}, [[1.5], [2.5]]),
        ([["a"], None, [], ["b"]], {}, [[1, 0], [0, 0], [0, 1]]),
    ],
)
def test_images_without_a_label_are_left_out_whatever_the_task(tmp_path, labels, features, kept):
    """An empty list is a label: none of the classes. A split without labels is not there."""
    features = {"image": {"_type": "Image"}, **features}
    kind = pyarrow.array(labels).type
    for split, cells in (("train", labels), ("test", [None] * 5)):
        columns = {"image": embedded(*(f"{split}{i}" for i in range(len(cells)))), "label": cells}
        shard(tmp_path / f"{split}.parquet", columns, features, {"label": kind})
    data = open_labelled(tmp_path, fractions=(1, 0, 0))
    assert data.targets.tolist() == kept
    assert data.split.tolist() == ["train"] * len(kept)
    count = f"{9 - len(kept)}, all of test"
    assert f"Images without a label that are left out: {count}, such as test/000000_test0.unknown." in data.remarks


def test_the_same_image_in_two_splits_is_counted(tmp_path):
    folder = hub_folder(tmp_path / "animals")
    shard(folder / "data/test-00000-of-00001.parquet", *images("a", [0, 1]))
    data = open_labelled(folder)
    assert any(remark.startswith("2 images are also in another split") for remark in data.remarks)


def test_splits_in_folders_and_others_are_passed_over(tmp_path):
    """As in the hub's own conversions, and a binary column that the schema says has images."""
    columns = {"img": [b"1", b"2"], "label": [0, 1]}
    features = {"img": {"_type": "Image"}, "label": ANIMALS}
    for split in ("train", "test", "unsupervised"):
        shard(tmp_path / f"default/{split}/0000.parquet", columns, features)
    data = open_labelled(tmp_path)
    assert {name.split("/")[1] for name in data.files} == {"train", "test"}
    assert "Splits passed over: unsupervised." in data.remarks
    for config in ("large", "small"):
        shard(tmp_path / f"{config}/train/0000.parquet", columns, features)
    with pytest.raises(
        UserError, match=f"several data sets, default, large, small; give one of them, such as {tmp_path}/default"
    ):
        open_labelled(tmp_path)


def test_all_files_are_found_with_other_images_between_them(tmp_path):
    shard(tmp_path / "test/0000.parquet", *images("a", [0, 1]))
    shard(tmp_path / "train/0000.parquet", *images("b", [0, 1] * 5))
    image(tmp_path / "preview.png")
    image(tmp_path / "thumbs/x.png")
    data = open_labelled(tmp_path)
    assert len(data.files) == 12
    assert len(data.rows("test")) == 2
    image(tmp_path / "others/x.png")  # now there are two folders that may be classes
    with pytest.raises(UserError, match=r"both Parquet files with images in them, such as test/0000.parquet, and fold"):
        open_labelled(tmp_path)
    assert len(open_labelled(tmp_path / "train").files) == 10


def test_the_hub_s_conversion_of_a_large_data_set(tmp_path):
    for split, count in (("partial-train", 8), ("test", 2)):
        shard(tmp_path / f"default/{split}/0000.parquet", *images(split, [0, 1] * (count // 2)))
    data = open_labelled(tmp_path)
    assert [data.files[i].split("/")[1] for i in data.rows("test")] == ["test"] * 2
    assert sum(file.startswith("default/partial-train") for file in data.files) == 8


def test_images_to_test_on_are_not_split_again(tmp_path):
    for split in ("fold1", "fold2", "test"):
        shard(tmp_path / f"{split}.parquet", *images(split, [0, 1]))
    with pytest.raises(UserError, match="the splits fold1, fold2, test, of which only test is known, but not which to"):
        open_labelled(tmp_path)
    assert len(open_labelled(tmp_path / "test.parquet", fractions=(0, 0, 1)).rows("test")) == 2


def test_renamed_split_is_not_taken_for_the_other(tmp_path):
    """The files' names, sizes and times stay the same."""
    for split, labels in (("train", [0, 1]), ("validation", [1, 0])):
        shard(tmp_path / split / "0000.parquet", *images("a", labels))
        os.utime(tmp_path / split / "0000.parquet", (1, 1))
    assert set(open_labelled(tmp_path).split) == {"train", "validation"}
    (tmp_path / "train").rename(tmp_path / "test")
    assert set(open_labelled(tmp_path).split) == {"test", "validation"}


def test_unpacked_image_that_is_deleted_is_unpacked_again(tmp_path):
    path = shard(tmp_path / "x.parquet", *images("a", [0, 1, 1]))
    data = open_labelled(path, fractions=(1, 0, 0))
    data.paths()[1].unlink()
    assert_identical(open_labelled(path, fractions=(1, 0, 0)), data)
    assert data.paths()[1].read_bytes() == b"contents of a1.jpg"


def test_unpacked_by_several_at_once(tmp_path, monkeypatch):
    """Processes of different containers, whose numbers may be the same, unpack the same at any pace."""
    path = shard(tmp_path / "x.parquet", *images("a", [0, 1, 1]))
    monkeypatch.setattr(os, "getpid", lambda: 7)
    write, between = Path.write_bytes, []

    def write_bytes(part, contents):
        write(part, contents)
        if not between:
            between.append(part)
            open_labelled(path)  # all of another process, before this one's first file has its name

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    data = open_labelled(path, fractions=(1, 0, 0))
    assert [file.read_bytes() for file in data.paths()] == [f"contents of a{i}.jpg".encode() for i in range(3)]
    assert sorted(file.name for file in data.root.rglob("*") if file.is_file()) == sorted(
        ["images.parquet", *(file.name for file in data.paths())]
    )


def test_damaged_footer(tmp_path):
    path = shard(tmp_path / "x.parquet", *images("a", [0, 1, 1]))
    contents = bytearray(path.read_bytes())
    footer = len(contents) - 8 - int.from_bytes(contents[-8:-4], "little")
    for i in range(footer, footer + 40):
        contents[i] ^= 0xFF
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"x\.parquet is damaged: "):
        open_labelled(path)
    with pytest.raises(UserError, match=r"x\.parquet is damaged: "):
        read_table(path)


def test_one_of_several_images_is_chosen(tmp_path):
    columns = {"left": embedded("0", "1"), "right": embedded("2", "3"), "label": [0, 1], "file": ["a.jpg", "b.jpg"]}
    path = shard(tmp_path / "x.parquet", columns, types={"left": IMAGE, "right": IMAGE})
    with pytest.raises(UserError, match=r"images, left, right; choose one by --config\.data\.columns\.file=COL"):
        open_labelled(path)
    data = open_labelled(path, Columns(file="right"), fractions=(0, 0, 1))
    assert data.paths()[0].read_bytes() == b"contents of 2"
    for name in columns["file"]:
        image(tmp_path / name)
    assert open_labelled(path, Columns(file="file"), fractions=(0, 0, 1)).files == ("a.jpg", "b.jpg")


def test_refused(tmp_path):
    text = shard(tmp_path / "text/train-00000-of-00001.parquet", {"text": ["x"], "label": [0]})
    with pytest.raises(
        UserError, match=r"no images in them: train-.* the columns text, label; expected a column of images"
    ):
        open_labelled(tmp_path / "text")
    with pytest.raises(UserError, match="which column has the files"):
        open_labelled(text)
    (tmp_path / "text/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is damaged"):
        open_labelled(tmp_path / "text")
    with pytest.raises(UserError, match=r"no folder or table .*/imagenet2012; data sets by name are hf:OWNER/NAME"):
        open_labelled("imagenet2012")


def test_the_label_is_no_column_of_images(tmp_path):
    path = shard(tmp_path / "x.parquet", *images("a", [0, 1], imago=["p", "q"]))
    with pytest.raises(UserError, match=rf'^{path}: column "image" has the images, and cannot .* did you mean "imago"'):
        open_labelled(path, Columns(label="image"))
    with pytest.raises(UserError, match=rf'^{path} has no column "imag"; did you mean "imago"'):
        open_labelled(path, Columns(label="imag"))
    table = tmp_path / "x.csv"
    table.write_text("image,kind\na.jpg,x\n")
    with pytest.raises(UserError, match=r'column "image" has the images, and cannot .* choose from: kind'):
        open_labelled(table, Columns(label="image"))


def test_what_is_missing_in_parquet_files_is_said(tmp_path):
    empty = shard(tmp_path / "empty/x.parquet", {"image": [], "label": []})
    with pytest.raises(UserError, match="0 rows"):
        open_labelled(empty)
    with pytest.raises(UserError, match="0 rows"):
        open_labelled(empty.parent)
    shard(tmp_path / "table/x.parquet", {"file": ["a.jpg"], "label": [0]})
    with pytest.raises(UserError, match="for a table of image files, give its path"):
        open_labelled(tmp_path / "table")
    columns = {"x": ["a"], "u": ["b"], "v": ["c"]}
    with pytest.raises(UserError, match=r"Give --config\.data\.columns\.file=COLUMN"):
        open_labelled(shard(tmp_path / "three.parquet", columns))


def test_folder_that_cannot_be_made_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path / "file"))
    path = shard(tmp_path / "x.parquet", *images("a", [0, 1, 1]))
    with pytest.raises(UserError, match=r"the images of .* cannot be kept in .* \(Not.*; set XCEPTION_JAX_CACHE"):
        open_labelled(path)


def test_too_little_space_is_said_before(tmp_path, monkeypatch, cache):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("xception_jax.data.labelled.unpacking.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"to unpack, but .* left; set XCEPTION_JAX_CACHE"):
        open_labelled(shard(tmp_path / "x.parquet", *images("a", [0, 1])))
    assert not cache.exists()


# By name on the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set; returns what was asked of it."""
    import huggingface_hub

    asked = []

    def snapshot_download(repository, **settings):
        asked.append((repository, settings))
        if repository != "me/animals":
            answer = type("Answer", (), {"headers": {}, "request": None, "status_code": 404})()
            raise huggingface_hub.errors.RepositoryNotFoundError("no", response=answer)
        return str(hub_folder(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_data_set_of_the_hub(hub):
    data = open_labelled("hf:me/animals")
    assert len(data.rows("train")) == 9
    assert data.remarks[0].startswith("The images of hf:me/animals are unpacked in ")
    assert data.root.name.startswith("animals-")
    assert open_labelled("hf:me/animals/data@v1.0").root.name.startswith("animals-data-")
    settings = {"repo_type": "dataset", "cache_dir": None}
    assert hub == [
        ("me/animals", {**settings, "revision": None, "allow_patterns": ["*.parquet", "*.pq"]}),
        ("me/animals", {**settings, "revision": "v1.0", "allow_patterns": ["data/*.parquet", "data/*.pq"]}),
    ]


def test_data_set_that_the_hub_does_not_give(hub, monkeypatch):
    import huggingface_hub

    with pytest.raises(UserError, match="hub has no data set me/animal, or shows it only to some"):
        open_labelled("hf:me/animal")
    with pytest.raises(UserError, match="has no Parquet files; the hub may have converted it: hf:me/animals@refs/conv"):
        open_labelled("hf:me/animals/images")
    with pytest.raises(UserError, match="hf:me/ is not the name of a data set: expected hf:OWNER/NAME"):
        open_labelled("hf:me/")

    def nothing_here(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing_here)
    with pytest.raises(UserError, match=r"^hf:me/animals is not in the hub's cache on .* and the .* cannot be reached"):
        open_labelled("hf:me/animals")

    def offline(*_, **__):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        UserError, match=r"datasets/me/animals cannot be fetched \(ConnectionError: no route\); .* --data=FOLDER"
    ):
        open_labelled("hf:me/animals")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="data set hf:me/animals needs huggingface_hub, which is not installed"):
        open_labelled("hf:me/animals")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("/my/data.v2/labels.csv", "labels"),
        ("hf:me/animals@refs/convert/parquet", "animals"),
        ("hf:mnist", "mnist"),
        ("hf:me/animals/data/large@v1.0", "animals-data-large"),
        ("tfds:cifar10:3.0.2", "cifar10-3.0.2"),
        ("tfds:voc/2012:5.0.0", "voc-2012-5.0.0"),
        ("tfds:imagenet_v2/matched-frequency", "imagenet_v2-matched-frequency"),
    ],
)
def test_short_names(data, name):
    assert paths.data_name(data) == name


# Images beside a table called metadata


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_images_with_metadata(tmp_path, name):
    def write(folder, rows):
        for row in rows:
            image(folder / row["file_name"])
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        text = lines if name.endswith("csv") else map(json.dumps, rows)
        (folder / name).write_text("\n".join(text) + "\n")

    write(tmp_path / "whole", [{"file_name": f"{i}.jpg", "label": "xy"[i % 2]} for i in range(20)])
    whole = open_labelled(tmp_path / "whole")
    assert as_rows(whole)["3.jpg"] == "y"
    assert any("No split was given" in remark for remark in whole.remarks)
    for split, count in (("train", 4), ("test", 2)):
        write(tmp_path / "parts" / split, [{"file_name": f"{i}.jpg", "label": "xy"[i % 2]} for i in range(count)])
    parts = open_labelled(tmp_path / "parts")
    assert [parts.files[i] for i in parts.rows("test")] == ["test/0.jpg", "test/1.jpg"]
    assert parts.targets[parts.rows("test")].tolist() == [0, 1]
    assert any(remark.endswith('label from "label", split from the folders.') for remark in parts.remarks)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("metadata.csv", b"file_name,caption\nx/000.jpg,grass\n"),
        ("metadata.csv", "name,ort\n1,K\xf6ln\n".encode("latin-1")),
        ("metadata.csv", b"# by the camera\nname,iso\n1,2\n"),
        ("metadata.csv", b""),
        ("metadata.jsonl", b"no json"),
        ("all.parquet", b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_folders_of_classes_stay_classes(tmp_path, name, contents):
    folder(tmp_path, {"x": 4, "y": 4})
    (tmp_path / name).write_bytes(contents)
    data = open_labelled(tmp_path)
    assert as_rows(data) == {f"{c}/{i:03}.jpg": c for c in "xy" for i in range(4)}
    assert any(name in remark or ".parquet" in remark or ".csv" in remark for remark in data.remarks)
    (tmp_path / "metadata.csv").write_text("file_name,label\nx/000.jpg,new\ny/000.jpg,old\n")
    if name != "metadata.jsonl":
        assert data.class_names != open_labelled(tmp_path).class_names == ("new", "old")


def test_json_lines_are_lines_and_utf_8(tmp_path):
    rows = [{"file_name": f"{i}\u2028.jpg", "label": "ab"[i % 2], "note": "a\u0085b"} for i in range(4)]
    for row in rows:
        image(tmp_path / row["file_name"])
    text = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode())
    assert as_rows(open_labelled(tmp_path)) == {row["file_name"]: row["label"] for row in rows}
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "K\xf6ln.jpg", "label": "a"}')
    with pytest.raises(UserError, match=r"metadata\.jsonl is not UTF-8 text"):
        open_labelled(tmp_path)


# TFDS


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A prepared data set of TFDS with three splits."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "image/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["rose", "tulip"]),
            "place": tfds.features.Text(),
            "pests": tfds.features.Sequence(tfds.features.ClassLabel(names=["aphid", "mite"])),
            "height": np.float32,
        }
    )
    splits = {"train": [0, 1, 1, 0], "validation": [1, 0], "test": [0, 1], "extra": [0]}

    def examples(split, labels):
        for i, label in enumerate(labels):
            yield (
                i,
                {
                    "image": io.BytesIO(f"\x89PNG\r\n\x1a\n {split} {i}".encode("latin-1")),
                    "image/filename": f"sub/{split}{i}.png",
                    "label": label,
                    "place": f"{split} {i}",
                    "pests": [[0, 1], [], [1], [0]][i],
                    "height": float("nan") if i == 1 else i + 0.5,
                },
            )

    class Flowers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "own_flowers"
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {split: examples(split, labels) for split, labels in splits.items()}

        def _generate_examples(self):
            yield from ()

    Flowers(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


@pytest.mark.parametrize("name", ["tfds:own_flowers", "tfds:own_flowers:1.2.0"])
def test_data_set_of_tfds(flowers, name):
    from xception_jax.data.sources.tfds import TfdsSource

    data = open_labelled(name, Columns(group="place"), data_dir=flowers)
    assert (data.task, data.class_names) == ("single_label", ("rose", "tulip"))
    assert "Splits passed over: extra." in data.remarks
    assert sorted(data.group[data.rows("test")]) == ["test 0", "test 1"]
    for split in ("train", "validation", "test"):
        ours, theirs = split_source(data, split), TfdsSource("own_flowers", flowers, split)
        assert [ours[i] for i in range(len(ours))] == [theirs[i] for i in range(len(theirs))]
    assert {file[: len("test/00000N_test")] for file in data.files[:2]} == {"test/000000_test", "test/000001_test"}


def test_lists_and_numbers_of_tfds(flowers):
    """An empty list is none of the classes, "not a number" is no label."""
    data = open_labelled("tfds:own_flowers", Columns(label="pests"), data_dir=flowers)
    assert (data.task, data.class_names) == ("multi_label", ("aphid", "mite"))
    assert sorted(data.targets[data.rows("train")].tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    data = open_labelled("tfds:own_flowers", Columns(label="height"), data_dir=flowers)
    assert (data.task, sorted(data.targets[data.rows("train")].tolist())) == ("regression", [[0.5], [2.5], [3.5]])
    assert any(remark.startswith("Images without a label that are left out: 3, such as ") for remark in data.remarks)


def test_data_set_that_tfds_does_not_have(tmp_path):
    with pytest.raises(UserError, match=r'unknown data set "cifar_10"; did you mean "cifar10"'):
        open_labelled("tfds:cifar_10", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r'data set "mnist" is not prepared in .*; prepare it: pip install'):
        open_labelled("tfds:mnist", data_dir=str(tmp_path))
