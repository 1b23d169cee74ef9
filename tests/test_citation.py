"""What others are told to cite."""

from pathlib import Path

import yaml

from xception_jax.version import __version__


def test_the_version_is_this_one():
    citation = yaml.safe_load((Path(__file__).resolve().parent.parent / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
