"""Downloads, against a hub on loopback."""

import errno
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants, errors

from model_folders import BERT, QWEN3, XLM_R, as_bytes, descriptions, modules
from quartzite.config import DEFAULT_MODEL, ModelSettings
from quartzite.errors import DownloadFailed, ModelRefused
from quartzite.registry.catalog import FileFacts, catalog
from quartzite.registry.files import locate, on_disk
from quartzite.registry.folder import read_card
from quartzite.registry.hub import Source, download
from quartzite.registry.hub_failures import HubUnreachable, hub_failures
from quartzite.registry.integrity import verify
from stub_hub import COMMIT, Repository, StubHub

NAME = "tests/model"
WEIGHTS = bytes(range(256)) * 8
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
NEEDED = ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"]
BRANCH, PINNED = ModelSettings(name=NAME), ModelSettings(name=NAME, revision=COMMIT)


def _files(
    weights: tuple[str, ...] = ("model.safetensors",),
    config: Mapping[str, Any] = BERT,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    return as_bytes(descriptions(config, changes) | {path: WEIGHTS[i:] for i, path in enumerate(weights)})


@pytest.fixture(scope="module", autouse=True)
def _one_session() -> Iterator[None]:
    """The library keeps its connections; making its TLS settings anew for every test would take most of the time."""
    yield
    close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    """A hub that holds one model, and a library that knows of no other hub, token or cache."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with StubHub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for file in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH", "AGENT_HARNESSES_PATH"):
            monkeypatch.setattr(constants, file, str(tmp_path / "home" / file))
        monkeypatch.setattr(socket.socket, "connect", _loopback_only(socket.socket.connect))
        running.repositories[NAME] = Repository(_files())
        yield running


def _loopback_only(connect: Any) -> Any:
    def checked(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", f"a connection to {address}"
        connect(self, address)

    return checked


def test_only_the_files_needed_are_fetched(hub: StubHub, tmp_path: Path) -> None:
    """No code, no other formats of the same weights, no pictures: what reads the folder gets what it needs."""
    others = ("README.md", "modeling.py", "vocab.txt", "onnx/model.onnx", "onnx/config.json", "model.gguf")
    also = ("pytorch_model.bin", "model.fp16.safetensors", "2_Dense/model.safetensors", "tf_model.h5")
    hub.repositories[NAME] = Repository(_files(("model.safetensors", *others, *also)))
    folder = locate(BRANCH, tmp_path, progress=False)
    assert hub.fetched() == NEEDED
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert read_card(NAME, folder, None).pooling == "mean"


@pytest.mark.parametrize(
    "weights",
    [
        ("pytorch_model.bin",),
        ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
    ],
)
def test_weights_come_in_every_published_form(hub: StubHub, tmp_path: Path, weights: tuple[str, ...]) -> None:
    """One file or parts with their index, safetensors or PyTorch's."""
    hub.repositories[NAME] = Repository(_files(weights))
    locate(BRANCH, tmp_path, progress=False)
    assert set(weights) == set(hub.fetched()) - set(NEEDED)


def test_every_description_that_is_read_is_fetched(hub: StubHub, tmp_path: Path) -> None:
    """Limits, prompts and the like would otherwise be ignored for downloaded models only."""
    optional = {
        "sentence_bert_config.json": {"max_seq_length": 64},
        "tokenizer_config.json": {},
        "config_sentence_transformers.json": {"default_prompt_name": None},
    }
    hub.repositories[NAME] = Repository(_files() | as_bytes(optional))
    assert read_card(NAME, locate(BRANCH, tmp_path, progress=False), None).max_tokens == 64
    assert set(optional) < set(hub.fetched())


def test_a_verified_commit_is_never_asked_for_again(hub: StubHub, tmp_path: Path) -> None:
    """Neither the hub nor the hash function: the second start needs no network."""
    folder = locate(PINNED, tmp_path, progress=False)
    hub.close()
    assert locate(PINNED, tmp_path, progress=False) == folder


def test_what_was_verified_is_on_disk(hub: StubHub, tmp_path: Path) -> None:
    """Of whichever commit, and not once it has changed."""
    entry = replace(catalog()["BAAI/bge-m3"], repo=NAME)
    assert on_disk(entry, tmp_path) is None
    folder = locate(BRANCH, tmp_path, progress=False)
    assert on_disk(entry, tmp_path) == folder
    (folder / "model.safetensors").unlink()
    assert on_disk(entry, tmp_path) is None


def test_a_branch_is_asked_for_but_not_fetched_again(hub: StubHub, tmp_path: Path) -> None:
    """One question tells that nothing has changed."""
    folder = locate(BRANCH, tmp_path, progress=False)
    hub.asked.clear()
    assert locate(BRANCH, tmp_path, progress=False) == folder
    assert [asked.path for asked in hub.asked] == [f"api/models/{NAME}/revision/main"]


def test_a_branch_that_moved_is_fetched_anew(hub: StubHub, tmp_path: Path) -> None:
    """Its new commit is another folder."""
    before = locate(BRANCH, tmp_path, progress=False)
    moved = _files(config=BERT | {"num_hidden_layers": 3})
    hub.repositories[NAME] = Repository(moved, commit="ab" * 20)
    after = locate(BRANCH, tmp_path, progress=False)
    assert after != before
    assert json.loads((after / "config.json").read_bytes())["num_hidden_layers"] == 3


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


def test_a_broken_connection_is_resumed(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the byte where it broke."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)
    hub.repositories[NAME].cut_once.add("model.safetensors")
    folder = locate(BRANCH, tmp_path, progress=False)
    ranges = [asked.range for asked in hub.asked if asked.path.endswith("model.safetensors") and asked.method == "GET"]
    assert ranges == [None, f"bytes={len(WEIGHTS) // 2}-"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_the_token_is_sent(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every request, for gated and private models need it."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    locate(BRANCH, tmp_path, progress=False)
    about_the_model = [asked for asked in hub.asked if NAME in asked.path]
    assert about_the_model
    assert {asked.token for asked in about_the_model} == {"Bearer hf_secret"}


def test_no_token_is_made_up(hub: StubHub, tmp_path: Path) -> None:
    """Public models are asked for by nobody in particular."""
    locate(BRANCH, tmp_path, progress=False)
    assert {asked.token for asked in hub.asked} == {None}


def test_a_model_that_would_be_refused_costs_no_weights(hub: StubHub, tmp_path: Path) -> None:
    """Its descriptions tell, and are fetched first."""
    chain = modules("Transformer", "Pooling", "Dense", "Normalize")
    hub.repositories[NAME] = Repository(_files(changes={"modules.json": chain}))
    with pytest.raises(ModelRefused, match="Dense"):
        locate(BRANCH, tmp_path, progress=False)
    assert "model.safetensors" not in hub.fetched()
    assert "modules.json" in hub.fetched()


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
    hub.repositories[NAME] = Repository(_files(weights))
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
    hub.repositories[NAME] = Repository(_files(), commit="")
    with pytest.raises(DownloadFailed, match="does not say which commit 'main' of tests/model is"):
        locate(BRANCH, tmp_path, progress=False)


def test_a_name_no_hub_would_take_is_told(hub: StubHub, tmp_path: Path) -> None:
    """The library knows rules of its own for names."""
    with pytest.raises(DownloadFailed, match=r"tests/two--dashes cannot be downloaded: Cannot have -- "):
        locate(ModelSettings(name="tests/two--dashes"), tmp_path, progress=False)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_ailing_hub_gives_way_to_the_copy_from_earlier(
    hub: StubHub, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart must not depend on somebody else's service."""
    folder = locate(BRANCH, tmp_path, progress=False)
    hub.repositories[NAME].refusal = (status, None)
    with caplog.at_level(logging.WARNING, "quartzite"):
        assert locate(BRANCH, tmp_path, progress=False) == folder
    assert f"status {status}; the copy from earlier is used: {folder}" in caplog.text


def test_a_hub_out_of_reach_gives_way_to_the_copy_from_earlier(hub: StubHub, tmp_path: Path) -> None:
    """Connections are refused."""
    folder = locate(BRANCH, tmp_path, progress=False)
    hub.close()
    assert locate(BRANCH, tmp_path, progress=False) == folder


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
    moved = Repository(_files(), commit="ab" * 20)
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


def test_offline_mode_asks_nobody(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded before is served, what was not is refused with the reason."""
    folder = locate(BRANCH, tmp_path, progress=False)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(BRANCH, tmp_path, progress=False) == folder
    with pytest.raises(DownloadFailed, match=r"tests/other cannot be .*: HF_HUB_OFFLINE is set; .* no copy"):
        locate(ModelSettings(name="tests/other"), tmp_path, progress=False)
    assert hub.asked == []


def test_what_another_tool_has_downloaded_is_verified_and_used(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a record of ours, the catalogue's hashes still hold."""
    folder = locate(BRANCH, tmp_path, progress=False)
    for record in (tmp_path / "verified").iterdir():
        record.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = Source(NAME, NAME, "main", None, (FileFacts("model.safetensors", len(WEIGHTS), DIGEST),))
    assert download(source, tmp_path, progress=False) == folder
    assert len(list((tmp_path / "verified").iterdir())) == 1


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


def test_a_catalogue_name_is_asked_for_under_its_repository(hub: StubHub, tmp_path: Path) -> None:
    """The name clients use and the name on the hub need not be one."""
    name, repo = "netease-youdao/bce-embedding-base_v1", "maidalun1020/bce-embedding-base_v1"
    hub.repositories[repo] = Repository(_files(("pytorch_model.bin",), XLM_R))
    locate(ModelSettings(name=name), tmp_path, progress=False)
    assert f"api/models/{repo}/revision/main" in [asked.path for asked in hub.asked]
    assert "pytorch_model.bin" in hub.fetched()


def test_a_catalogue_name_is_asked_for_at_its_pinned_revision(hub: StubHub, tmp_path: Path) -> None:
    """Other files under that revision are refused; a revision given by hand is the user's own choice."""
    repo, pinned = "Qwen/Qwen3-Embedding-0.6B", "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3"
    files = _files(config=QWEN3, changes={"1_Pooling/config.json": {"pooling_mode": "lasttoken"}})
    hub.repositories[repo] = Repository(files, commit=pinned)
    with pytest.raises(DownloadFailed, match=r"than the catalogue knows .*give `revision`"):
        locate(ModelSettings(name=repo), tmp_path, progress=False)
    assert f"api/models/{repo}/revision/{pinned}" in [asked.path for asked in hub.asked]
    folder = locate(ModelSettings(name=repo, revision="main"), tmp_path, progress=False)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_the_bundled_model_at_another_revision_comes_from_the_hub(hub: StubHub, tmp_path: Path) -> None:
    """The package holds one revision only."""
    hub.repositories[DEFAULT_MODEL] = Repository(_files())
    folder = locate(ModelSettings(name=DEFAULT_MODEL, revision="main"), tmp_path, progress=False)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_cache_that_cannot_keep_records_still_serves(
    hub: StubHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hashing again at the next start is the only cost."""
    (tmp_path / "verified").write_text("in the way")
    assert locate(PINNED, tmp_path, progress=False) == locate(PINNED, tmp_path, progress=False)


def test_a_damaged_record_is_no_record(hub: StubHub, tmp_path: Path) -> None:
    """The files are verified again."""
    folder = locate(PINNED, tmp_path, progress=False)
    (record,) = (tmp_path / "verified").iterdir()
    record.write_bytes(b"{")
    assert locate(PINNED, tmp_path, progress=False) == folder
    assert json.loads(record.read_bytes())["folder"] == str(folder)


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


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_shown_only_when_asked_for(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    """On a terminal, which the variable stands for here."""
    monkeypatch.setenv("TQDM_POSITION", "-1")
    locate(BRANCH, tmp_path, progress=progress)
    assert ("Fetching" in capsys.readouterr().err) == progress


def _in_a_process_of_its_own(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Locate the model with the default cache folder, as a user would whose environment holds `variables`."""
    program = (
        "import sys; from quartzite.config import CacheSettings, ModelSettings; "
        "from quartzite.registry.files import locate; "
        f"print(locate(ModelSettings(name={NAME!r}, revision=sys.argv[1]), CacheSettings().path, False)); "
        "print('huggingface_hub' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "HF_" not in name}
    return subprocess.run(
        [sys.executable, "-c", program, variables.pop("revision")],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_variables_of_the_library_are_honoured(hub: StubHub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE, in processes that read them at their start.

    The default cache folder leaves the files in the library's own cache; and once a commit is verified there, the
    library is not even imported.
    """
    home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_mine"}
    first = _in_a_process_of_its_own(home | {"revision": "main"})
    folder, imported = first.stdout.split()
    assert Path(folder).is_relative_to(tmp_path / "hf" / "hub"), first.stderr
    assert imported == "True"
    assert "Bearer hf_mine" in {asked.token for asked in hub.asked}

    hub.asked.clear()
    offline = _in_a_process_of_its_own(home | {"HF_HUB_OFFLINE": "1", "revision": "main"})
    assert offline.stdout.split() == [folder, "True"], offline.stderr
    again = _in_a_process_of_its_own(home | {"revision": COMMIT})
    assert again.stdout.split() == [folder, "False"], again.stderr
    assert hub.asked == []


def test_a_record_speaks_of_the_commit_it_was_made_for(hub: StubHub, tmp_path: Path) -> None:
    """Another repository at the same commit has a record of its own."""
    hub.repositories["tests/other"] = replace(hub.repositories[NAME])
    first = locate(PINNED, tmp_path, progress=False)
    second = locate(ModelSettings(name="tests/other", revision=COMMIT), tmp_path, progress=False)
    assert first != second
