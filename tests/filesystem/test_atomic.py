"""Files are complete or do not exist."""

import pytest

from xception_jax.filesystem import atomic


def test_writers_of_one_file_do_not_meet(tmp_path):
    """Not even those with one process number, as in two containers that share a folder: each has its own part."""
    path = tmp_path / "folder" / "file"
    with atomic.replacing(path) as first:
        first.write_text("the first, ")
        with atomic.replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        with first.open("a") as f:
            f.write("whole")
    assert path.read_text() == "the first, whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_the_old_file_stays_if_writing_fails(tmp_path, error):
    path = tmp_path / "file"
    atomic.write_atomically(path, "old")

    def fail():
        with atomic.replacing(path) as part:
            part.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_any_name_that_a_file_may_have_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    atomic.write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
