"""Sharing a model folder on the Hugging Face Hub."""

from pathlib import Path

from condiff.errors import ModelError


def check_repo_id(repo_id: str) -> str:
    """The repository's name, owner/name; raises ModelError if the Hub would refuse it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ModelError(f"{repo_id!r} is not the name of a repository: {error}") from error
    return repo_id


def push_to_hub(folder: Path, repo_id: str) -> str:
    """Upload a model folder, making the repository where there is none; returns its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        address = api.create_repo(check_repo_id(repo_id), exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(
            f"The model lies in {folder} but could not be pushed to {repo_id}: {reason}. Log in "
            f"with `hf auth login`, then: hf upload {repo_id} {folder}"
        ) from error
    return str(address)
