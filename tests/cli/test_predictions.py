"""Names of what is written beside predictions."""

from xception_jax.cli.predictions import explanation_name

FILES = [
    *("a/b.png", "a_b.png", "./a_b.png", "/a/b.png", "a//b.png", "_a_b.png", "a.png", "../a.png"),
    *(f"{'n' * 250}{i}.png" for i in range(3)),
    *(f"{'ü' * 120}{i}.png" for i in range(3)),
]


def test_two_files_have_two_heat_maps_with_names_that_file_systems_take():
    for name in ("cat", "tit/tat", "\u4e2d" * 200):
        names = [explanation_name(file, name) for file in FILES]
        assert len({*names}) == len(FILES)
        assert max(len(n.encode()) for n in names) <= 230  # beside what a temporary file is called
        assert not any("/" in n or n.startswith(".") for n in names)


def test_a_plain_name_stays_as_it_is():
    assert explanation_name("a.png", "cat") == "a.png.cat.png"
    assert explanation_name("x/a_b.png", "cat").startswith("x_a_b.png-")
