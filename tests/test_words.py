"""Counts and numbers as people read them."""

import pytest

from xception_jax.terminal.words import counted, significant


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((36363.36, "36,363"), (-13968.9371, "-13,969"), (123.456, "123.5"), (0.912, "0.9120"), (0.012345, "0.01235")),
        *((0.0, "0"), (1.25e-7, "1.25e-07"), (2.5e20, "2.5e+20"), (float("nan"), "nan")),
    ],
)
def test_numbers_have_four_digits_whatever_their_size(value, said):
    assert significant(value) == said
    if value > 0:
        assert significant(value, "+") == f"+{said}"
        assert significant(-value, "+") == f"-{said}"


def test_one_is_not_several():
    assert [counted(n, "class") for n in (0, 1, 1000)] == ["0 classes", "1 class", "1,000 classes"]
    assert counted(1, "number") == "1 number"
