"""Which files of a folder are pictures, and what is said of the others."""

import builtins
import io
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xception_jax.data.files import pictures
from xception_jax.data.sources.folder import Folder
from xception_jax.data.sources.image_files import find_images
from xception_jax.errors import UserError


def picture(path, name="PNG"):
    """Writes a small picture, whatever its file is called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), 200, np.uint8)).save(buffer, name)
    path.write_bytes(buffer.getvalue())


def names(folder, passed_over=None):
    return [path.relative_to(folder).as_posix() for path in pictures(folder, passed_over)]


FORMATS = {"JPEG": ".jpg .jpeg .jpe .jfif .JPG", "PNG": ".png .PNG", "WEBP": ".webp", "BMP": ".bmp .dib"}
FORMATS |= {"GIF": ".gif", "TIFF": ".tif .tiff", "AVIF": ".avif", "JPEG2000": ".jp2", "PPM": ".ppm .pnm"}


def test_every_format_is_found_by_its_ending_without_opening_it(tmp_path, monkeypatch):
    files = [(f"a{i}{ending}", name) for name, all_of in FORMATS.items() for i, ending in enumerate(all_of.split())]
    for file, name in files:
        picture(tmp_path / file, name)
    (tmp_path / "notes.txt").write_text("no picture")
    monkeypatch.setattr(builtins, "open", None)
    assert sorted(names(tmp_path)) == sorted(file for file, _ in files)


def test_other_names_are_pictures_by_their_first_bytes(tmp_path):
    for file, name in (("none", "JPEG"), ("a.b", "PNG"), ("x.image", "WEBP"), ("y.bin", "TIFF"), ("v1.2", "AVIF")):
        picture(tmp_path / file, name)
    (tmp_path / "README").write_text("no picture")
    (tmp_path / "heic.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (tmp_path / "a.txt").write_text("BMP")
    (tmp_path / "b.txt").write_text("")
    passed_over = Counter()
    assert names(tmp_path, passed_over) == ["a.b", "none", "v1.2", "x.image", "y.bin"]
    assert passed_over == {".txt": 2, "": 1, ".heic": 1}


def test_what_systems_leave_behind_is_no_picture_at_any_depth(tmp_path):
    for file in ("a.png", "@eaDir/a.png", "b/@eaDir/a.png", "b/c/__MACOSX/._a.png", "b/.ipynb_checkpoints/a-check.png"):
        picture(tmp_path / file)
    for file in ("b/._a.png", "Thumbs.db", "b/desktop.ini", ".hidden.png"):
        picture(tmp_path / file)
    picture(tmp_path / "b" / "folder.png" / "inside.png")
    passed_over = Counter()
    assert names(tmp_path, passed_over) == ["a.png", "b/folder.png/inside.png"]
    assert not passed_over


def test_links_are_followed_once(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    picture(root / "a.png")
    picture(elsewhere / "deep" / "b.png")
    picture(elsewhere / "c.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere)
    (elsewhere / "deep" / "up").symlink_to(root)
    (root / "itself").symlink_to(root)
    (root / "d.png").symlink_to(elsewhere / "c.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    assert names(root) == ["a.png", "again/c.png", "again/deep/b.png", "d.png", "gone.png"]


def test_pipes_are_not_waited_for(tmp_path):
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "c")
    (tmp_path / "d.png").symlink_to(tmp_path / "b.png")
    assert names(tmp_path) == ["a.png"]


def test_order_is_that_of_paths(tmp_path):
    """Which runs of earlier versions go on with."""
    for file in ("b/1.png", "b.png", "b-/2.png", "B/x.png", "a/z/y.png", "a/z.png", "é.png"):
        picture(tmp_path / file)
    assert list(pictures(tmp_path)) == sorted(p for p in tmp_path.rglob("*.png") if p.is_file())


def test_what_is_passed_over_is_said(tmp_path):
    picture(tmp_path / "a" / "x.png")
    for file in ("1.txt", "2.TXT", "3.heic", "none"):
        (tmp_path / "a" / file).write_text("no picture")
    found, remarks = find_images([tmp_path, tmp_path / "a" / "1.txt"])
    assert found == [tmp_path / "a" / "x.png", tmp_path / "a" / "1.txt"]
    assert remarks == [f"passed over in {tmp_path}: 2 .txt, 1 without an ending, 1 .heic"]
    (tmp_path / "a" / "x.png").unlink()
    with pytest.raises(UserError, match=r"there are no pictures in .*; passed over in .*: 2 \.txt") as refused:
        find_images([tmp_path])
    assert "XCEPTION_JAX_CACHE" not in str(refused.value)
    (tmp_path / "0000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1 \.parquet.*; Parquet files .* unpack are in data/ of \$XCEPTION_JAX_CACHE"):
        find_images([tmp_path])


def split(root, name, *classes):
    for c in classes:
        picture(root / name / c / "0.png")


def test_a_class_without_pictures_is_none_and_named(tmp_path):
    split(tmp_path, "train", "ant", "bee")
    for folder in ("train/cow", "train/@eaDir", "train/.ipynb_checkpoints", "train/dog"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train" / "dog" / "list.txt").write_text("")
    picture(tmp_path / "train" / "outside.png")
    source = Folder(tmp_path, "train", "train")
    assert source.class_names == ("ant", "bee")
    no_class, passed_over = source.remarks
    assert no_class == f"without pictures in {tmp_path / 'train'}, and so no class: cow, dog"
    assert passed_over == f"passed over in {tmp_path / 'train'}: 1 .png outside of class folders, 1 .txt"


def test_a_class_is_one_however_unicode_writes_it(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    split(tmp_path, "train", "tea", decomposed)
    split(tmp_path, "test", "tea", composed)
    for name in ("train", "test"):
        source = Folder(tmp_path, name, "train")
        assert source.class_names == (composed, "tea")
        assert [source[i][1] for i in range(len(source))] == [0, 1]


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT"])
def test_classes_that_are_written_almost_alike_are_refused(tmp_path, other):
    split(tmp_path, "train", "cat", "dog", other)
    with pytest.raises(UserError, match=f"'{other}'.*almost alike.*rename one") as error:
        Folder(tmp_path, "train", "train")
    assert "'cat'" in str(error.value)


def test_both_forms_of_unicode_in_one_split_are_refused(tmp_path):
    split(tmp_path, "train", "tea", unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"))
    with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9'"):
        Folder(tmp_path, "train", "train")


def test_a_class_in_other_letters_gets_a_hint(tmp_path):
    split(tmp_path, "train", "cat", "dog")
    split(tmp_path, "test", "Cat", "dog")
    with pytest.raises(UserError, match='does not have: Cat; did you mean "cat"'):
        Folder(tmp_path, "test", "train")


def test_splits_are_found_in_any_case(tmp_path):
    split(tmp_path, "Train", "cat", "dog")
    split(tmp_path, "VAL", "cat", "dog")
    assert Folder(tmp_path, "validation", "train").example_id(1) == "VAL/dog/0.png"


@pytest.mark.parametrize(
    ("files", "asked", "said"),
    [
        (["train/a/1.png", "train/b/1.png", "Val/a/1.png"], "test", "--config.data.test_split=validation"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "validation", "--config.data.validation_split=test"),
        (
            ["train/a/1.png", "train/b/1.png", "test/1.png"],
            "test",
            "no class folders.*another split.*predict --weights",
        ),
        (["a/1.png", "b/1.png"], "train", "if these are classes, move them into a folder train"),
        (["train/1.png", "train/2.png"], "train", "no class folders with pictures.*have no class folders"),
        (["test/a/1.png", "test/b/1.png"], "train", "train_split=test"),
    ],
)
def test_the_way_on_is_named(tmp_path, files, asked, said):
    for file in files:
        picture(tmp_path / file)
    with pytest.raises(UserError, match=said):
        Folder(tmp_path, asked, "train")


def test_names_that_are_no_utf_8_are_text_everywhere(tmp_path):
    split(tmp_path, "train", "cat", "dog", os.fsdecode(b"caf\xe9"))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/train/cat/\xff\xfe.png"))
    picture(odd)
    source = Folder(tmp_path, "train", "train")
    ids = [source.example_id(i) for i in range(len(source))]
    assert ids == ["train/caf\\xe9/0.png", "train/cat/0.png", "train/cat/\\xff\\xfe.png", "train/dog/0.png"]
    assert source.class_names[0] == "caf\\xe9"
    "".join([*ids, *source.class_names]).encode()
    assert source[2][0] == odd.read_bytes()
