"""The paths that users give, and the folder for what is kept between runs."""

import os
import re
from pathlib import Path

from xception_jax.errors import UserError

REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # of two letters or more: one is a drive of Windows
GLOB = re.compile(r"[*?[]")


def expanded(path: str | Path) -> Path:
    """The path with a home directory in place of ~ or ~NAME.

    Raises:
      UserError: there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} cannot be used: there is no such home directory; write the whole path") from None


def local(path: str | Path) -> Path:
    """A path of this machine's files, to read or to write, as `expanded`.

    Raises:
      UserError: it is remote storage, or there is no such home directory.
    """
    if found := REMOTE.match(str(path)):
        raise UserError(
            f"{path} is remote storage, which is not supported; use a local or mounted folder, and copy to or from it. "
            f'(A local folder called "{found[1]}:" is ./{found[1]}:)'
        )
    return expanded(path)


def workdir(path: str | Path) -> Path:
    """The absolute path of a work directory to write to.

    Raises:
      UserError: as for `local`, or there is one of the characters *, ? and [ in it: to Orbax, which finds the parts of
        a checkpoint by a pattern, they are not characters of a name.
    """
    path = local(path).absolute()
    if found := GLOB.search(str(path)):
        raise UserError(
            f'{path} cannot be a work directory, because its path has a "{found[0]}"; use another --workdir'
        )
    return path


def cache() -> Path | None:
    """~/.cache/xception_jax, or None without a home directory."""
    try:
        return Path.home() / ".cache" / "xception_jax"
    except RuntimeError:  # no $HOME, and the user is not in the list of users, as in some containers
        return None


def data_name(data: str | Path) -> str:
    """A short name of data: of a file or folder, without its ending; NAME-FOLDER of hf:OWNER/NAME/FOLDER@REVISION;
    NAME-CONFIG-VERSION of tfds:NAME/CONFIG:VERSION.
    """
    kind, _, name = str(data).partition(":")
    if kind not in ("hf", "tfds"):
        return Path(data).stem
    parts = [part for part in re.split("[/:]", name.partition("@")[0]) if part]
    return "-".join(parts[1:] if kind == "hf" and len(parts) > 1 else parts)


def kept(what: str) -> Path:
    """The folder for what is downloaded or unpacked: `what` in $XCEPTION_JAX_CACHE, or in ~/.cache/xception_jax.

    Raises:
      UserError: neither is there.
    """
    folder = os.environ.get("XCEPTION_JAX_CACHE") or cache()
    if folder is None:
        raise UserError(f"there is no home directory to keep {what} in; set XCEPTION_JAX_CACHE to a folder for it")
    return Path(folder) / what


def make_kept(folder: Path, what: str) -> None:
    """Makes a folder for `what` in `kept`, if it is not there.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"{what} cannot be kept in {folder} ({e.strerror}); set XCEPTION_JAX_CACHE to a folder for what is "
            "downloaded and unpacked"
        ) from None


def writable(folder: Path) -> bool:
    """Whether the folder, which need not exist, can be written."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)
