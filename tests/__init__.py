"""Annotations of arrays are checked wherever a test is: the hook comes before the package."""

from tests import annotations

annotations.install()
