"""Downloads, against a hub on loopback."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from model_folders import BERT, DIGEST, QWEN3, WEIGHTS, XLM_R, as_bytes, model_files, modules
from quartzite.config import DEFAULT_MODEL, ModelSettings
from quartzite.errors import DownloadFailed, ModelRefused
from quartzite.registry.catalog import FileFacts, catalog
from quartzite.registry.files import locate, on_disk
from quartzite.registry.folder import read_card
from quartzite.registry.hub import Source, download
from stub_hub import COMMIT, NAME, Repository, StubHub

NEEDED = ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"]
BRANCH, PINNED = ModelSettings(name=NAME), ModelSettings(name=NAME, revision=COMMIT)


def test_only_the_files_needed_are_fetched(hub: StubHub, tmp_path: Path) -> None:
    """No code, no other formats of the same weights, no pictures: what reads the folder gets what it needs."""
    others = ("README.md", "modeling.py", "vocab.txt", "onnx/model.onnx", "onnx/config.json", "model.gguf")
    also = ("pytorch_model.bin", "model.fp16.safetensors", "2_Dense/model.safetensors", "tf_model.h5")
    hub.repositories[NAME] = Repository(model_files(("model.safetensors", *others, *also)))
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
    hub.repositories[NAME] = Repository(model_files(weights))
    locate(BRANCH, tmp_path, progress=False)
    assert set(weights) == set(hub.fetched()) - set(NEEDED)


def test_every_description_that_is_read_is_fetched(hub: StubHub, tmp_path: Path) -> None:
    """Limits, prompts and the like would otherwise be ignored for downloaded models only."""
    optional = {
        "sentence_bert_config.json": {"max_seq_length": 64},
        "tokenizer_config.json": {},
        "config_sentence_transformers.json": {"default_prompt_name": None},
    }
    hub.repositories[NAME] = Repository(model_files() | as_bytes(optional))
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
    moved = model_files(config=BERT | {"num_hidden_layers": 3})
    hub.repositories[NAME] = Repository(moved, commit="ab" * 20)
    after = locate(BRANCH, tmp_path, progress=False)
    assert after != before
    assert json.loads((after / "config.json").read_bytes())["num_hidden_layers"] == 3


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
    hub.repositories[NAME] = Repository(model_files(changes={"modules.json": chain}))
    with pytest.raises(ModelRefused, match="Dense"):
        locate(BRANCH, tmp_path, progress=False)
    assert "model.safetensors" not in hub.fetched()
    assert "modules.json" in hub.fetched()


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


def test_a_catalogue_name_is_asked_for_under_its_repository(hub: StubHub, tmp_path: Path) -> None:
    """The name clients use and the name on the hub need not be one."""
    name, repo = "netease-youdao/bce-embedding-base_v1", "maidalun1020/bce-embedding-base_v1"
    hub.repositories[repo] = Repository(model_files(("pytorch_model.bin",), XLM_R))
    locate(ModelSettings(name=name), tmp_path, progress=False)
    assert f"api/models/{repo}/revision/main" in [asked.path for asked in hub.asked]
    assert "pytorch_model.bin" in hub.fetched()


def test_a_catalogue_name_is_asked_for_at_its_pinned_revision(hub: StubHub, tmp_path: Path) -> None:
    """Other files under that revision are refused; a revision given by hand is the user's own choice."""
    repo, pinned = "Qwen/Qwen3-Embedding-0.6B", "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3"
    files = model_files(config=QWEN3, changes={"1_Pooling/config.json": {"pooling_mode": "lasttoken"}})
    hub.repositories[repo] = Repository(files, commit=pinned)
    with pytest.raises(DownloadFailed, match=r"than the catalogue knows .*give `revision`"):
        locate(ModelSettings(name=repo), tmp_path, progress=False)
    assert f"api/models/{repo}/revision/{pinned}" in [asked.path for asked in hub.asked]
    folder = locate(ModelSettings(name=repo, revision="main"), tmp_path, progress=False)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_the_bundled_model_at_another_revision_comes_from_the_hub(hub: StubHub, tmp_path: Path) -> None:
    """The package holds one revision only."""
    hub.repositories[DEFAULT_MODEL] = Repository(model_files())
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
