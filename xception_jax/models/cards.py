"""Published weights: where they are from, what they expect, under which licence, and how good they are said to be."""

import dataclasses

from xception_jax.inputs.spec import InputSpec, Normalization

HUB = "https://huggingface.co/"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclasses.dataclass(frozen=True)
class Card:
    """Weights that others have published.

    Attributes:
      name: as `--weights` takes it.
      model: the network, as `create_model` takes it.
      framework: whose names and conventions its arrays have: "keras", "timm" or "slideflow".
      input: what it expects of its images; a file beside the weights may say otherwise.
      licence: of the weights; "" if it is not known.
      top1, top5: as published, in %, of ImageNet's validation split; None for weights of other tasks.
      file: of `KERAS`, where the weights are one file there.
      md5: of that file.
    """

    name: str
    model: str
    framework: str
    input: InputSpec
    licence: str
    top1: float | None = None
    top5: float | None = None
    file: str = ""
    md5: str = ""

    @property
    def url(self) -> str:
        """Where it is published."""
        return KERAS + self.file if self.file else HUB + self.name


# Keras' `load_img(target_size=...)` squashes the whole image to a square; timm's are evaluated on a central crop.
WHOLE = InputSpec(crop_fraction=1.0, resize="squash")
TILES = InputSpec(299, 1.0, "area", Normalization(standardize=True))


def _timm(
    name: str, model: str, top1: float, top5: float | None, crop_fraction: float, licence: str = "Apache-2.0"
) -> Card:
    spec = InputSpec(crop_fraction=crop_fraction, interpolation="bicubic")
    return Card(f"timm/{name}", model, "timm", spec, licence, top1, top5)


CARDS = (
    Card(
        "imagenet", "xception", "keras", WHOLE, "MIT", 79.0, 94.5,
        "xception/xception_weights_tf_dim_ordering_tf_kernels.h5", "0a58e3b7378bc2990ea3b43d5981f1f6",
    ),
    Card(
        "imagenet", "inception_v3", "keras", WHOLE, "MIT", 77.9, 93.7,
        "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5", "9a0d58056eeedaa3f26cb7ebd46da564",
    ),
    _timm("legacy_xception.tf_in1k", "xception", 79.058, 94.396, 0.8975),
    _timm("inception_v3.gluon_in1k", "inception_v3", 78.806, None, 0.875),
    _timm("inception_v3.tf_in1k", "inception_v3", 77.866, None, 0.875),
    _timm("inception_v3.tv_in1k", "inception_v3", 77.472, None, 0.875, licence=""),
    _timm("xception41.tf_in1k", "xception41", 78.550, None, 0.903),
    _timm("xception65.ra3_in1k", "xception65", 83.186, None, 0.94),
    _timm("xception65.tf_in1k", "xception65", 79.558, None, 0.903),
    _timm("xception71.tf_in1k", "xception71", 79.920, None, 0.903),
    _timm("xception41p.ra3_in1k", "xception41p", 81.978, None, 0.94),
    _timm("xception65p.ra3_in1k", "xception65p", 83.160, None, 0.94),
    Card("jamesdolezal/lung-adeno-squam-v1", "xception", "slideflow", TILES, "GPL-3.0"),
    Card("jamesdolezal/breast-er-v1", "xception", "slideflow", TILES, "GPL-3.0"),
    Card("jamesdolezal/thyroid-brs-v1", "xception", "slideflow", TILES, "GPL-3.0"),
)  # fmt: skip


def usual_input(framework: str, model: str) -> InputSpec:
    """What a framework's weights of a network expect, as its first card says."""
    return next((card.input for card in CARDS if (card.framework, card.model) == (framework, model)), InputSpec())


def of_keras(model: str) -> Card | None:
    """Keras' weights of a network, if there are any."""
    return next((card for card in CARDS if card.framework == "keras" and card.model == model), None)
