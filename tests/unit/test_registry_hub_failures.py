"""Downloads that fail: what is told, what is removed, what is used instead."""

import errno
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, errors

from model_folders import DIGEST, WEIGHTS, model_files
from quartzite.config import ModelSettings
from quartzite.errors import DownloadFailed
from quartzite.registry.catalog import FileFacts
from quartzite.registry.files import locate
from quartzite.registry.hub import Source, download
from quartzite.registry.hub_failures import HubUnreachable, hub_failures
from quartzite.registry.integrity import verify
from stub_hub import COMMIT, NAME, Repository, StubHub

BRANCH, PINNED = ModelSettings(name=NAME), ModelSettings(name=NAME, revision=COMMIT)


def test_a_file_that_changed_after_its_verification_is_verified_again(hub: StubHub, tmp_path: Path) -> None:
    """The record holds for the very files it speaks of."""
    folder = locate(PINNED, tmp_path, progress=False)
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[::-1])
    with pytest.raises(DownloadFailed, match=r"model\.safetensors is damaged and has been removed: SHA-256"):
        locate(PINNED, tmp_path, progress=False)
    assert locate(PINNED, tmp_path, progress=False) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_damaged_bytes_are_removed_and_fetched_anew(hub: StubHub, tmp_path: Path) -> None:
    """The hash the hub itself tells is compared with what arrived; the next attempt starts clean."""
    hub.repositories[NAME].served["model.safetensors"] = WEIGHTS[::-1]
    with pytest.raises(DownloadFailed, match=r"has been removed: SHA-256 .*; try again"):
        locate(BRANCH, tmp_path, progress=False)
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not list(tmp_path.rglob(DIGEST))
    hub.repositories[NAME].served.clear()
    assert (locate(BRANCH, tmp_path, progress=False) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The library may hand back a folder that lacks some of what was asked for."""
    with pytest.raises(DownloadFailed, match=r"model\.safetensors is missing; try again"):
        verify(tmp_path, [FileFacts("model.safetensors", 1)])


def test_a_description_of_another_size_is_damaged(hub: StubHub, tmp_path: Path) -> None:
    """Small files have no hash on the hub, but a size."""
    hub.repositories[NAME].told["config.json"] = 7
    with pytest.raises(DownloadFailed, match=r"config\.json is damaged .*: \d+ bytes, 7 were expected"):
        locate(BRANCH, tmp_path, progress=False)
    assert "model.safetensors" not in hub.fetched()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((), r"holds no weights as model\.safetensors or pytorch_model\.bin"),
        (("onnx/model.onnx",), "holds no weights"),
        (("model.safetensors.index.json", "model-00001-of-00003.safetensors"), "holds 1 of 3 parts"),
        (("model.safetensors.index.json",), "holds 0 of 1 parts"),
    ],
)
def test_a_repository_without_whole_weights_is_refused(
    hub: StubHub, tmp_path: Path, weights: tuple[str, ...], message: str
) -> None:
    """Before anything is fetched."""
    hub.repositories[NAME] = Repository(model_files(weights))
    with pytest.raises(DownloadFailed, match=f"{NAME} {message}"):
        locate(BRANCH, tmp_path, progress=False)
    assert hub.fetched() == []


def test_a_full_disk_is_told_beforehand(hub: StubHub, tmp_path: Path) -> None:
    """More than there is room for is not begun."""
    hub.repositories[NAME].told["model.safetensors"] = 10**18
    with pytest.raises(DownloadFailed, match=r"needs 1000000000\.0 GB in .*hub, where .* GB are free"):
        locate(BRANCH, tmp_path, progress=False)
    assert hub.fetched() == []


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "GatedRepo"), "is gated: accept its terms"),
        ((401, "GatedRepo"), "is gated: accept its terms"),
        ((401, None), r"has no tests/model, or shows it only to some \(status 401\).*HF_TOKEN"),
        ((401, "RepoNotFound"), "has no tests/model, or shows it only to some"),
        ((404, "RepoNotFound"), "has no tests/model, or shows it only to some"),
        ((404, None), "has no tests/model, or shows it only to some"),
        ((403, None), "refuses tests/model: set HF_TOKEN"),
        ((400, None), "tests/model cannot be downloaded: .*Bad request"),
        ((418, None), "tests/model cannot be downloaded: .*418"),
        ((429, None), "does not serve it: it answers with status 429; .* holds no copy from earlier"),
        ((503, None), "does not serve it: it answers with status 503; .* holds no copy from earlier"),
    ],
)
def test_refusals_of_the_hub_are_told_with_what_to_do(
    hub: StubHub, tmp_path: Path, refusal: tuple[int, str | None], message: str
) -> None:
    """Each status in words of its own, and never a stack from inside the library."""
    hub.repositories[NAME].refusal = refusal
    with pytest.raises(DownloadFailed, match=message):
        locate(BRANCH, tmp_path, progress=False)


def test_an_unknown_revision_is_named(hub: StubHub, tmp_path: Path) -> None:
    """A branch, tag or commit that is not there."""
    with pytest.raises(DownloadFailed, match="tests/model has no revision 'v9'"):
        locate(ModelSettings(name=NAME, revision="v9"), tmp_path, progress=False)


def test_a_hub_that_names_no_commit_is_told(hub: StubHub, tmp_path: Path) -> None:
    """Without one, nobody could say later which files these are."""
    hub.repositories[NAME] = Repository(model_files(), commit="")
    with pytest.raises(DownloadFailed, match="does not say which commit 'main' of tests/model is"):
        locate(BRANCH, tmp_path, progress=False)


def test_a_name_no_hub_would_take_is_told(hub: StubHub, tmp_path: Path) -> None:
    """The library knows rules of its own for names."""
    with pytest.raises(DownloadFailed, match=r"tests/two--dashes cannot be downloaded: Cannot have -- "):
        locate(ModelSettings(name="tests/two--dashes"), tmp_path, progress=False)


def test_a_hub_out_of_reach_is_told(hub: StubHub, tmp_path: Path) -> None:
    """With its address, for HF_ENDPOINT may be wrong."""
    hub.close()
    with pytest.raises(DownloadFailed, match=f"the hub at {hub.url} does not serve it: ConnectError"):
        locate(BRANCH, tmp_path, progress=False)


def test_a_hub_that_is_lost_on_the_way_is_told(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing came, the files do not."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    source = Source(NAME, NAME, COMMIT, None)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", _then(hub.close))
    with pytest.raises(DownloadFailed, match="tests/model cannot be downloaded, the hub at"):
        download(source, tmp_path, progress=False)


def test_a_branch_that_moves_on_the_way_is_told(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one commit and half of another would be no model."""
    moved = Repository(model_files(), commit="ab" * 20)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", _then(lambda: hub.repositories.update({NAME: moved})))
    with pytest.raises(DownloadFailed, match="'main' of tests/model moved while it was downloaded"):
        locate(BRANCH, tmp_path, progress=False)


def _then(after: Any) -> Any:
    from huggingface_hub import HfApi

    asking = HfApi.model_info

    def model_info(*args: Any, **options: Any) -> Any:
        told = asking(*args, **options)
        after()
        return told

    return model_info


def test_a_damaged_copy_from_earlier_is_found(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of reach of the hub, too."""
    folder = locate(BRANCH, tmp_path, progress=False)
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[::-1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = Source(NAME, NAME, "main", None, (FileFacts("model.safetensors", len(WEIGHTS), DIGEST),))
    with pytest.raises(DownloadFailed, match=r"model\.safetensors is damaged"):
        download(source, tmp_path, progress=False)


def test_half_a_copy_is_no_copy(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that was cut short has left the descriptions; offline that is not enough."""
    hub.repositories[NAME].served["model.safetensors"] = WEIGHTS[::-1]
    with pytest.raises(DownloadFailed):
        locate(BRANCH, tmp_path, progress=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match=f"{COMMIT} holds no weights"):
        locate(BRANCH, tmp_path, progress=False)


def test_the_catalogue_must_not_be_contradicted(hub: StubHub, tmp_path: Path) -> None:
    """A file of another hash under the known revision is refused before it is fetched."""
    known = (FileFacts("model.safetensors", len(WEIGHTS), "0" * 64),)
    with pytest.raises(DownloadFailed, match=r"offers another model\.safetensors than the catalogue knows"):
        download(Source(NAME, NAME, "main", None, known), tmp_path, progress=False)
    assert hub.fetched() == []


def test_the_catalogue_speaks_for_files_whose_hash_the_hub_does_not_tell(hub: StubHub, tmp_path: Path) -> None:
    """Small files are told without one."""
    small = hub.repositories[NAME].files["modules.json"] = b"[]"
    known = (FileFacts("modules.json", len(small), "0" * 64),)
    with pytest.raises(DownloadFailed, match=r"modules\.json is damaged .*: SHA-256"):
        download(Source(NAME, NAME, "main", None, known), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be stored, the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "cannot be stored, the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "cannot be downloaded: .*Permission denied"),
        (TimeoutError("read"), "does not serve it: TimeoutError"),
        (ConnectionResetError("reset"), "does not serve it: ConnectionResetError"),
        (errors.OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set"),
        (errors.LocalEntryNotFoundError("nothing in the cache"), "cannot be downloaded: nothing in the cache"),
    ],
)
def test_failures_of_disk_and_network_are_told_apart(error: OSError, message: str) -> None:
    """The one is mended here, the other there."""
    with pytest.raises(DownloadFailed, match=message), hub_failures(NAME, "main"):
        raise error


def test_a_failure_is_told_by_its_cause() -> None:
    """The library says that nothing is in its cache, and hides behind it why it looked there."""
    with pytest.raises(HubUnreachable, match="does not serve it: ConnectionResetError"), hub_failures(NAME, "main"):
        raise errors.LocalEntryNotFoundError("nothing in the cache") from ConnectionResetError("reset")


def test_a_bug_is_no_failed_download() -> None:
    """What the library cannot mean passes through."""
    with pytest.raises(KeyError), hub_failures(NAME, "main"):
        raise KeyError("a bug")
