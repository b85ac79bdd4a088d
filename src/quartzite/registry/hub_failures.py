"""What the hub's library raises, told in our words; knows nothing of what is downloaded or why."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from quartzite.errors import DownloadFailed


class HubUnreachable(DownloadFailed):
    """The hub cannot be asked just now; a copy from earlier may do."""


@contextmanager
def hub_failures(repo: str, revision: str) -> Iterator[None]:
    """Translate whatever the library raises inside into DownloadFailed, or HubUnreachable where another time may do."""
    from huggingface_hub import errors

    # The library's own name for the base of all transport errors, whichever HTTP client it is built on.
    transport_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except (OSError, ValueError, transport_error) as error:
        raise _told(error, repo, revision) from error


def _told(error: BaseException, repo: str, revision: str) -> DownloadFailed:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return _told(error.__cause__, repo, revision)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachable(f"{repo} cannot be downloaded: HF_HUB_OFFLINE is set")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, error.response.status_code, repo, revision)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadFailed(f"{repo} cannot be stored, the disk is full: {error}")
    if isinstance(error, OSError | ValueError) and not isinstance(error, ConnectionError | TimeoutError):
        return DownloadFailed(f"{repo} cannot be downloaded: {error}")
    return _unreachable(f"{type(error).__name__}: {error}", repo)


def _refused(error: BaseException, status: int, repo: str, revision: str) -> DownloadFailed:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return DownloadFailed(
            f"{repo} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadFailed(f"{repo} has no revision {revision!r}")
    if status in (401, 404):
        return DownloadFailed(
            f"the hub has no {repo}, or shows it only to some (status {status}): check the name, "
            "and set HF_TOKEN if it is private"
        )
    if status == 403:
        return DownloadFailed(f"the hub refuses {repo}: set HF_TOKEN to a token that may read it")
    if status == 429 or status >= 500:
        return _unreachable(f"it answers with status {status}", repo)
    return DownloadFailed(f"{repo} cannot be downloaded: {error}")


def _unreachable(reason: str, repo: str) -> HubUnreachable:
    from huggingface_hub import constants

    return HubUnreachable(f"{repo} cannot be downloaded, the hub at {constants.ENDPOINT} does not serve it: {reason}")
