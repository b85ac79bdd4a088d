"""Peers of the service bench: what is made for them of a model folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import contenders
from contenders import CONTENDERS, Site
from service_report import NAMES
from subjects import SUBJECTS

HALF = """
import sys
from pathlib import Path
output = Path(sys.argv[sys.argv.index("--output") + 1])
output.mkdir()
(output / "graph").write_text("half")
sys.exit(FAILS)
"""


def site_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Site:
    """Return a site whose ONNX export is `script`, run by this Python."""
    (tmp_path / "export.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(contenders, "PEERS", tmp_path)
    python = tmp_path / "cache" / "peers" / "onnx" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return Site(tmp_path / "model", SUBJECTS["minilm"], tmp_path / "cache")


def test_what_a_failed_export_leaves_is_not_taken_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script ends with an error after half of its work: the next run begins anew and has the whole."""
    site = site_with(tmp_path, monkeypatch, HALF.replace("FAILS", "1"))
    with pytest.raises(subprocess.CalledProcessError):
        contenders.export("onnx")(site)
    assert list((tmp_path / "cache" / "peer-models").iterdir()) == []
    (tmp_path / "export.py").write_text(HALF.replace("FAILS", "0").replace("half", "whole"), encoding="utf-8")
    contenders.export("onnx")(site)
    assert (site.made("onnx") / "graph").read_text(encoding="utf-8") == "whole"


def test_an_export_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is used: a script that can only fail is not run."""
    site = site_with(tmp_path, monkeypatch, "raise SystemExit(1)")
    site.made("onnx").mkdir(parents=True)
    contenders.export("onnx")(site)


def test_fastembed_serves_the_onnx_export(tmp_path: Path) -> None:
    """Both ONNX peers have the same graph; OpenVINO is asked for the precision it is told by."""
    site = Site(tmp_path / "model", SUBJECTS["minilm"], tmp_path)
    served = [CONTENDERS[name].command(site).arguments for name in ("st-onnx", "fastembed", "st-openvino")]
    folders = [words[words.index("--folder") + 1] for words in served]
    assert folders == [str(site.made("onnx")), str(site.made("onnx")), str(site.made("openvino"))]
    assert "bfloat16" in served[2]


def test_every_contender_has_a_name() -> None:
    """Tables have a line for each."""
    assert set(CONTENDERS) <= set(NAMES)


def test_the_limit_of_an_export_is_the_model_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `max_length` beside the model's own limit goes, and nothing else."""
    monkeypatch.syspath_prepend(str(Path(contenders.__file__).parent / "peers"))
    from export import keep_limit

    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"max_length": 128, "model_max_length": 256, "pad_token": "[PAD]"}), encoding="utf-8")
    keep_limit(tmp_path)
    assert json.loads(file.read_text(encoding="utf-8")) == {"model_max_length": 256, "pad_token": "[PAD]"}
