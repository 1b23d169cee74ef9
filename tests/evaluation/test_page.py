"""The page: whole, closed, without references to others, with every name as it is."""

import html.parser
import re

import cv2
import numpy as np
import pytest

from tests.evaluation.test_analysis import multi_label, outcome, single_label
from xception_jax.evaluation import drawing
from xception_jax.evaluation.analysis import analyse
from xception_jax.evaluation.drawing import Axis, chart
from xception_jax.evaluation.outcome import Outcome
from xception_jax.evaluation.page import Curve, Measured, Mistake, Report, write_page

VOID = {"meta", "br", "img"}
HOSTILE = ('<script>alert("x")</script>', "שלום & co", "🫁" * 3)
PICTURE = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()


class Reader(html.parser.HTMLParser):
    """Texts and attributes of a page, whose tags must be closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))


def read(tmp_path, *splits, **fields):
    write_page(tmp_path / "page.html", Report("A & B", splits, **fields))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)
    reader = Reader(page)
    assert "link" not in reader.tags
    assert all(
        value.startswith("data:image/png;base64,") for name, value in reader.attributes if name in ("src", "href")
    )
    numbers = [value for name, value in reader.attributes if name in ("d", "cx", "cy", "r", "style", "x", "y")]
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(numbers))
    return reader


def measured(o, chose=None):
    return Measured(o, analyse(o, resamples=100), chose)


def test_everything_is_on_the_page(tmp_path):
    o = single_label(n=80, k=3, temperature=2.0, deviation=np.full((80, 3), 0.1))
    o = Outcome(**{**vars(o), "class_names": HOSTILE})
    mistake = Mistake("a\udcff<.png", HOSTILE[0], HOSTILE[1], 0.875, PICTURE, PICTURE)
    page = read(
        tmp_path,
        measured(o, ()),
        measured(Outcome(**{**vars(o), "split": "validation"}), ("the regularization", "the <temperature>")),
        facts=[("weights", "<imagenet>")],
        curves=[
            Curve(
                "Choice <of>",
                Axis("L2", log=True),
                Axis("loss"),
                {"a<b": ([0, 0.1, 1], [3, float("nan"), 1])},
                mark=0.1,
            )
        ],
        mistakes=[mistake, Mistake("b.png", "x", "y", 0.5, PICTURE)],
        next_steps=[("In a shell", "xception-jax predict <FOLDER> && ls")],
    )
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 3
    figure = analyse(o, resamples=100)["figures"]["accuracy"]
    low, high = figure["interval"]
    for text in (
        *HOSTILE,
        f"{figure['value']:.3f}accuracy [{low:.3f}\N{EN DASH}{high:.3f}]",
        "80 images, 3 classes",
        "Split test was used only for evaluation; nothing was chosen by it.",
        "validation was used to choose the regularization and the <temperature>",
        "divided by a temperature of 2.",
        "by deviation",
        "Choice <of>",
        "<imagenet>",
        "(0.875)",
        "a\\udcff<.png",
        "xception-jax predict <FOLDER> && ls",
    ):
        assert text in page.text


def test_a_split_that_chose_is_not_called_a_test(tmp_path):
    page = read(tmp_path, measured(single_label(k=2), ("the regularization",)))
    assert "There is no test split. Split test was used to choose the regularization" in page.text
    assert "only for evaluation" not in page.text


def test_what_is_not_known_of_a_split_is_not_said(tmp_path):
    page = read(tmp_path, measured(single_label(k=2)))
    assert "was used" not in page.text


def test_a_hundred_classes_are_drawn_not_written(tmp_path):
    o = single_label(n=300, k=100)
    cells = read(tmp_path, measured(o))
    assert cells.attributes.count(("class", "grid")) == 1
    drawn = " ".join(v for n, v in cells.attributes if n == "d")
    assert len(re.findall(r"h1v1h-1z", drawn)) == np.count_nonzero(analyse(o, resamples=1)["confusion"])
    assert read(tmp_path, measured(single_label(n=100, k=20))).attributes.count(("class", "confusion")) == 1


@pytest.mark.parametrize("k", [1, 6, 40])
def test_several_labels(tmp_path, k):
    page = read(tmp_path, measured(multi_label(k=k), ()))
    assert "macro average precision" in page.text
    assert "pairs of image and class" in page.text
    assert ("ROC" in page.text.split("By class")[1].split("Calibration")[0].replace("ROC AUC", "")) == (k <= 8)


@pytest.mark.parametrize("k", [1, 3])
def test_values(tmp_path, k):
    targets = np.random.default_rng(0).normal(size=(3000, k)) * 1e5
    page = read(tmp_path, measured(outcome("regression", targets, targets * 0.9), ()))
    assert "R²" in page.text
    assert page.tags.count("circle") == 2000 * k
    assert "2,000 of 3,000 images are drawn" in page.text
    assert ("By target value" in page.text) == (k > 1)


def test_one_image_and_constant_values(tmp_path):
    assert "1 image, 2 classes" in read(tmp_path, measured(outcome("single_label", [1], [[0.0, 1.0]]), ())).text
    read(tmp_path, measured(outcome("multi_label", [[0, 0]], [[0.0, 1.0]]), ()))
    read(tmp_path, measured(outcome("regression", [[0.0]] * 3, [[1.0]] * 3), ()))


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 9, False, [-2.5, 0, 2.5, 5, 7.5]),
        (0.08, 3, True, [0.1, 0.2, 0.5, 1, 2]),
        (1e-6, 1e3, True, [1e-6, 1e-4, 1e-2, 1, 100]),
        (4, 6, True, [4, 4.5, 5, 5.5, 6]),
    ],
)
def test_ticks_are_round_numbers_in_the_range(low, high, log, expected):
    assert drawing.ticks(low, high, log) == pytest.approx(expected)


def test_predicted_and_true_values_have_the_same_axes():
    """The diagonal is one: as high as wide, in the frame; a point on it has equal distances from the corner."""
    drawn = chart({"a": ([0, 50], [10, 50])}, Axis("true"), Axis("predicted"), diagonal=True, square=True)
    x0, y0, x1, y1 = map(float, re.search(r'dashed" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', drawn).groups())
    assert x1 - x0 == pytest.approx(y0 - y1) == 360 - 54 - 12
    assert (x0, y1) == (54, 12)
    assert f'viewBox="0 0 360 {12 + 294 + 44}"' in drawn


def test_points_are_where_their_axes_say():
    """The corners of the axes' ranges are those of the frame, and what a logarithm has not is a gap."""
    drawn = chart({"a": ([1, 100], [0, 1])}, Axis("x", log=True, range=(1, 100)), Axis("y", range=(0, 1)))
    left, right, top, bottom = 54, 360 - 12, 12, 260 - 44
    assert f'd="M{left}.0 {bottom}.0L{right}.0 {top}.0"' in drawn
    gap = chart({"a": ([1, 0, 100], [0, 1, 1])}, Axis("x", log=True, range=(1, 100)), Axis("y", range=(0, 1)))
    assert f'd="M{left}.0 {bottom}.0M{right}.0 {top}.0"' in gap
