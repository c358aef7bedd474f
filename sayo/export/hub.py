"""Upload of a finished export through `huggingface_hub`."""

from __future__ import annotations

from pathlib import Path


def push_folder(folder: Path, repository: str, private: bool = False) -> str:
    """Upload `folder` to the model repository `owner/name`, created if it does not exist; returns its address.

    Uses the login and the endpoint (`HF_ENDPOINT`) of `huggingface_hub`, and raises its errors.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="sayo")
    repo_id = api.create_repo(repository, repo_type="model", private=private, exist_ok=True).repo_id
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Export by sayo")
    return f"{api.endpoint}/{repo_id}"
