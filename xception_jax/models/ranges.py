"""Which values the options of the networks may have."""

from xception_jax.extension.rules import Rule, fraction, positive

FRACTION: Rule = (fraction, "from 0 to below 1")
POSITIVE: Rule = (positive, "positive")
RANGES: dict[str, Rule] = {
    "num_classes": (lambda v: v >= 0, "0 or more"),
    "width": POSITIVE,
    "dropout": FRACTION,
    "drop_path": FRACTION,
    "hidden_dropout": FRACTION,
    "bn_epsilon": POSITIVE,
    "bn_momentum": FRACTION,
    "middle_blocks": (lambda v: 0 <= v <= 8, "from 0 to 8"),
    "segments": (lambda v: v >= 1, "1 or more, or None for one a channel"),
    "output_stride": (lambda v: v in (32, 16, 8), "32, 16 or 8"),
}
