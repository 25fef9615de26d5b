from pathlib import Path

import pytest

from nanopd.cli import main


def test_lists_embedded_local_and_cached_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, cache = tmp_path / "here", tmp_path / "cache"
    (here / "my-model").mkdir(parents=True)
    (here / "my-model" / "config.json").write_text("{}")
    (here / "small.gguf").write_text("")
    (here / "notes").mkdir()
    snapshot = cache / "models--org--name--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (cache / "models--org--unfinished" / "snapshots" / "abc").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))

    assert main(["models", str(here)]) == 0

    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
    assert [(row[0], row[1]) for row in rows] == [
        ("smollm2-135m-instruct", "embedded"),
        (str(here / "my-model"), "local"),
        (str(here / "small.gguf"), "local"),
        ("org/name--x", "cached"),
    ]
