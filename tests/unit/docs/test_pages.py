"""The pages: their numbers come from records, their links lead somewhere, and both languages say the same."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from support.doc_blocks import REPOSITORY, blocks_of

DOCS = REPOSITORY / "docs"
URL = "https://example.org/nanopd"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(language: str) -> list[Path]:
    return sorted((DOCS / language).rglob("*.md"))


# ---- numbers


@pytest.mark.parametrize("page", [*pages("en"), *pages("zh")], ids=lambda page: str(page.relative_to(DOCS)))
def test_every_page_finds_its_numbers_and_its_links(hooks: ModuleType, page: Path) -> None:
    text = hooks.link_to_source(hooks.render(page.read_text(), page.name), page.parent, URL)
    assert "{{" not in text and "{%" not in text


def test_readme_says_what_the_records_say(hooks: ModuleType) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert readme == hooks.readme_with_numbers(readme), "run `python docs/hooks.py`"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{{ record("no-such-record").rows }}', "no record no-such-record"),
        ('{{ profile("no-such-profile").step }}', "no hardware profile no-such-profile"),
        ('{{ profile("cpu_smollm2").no_such_key }}', "no_such_key"),
        ('{{ (record("decode-attention_1xh200") | where(B=8)).ours_us }}', "expected one row"),
        ('{{ (record("decode-attention_1xh200") | where(B=3)).ours_us }}', "expected one row"),
        ("{{ 1 +", "page"),
    ],
)
def test_what_is_not_there_ends_the_build(hooks: ModuleType, text: str, says: str) -> None:
    with pytest.raises(hooks.MissingError, match=says):
        hooks.render(text)


def test_the_newest_record_of_a_name_is_taken(
    hooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "RESULTS", tmp_path)
    for name in ("engine_2026-01-31", "engine_2026-02-01", "engine_of_another_2026-03-01"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert hooks.record_path("engine").name == "engine_2026-02-01.json"


# ---- links


def test_links_out_of_the_docs_lead_into_the_repository(hooks: ModuleType) -> None:
    text = "[a](../../nanopd/batch.py#L3) [b](../../benchmarks/results) [c](engine.md) [d](../images/architecture.svg)"
    assert hooks.link_to_source(text, DOCS / "en", URL) == (
        f"[a]({URL}/blob/main/nanopd/batch.py#L3) [b]({URL}/tree/main/benchmarks/results) [c](engine.md) "
        "[d](../images/architecture.svg)"
    )
    picture = next((REPOSITORY / "benchmarks" / "results").rglob("*.png")).relative_to(REPOSITORY / "benchmarks")
    shown = hooks.link_to_source(f"![a](../../../benchmarks/{picture})", DOCS / "en" / "kernels", URL)
    assert shown == f"![a](../../{str(picture).replace('results', 'figures', 1)})"
    with pytest.raises(hooks.MissingError, match="no_such_file"):
        hooks.link_to_source("[a](../../nanopd/no_such_file.py)", DOCS / "en", URL)


# ---- two languages


def pattern(expression: str) -> Callable[[str], list[str]]:
    return partial(re.findall, expression, flags=re.MULTILINE)


def numbers_of_tables(text: str) -> list[str]:
    rows = "\n".join(re.findall(r"^\|.*\|$", text, re.MULTILINE))
    return re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"\{\{.*?\}\}", "", rows))


ALIKE = {
    "headings": pattern(r"^(#+) "),
    "templates": pattern(r"\{\{.*?\}\}|\{%.*?%\}"),
    "links": pattern(r"\]\(([^)]+\.(?:md|py|cu|cuh|json|png|svg)|https?:[^)]+)[^)]*\)"),
    "tables": pattern(r"^(\|(?: ?:?-+:? ?\|)+)$"),
    "numbers in tables": numbers_of_tables,
}


@pytest.mark.parametrize("page", [path.relative_to(DOCS / "en") for path in pages("en")], ids=str)
def test_both_languages_say_the_same(page: Path) -> None:
    """As far as a program can tell: the same headings, code, numbers, links and pictures."""
    english, chinese = DOCS / "en" / page, DOCS / "zh" / page
    assert chinese.exists(), f"docs/zh/{page} is missing"
    ours, theirs = english.read_text(), chinese.read_text()
    assert [(b.language, b.code, b.needs) for b in blocks_of(english)] == [
        (b.language, b.code, b.needs) for b in blocks_of(chinese)
    ]
    outside = [re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL) for text in (ours, theirs)]
    for what, find in ALIKE.items():
        found = [Counter(find(text)) for text in outside]
        assert found[0] == found[1], (
            f"{what} differ: only English {found[0] - found[1]}, only Chinese {found[1] - found[0]}"
        )


def test_no_chinese_page_is_left_over() -> None:
    assert {path.relative_to(DOCS / "zh") for path in pages("zh")} <= {p.relative_to(DOCS / "en") for p in pages("en")}


# ---- the site


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "engine/index.html", "zh/index.html", "zh/engine/index.html"):
        assert (tmp_path / page).exists()
    assert "147,456" in (tmp_path / "index.html").read_text()
