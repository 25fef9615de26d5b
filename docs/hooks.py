"""What the site's build adds to MkDocs: numbers from the records and links into the source, both checked.

Pages are Jinja templates. ``record("engine_qwen3-8b_1xh200")`` is the newest ``benchmarks/results/engine_qwen3-8b_1xh200_DATE.json``,
``profile("h200_qwen3_8b")`` a hardware profile that comes with nanopd. A record, a key or a linked file that is not there ends the build.

``python docs/hooks.py`` writes README.md's generated part anew; a test compares the two.
"""

import json
import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PROFILES = REPOSITORY / "nanopd" / "cost_model" / "profiles"
PUBLISHED = (DOCS / "en", DOCS / "zh", DOCS / "images")
README_NUMBERS = DOCS / "readme_numbers.md"

FIGURES = "figures"  # of the site: where pictures from benchmarks/results/ go

_LINK = re.compile(r"(?P<open>!?\[[^\]]*\]\()(?P<target>\.\.?/[^)#\s]+)(?P<close>(?:#[^)\s]*)?\))")
_README_PART = re.compile(r"(<!-- generated from docs/readme_numbers\.md -->\n).*?(<!-- end -->)", re.DOTALL)


class MissingError(Exception):
    """A page names a record, a number or a file that is not there."""


# ---- numbers


def record_path(name: str) -> Path:
    """The newest record of that name: NAME_YYYY-MM-DD.json. Raises MissingError."""
    paths = sorted(RESULTS.glob(f"{name}_????-??-??.json"))
    if not paths:
        raise MissingError(f"no record {name}_DATE.json in benchmarks/results")
    return paths[-1]


@cache
def record(name: str) -> Any:
    return json.loads(record_path(name).read_text())


@cache
def profile(name: str) -> Any:
    path = PROFILES / f"{name}.json"
    if not path.exists():
        raise MissingError(f"no hardware profile {name}")
    return json.loads(path.read_text())


def where(rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """The one row with these values. Raises MissingError."""
    found = [row for row in rows if all(row.get(name) == value for name, value in fields.items())]
    if len(found) != 1:
        raise MissingError(f"expected one row with {fields}, got {len(found)} of {len(rows)}")
    return found[0]


def find(rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any] | None:
    """As ``where``, for a row that a record may lack."""
    return next((row for row in rows if all(row.get(name) == value for name, value in fields.items())), None)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # "{#" begins a heading's id in Markdown
        comment_end_string="##}",
        autoescape=False,
    )
    environment.globals.update(record=record, profile=profile, results=_results_link)
    environment.filters.update(
        where=where,
        find=find,
        digits=lambda value, count=1: f"{value:.{count}f}",
        percent=lambda value, count=0: f"{value:.{count}%}",
        thousands=lambda value: f"{value:,.0f}",
    )
    return environment


def _results_link(name: str) -> str:
    """Where to read a record: its page if it has one, else the data; relative to a page in docs/en or docs/zh."""
    path = record_path(name)
    page = path.with_suffix(".md")
    return f"../../benchmarks/results/{(page if page.exists() else path).name}"


_ENVIRONMENT = _environment()


def render(text: str, name: str = "page") -> str:
    """A page with its numbers. Raises MissingError."""
    try:
        return _ENVIRONMENT.from_string(text).render()
    except jinja2.TemplateError as error:
        raise MissingError(f"{name}: {error}") from error


# ---- links


def link_to_source(text: str, folder: Path, base_url: str) -> str:
    """Relative links that leave the site as links into the repository, and pictures of the records as the site's own.

    Raises MissingError for files that are not there.
    """

    def replace(match: re.Match[str]) -> str:
        target = (folder / match["target"]).resolve()
        if any(target.is_relative_to(place) for place in PUBLISHED):
            return match[0]  # MkDocs checks these itself
        if not target.exists() or not target.is_relative_to(REPOSITORY):
            raise MissingError(f"{folder.relative_to(REPOSITORY)} links to {match['target']}, which is not there")
        if match["open"].startswith("!"):
            up = "/".join([".."] * len(folder.relative_to(DOCS).parts))
            return f"{match['open']}{up}/{figure_uri(target)}{match['close']}"
        kind = "tree" if target.is_dir() else "blob"
        path = PurePosixPath(target.relative_to(REPOSITORY))
        return f"{match['open']}{base_url.rstrip('/')}/{kind}/main/{path}{match['close']}"

    return _LINK.sub(replace, text)


def figure_uri(path: Path) -> str:
    """Where the site has a picture of benchmarks/results/. Raises MissingError for any other."""
    if not path.is_relative_to(RESULTS):
        raise MissingError(f"pictures come from docs/images or benchmarks/results, got {path}")
    return f"{FIGURES}/{PurePosixPath(path.relative_to(RESULTS))}"


def on_files(files: Any, *, config: Any) -> Any:
    """MkDocs calls this once per language: the records' pictures become files of the site."""
    from mkdocs.structure.files import File

    for path in sorted([*RESULTS.rglob("*.png"), *RESULTS.rglob("*.svg")]):
        files.append(File.generated(config, figure_uri(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """MkDocs calls this for every page."""
    source = Path(page.file.abs_src_path)
    try:
        return link_to_source(render(markdown, page.file.src_uri), source.parent, config.repo_url)
    except MissingError as error:
        from mkdocs.exceptions import PluginError

        raise PluginError(str(error)) from error


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """MkDocs calls this for every page. The theme would ask the repository's host for its stars: the site loads nothing from elsewhere."""
    return output.replace(' data-md-component="source"', "")


# ---- README


def readme_with_numbers(readme: str) -> str:
    """README.md with its generated part made anew."""
    numbers = render(README_NUMBERS.read_text(), README_NUMBERS.name).replace("](../../", "](")
    text, count = _README_PART.subn(lambda match: f"{match[1]}\n{numbers}\n{match[2]}", readme)
    if count != 1:
        raise MissingError(f"expected one generated part in README.md, got {count}")
    return text


if __name__ == "__main__":
    README = REPOSITORY / "README.md"
    README.write_text(readme_with_numbers(README.read_text()))
