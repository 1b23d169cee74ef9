"""What can be wrong with a file of weights."""

from xception_jax.errors import UserError


class WeightsFileError(UserError):
    """A file of weights that is damaged, malicious, or none."""
