"""Which packages are installed; all else is in pyproject.toml, which cannot say that configs/ is one of them."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["xception_jax*"]), "xception_jax.configs"],
    package_dir={"xception_jax.configs": "configs"},
)
