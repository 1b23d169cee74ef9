"""The README's table of models is that of the cards, and its files are there."""

import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from xception_jax.models import build_network
from xception_jax.models.cards import CARDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
FLAVOURS = {("keras", "inception_v3"): {"flavour": "keras"}, ("timm", "inception_v3"): {"flavour": "torchvision"}}


@pytest.mark.parametrize("card", [c for c in CARDS if c.top1], ids=lambda c: f"{c.name}-{c.model}")
def test_model_is_as_its_card_and_its_network_say(card):
    (row,) = re.findall(rf"^\| `{re.escape(card.name)}` \| {card.model} \|(.*)\|$", README, flags=re.M)
    parameters, top1, shown = (cell.strip() for cell in row.split("|"))
    options = FLAVOURS.get((card.framework, card.model), {})
    model = nnx.eval_shape(lambda: build_network(card.model, rngs=nnx.Rngs(0), **options))
    assert int(parameters.replace(",", "")) == sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert float(top1) == round(card.top1, 1)
    rule = f"crop {card.input.crop_fraction:g}" if card.input.resize == "crop" else card.input.resize
    assert shown == f"{card.input.image_size} px, {rule}, {card.input.interpolation}"


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
