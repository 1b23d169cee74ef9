"""Published weights by name: downloaded once, verified and cached."""

import hashlib
import re
import urllib.error
import urllib.request
from pathlib import Path

from xception_jax.errors import UserError, WeightsFileError, suggest
from xception_jax.filesystem import atomic, paths
from xception_jax.models import cards

TIMM_FILES = ("config.json", "model.safetensors")
SECONDS = 30  # timeout without an answer


def cache() -> Path:
    """The folder for downloaded files: $XCEPTION_JAX_CACHE, or ~/.cache/xception_jax.

    Raises:
      UserError: neither is there.
    """
    return paths.kept("weights")


def find(weights: str, model: str | None) -> Path:
    """The local file or folder for `weights`; published weights are downloaded if they are not yet in the cache.

    Args:
      weights: a path or a name; what is both is the name, and "./imagenet" the path.
      model: the network for "imagenet", which is not specific; None: xception.

    Raises:
      UserError: the path or name does not exist, or cannot be downloaded; the message says which file to put where.
    """
    path = paths.expanded(weights)
    published = {card.name for card in cards.CARDS}
    if path.exists() and weights not in published:
        return path
    if path.exists():
        print(f"{weights} means the published weights; those in this folder are ./{weights}")
    if weights == "imagenet":
        return imagenet(model or "xception")
    if re.fullmatch(r"(timm|jamesdolezal)/[\w.-]+", weights):
        return hugging_face(weights)
    raise UserError(f"there are no weights {weights}, neither a file nor a known name; {suggest(weights, published)}")


def imagenet(model: str) -> Path:
    """Keras' file of a network trained on ImageNet."""
    card = cards.of_keras(model)
    if card is None:
        raise UserError(
            f'Keras has no ImageNet weights of model "{model}"; timm has: --weights=timm/{model}.TAG, '
            "such as timm/xception65.ra3_in1k"
        )
    path = cache() / Path(card.file).name
    if not path.exists():
        _fetch(card.url, path, card.md5)
    elif (found := _md5(path)) != card.md5:
        raise WeightsFileError(
            f"{path} is damaged (its md5 is {found}, not {card.md5}); delete it, and it is fetched again"
        )
    return path


def _fetch(url: str, path: Path, md5: str) -> None:
    """Downloads a file and verifies it before it becomes visible."""
    paths.make_kept(path.parent, "weights")
    print(f"Fetching {url}")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with atomic.replacing(path) as part:
            with urllib.request.urlopen(url, timeout=SECONDS) as response, part.open("wb") as f:
                while chunk := response.read(1 << 20):
                    f.write(chunk)
                    digest.update(chunk)
            if (sent := digest.hexdigest()) != md5:
                raise WeightsFileError(f"what {url} sent is not the published file (md5 {sent}, not {md5})")
    except (OSError, urllib.error.URLError) as e:
        raise UserError(f"{url} cannot be fetched ({e}); fetch it elsewhere and put it at {path}") from None


def _md5(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


def hugging_face(repository: str) -> Path:
    """The local file or folder of a repository on the Hugging Face hub, in the hub's own cache."""
    import huggingface_hub
    from huggingface_hub import errors

    folder = cache() / repository
    is_timm = repository.startswith("timm/")
    if folder.exists():  # put there manually
        return folder / TIMM_FILES[-1] if is_timm else folder
    try:
        patterns = list(TIMM_FILES) if is_timm else None
        own = None if paths.cache() else cache() / "hub"  # without a home, the hub's own cache would be ./~
        found = Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns, cache_dir=own))
    except errors.RepositoryNotFoundError:
        names = {card.name for card in cards.CARDS}
        raise UserError(f"the Hugging Face hub has no repository {repository}; {suggest(repository, names)}") from None
    except Exception as e:  # whatever network errors there are
        what = " and ".join(TIMM_FILES) if is_timm else "all its files"
        raise UserError(
            f"https://huggingface.co/{repository} cannot be fetched ({type(e).__name__}); "
            f"fetch {what} elsewhere and put them into {folder}"
        ) from None
    return found / TIMM_FILES[-1] if is_timm else found
