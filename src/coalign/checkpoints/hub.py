"""Models of a Hugging Face hub: `hf://user/name`, or `hf://user/name@revision`. Extra: `hub`.

The hub is the one that the environment names (`HF_ENDPOINT`), as for the library; so is the token of private models.
Only weights that hold no code (safetensors), JSON and vocabularies are fetched.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from coalign.errors import InputError, no_connection
from coalign.extras import optional

hub = optional("huggingface_hub")

FETCHED = ("*.json", "*.safetensors", "vocab.txt", "merges.txt")
_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def local_folder(path: str | Path) -> Path:
    """The path itself; of an address on a hub the folder of its files, which are fetched where they are not there yet.

    Raises:
        InputError: No such address, model or revision; the hub cannot be reached.
        MissingError: huggingface-hub is not installed.
    """
    if not str(path).startswith("hf:/"):
        return Path(path)
    address = _ADDRESS.fullmatch(str(path))
    if address is None:
        raise InputError(f"{path}: an address on a hub is hf://user/name or hf://user/name@revision")
    with _Hub(f"hf://{address[1]}"):
        return Path(
            hub.snapshot_download(address[1], revision=address[2], allow_patterns=list(FETCHED), endpoint=_endpoint())
        )


def push_folder(name: str, folder: Path, message: str, private: bool, revision: str | None = None) -> str:
    """Uploads the files of a folder as one commit to a model's repository, which is made where there is none; returns
    the revision that pins them.

    Raises:
        InputError: The name is not of the form user/name; the hub cannot be reached or refuses; with `private` the
            repository is there and is public.
    """
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise InputError(f"{name}: the name of a model is user/name")
    with _Hub(f"hf://{name}"):
        client: Any = hub.HfApi(endpoint=_endpoint(), library_name="coalign")
        client.create_repo(name, private=private, exist_ok=True)
        if private and not client.repo_info(name).private:  # one that was there stays as public as it was
            raise InputError(
                f"{name}: exists already and is public; nothing is uploaded. Make it private on the hub, give another "
                "name, or leave out --private"
            )
        done = client.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision)
    return str(done.oid)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


class _Hub:
    """Turns what the library raises into an `InputError` of one line."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, InputError) or not isinstance(error, Exception):
            return
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if no_connection(error):
            server = _endpoint() or hub.constants.ENDPOINT
            said = f"{server} cannot be reached: {said.strip()}; is there a connection? Files that are here need none"
        raise InputError(f"{self._what}: {said.strip()}") from error
