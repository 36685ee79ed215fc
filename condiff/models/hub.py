"""The Hugging Face Hub: fetches weights to start from, uploads model folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condiff.errors import ModelError, UnknownModelError, first_line


@contextmanager
def fetching(name: str, start: str) -> Iterator[None]:
    """A block that fetches files of the repository `name`; its failures become ModelErrors.

    `start` begins their message, such as "There is no base a/b". Raises UnknownModelError if the
    name is not owner/name.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UnknownModelError(
            f"{start}: there is no such folder here, and an id of the Hugging Face Hub is "
            "owner/name."
        )
    try:
        yield
    except _hub_errors() as error:
        raise ModelError(
            f"{start}: there is no such folder here, and it could not be fetched from the Hugging "
            f"Face Hub: {first_line(error)}."
        ) from error


def check_repo_id(repo_id: str) -> str:
    """The repository's name, owner/name; raises ModelError if the Hub would refuse it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ModelError(f"{repo_id!r} is not the name of a repository: {error}") from error
    return repo_id


def check_login(repo_id: str) -> None:
    """Raise ModelError if the Hub cannot be reached, or there is no valid login."""
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except _hub_errors() as error:
        raise ModelError(
            f"The model could not be pushed to {repo_id}: {first_line(error)}. Log in with "
            f"`hf auth login`, or train without --push-to-hub, then: hf upload {repo_id} RUN/model"
        ) from error


def push_to_hub(folder: Path, repo_id: str) -> str:
    """Upload a model folder, creating the repository if needed; returns its URL."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(check_repo_id(repo_id), exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    except _hub_errors() as error:
        raise ModelError(
            f"The model is in {folder} but could not be pushed to {repo_id}: "
            f"{first_line(error)}. Log in with `hf auth login`, then: hf upload {repo_id} {folder}"
        ) from error
    return str(address)


def _hub_errors() -> tuple[type[Exception], ...]:
    """Errors that the Hub's client raises: its own, and those of its HTTP library."""
    from huggingface_hub import errors

    below = [kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"]
    own = (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalTokenNotFoundError)
    return (*own, errors.OfflineModeIsEnabled, OSError, *below)
