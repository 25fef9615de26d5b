"""README and the pages of docs/ as their reader sees them: fenced blocks of code, and commands in the text.

A comment before a block says what its test needs; without one it needs nothing::

    <!-- test: slow -->      longer than a few seconds: run by `make test-full`, parsed by `make test`
    <!-- test: server -->    a server at http://127.0.0.1:8000: run against a real one by `make test-full`, parsed by `make test`
    <!-- test: gpu -->       a GPU: run where there is one, parsed everywhere
    <!-- test: parse -->     never run here (it would take minutes, or needs a program that is not ours), parsed
"""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHELLS = ("bash", "sh", "shell", "console")
NEEDS = ("slow", "server", "gpu", "parse")

_FENCE = re.compile(
    r"^(?:<!-- test: (?P<needs>\w+) -->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"(?<!`)`((?:\.venv/bin/)?(?:nanopd|python|make) [^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``output``: the text block right behind a Python block, which is what it prints."""

    page: str
    line: int
    language: str
    code: str
    needs: str | None
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Lines of a shell block, continued ones joined, comments left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def pages(language: str = "en") -> list[Path]:
    """README, CONTRIBUTING and one language's pages."""
    top = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"] if language == "en" else []
    return top + sorted((REPOSITORY / "docs" / language).rglob("*.md"))


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    matches = list(_FENCE.finditer(text))
    for match, following in zip_longest(matches, matches[1:]):
        is_output = (
            following is not None
            and match["language"] == "python"
            and following["language"] == "text"
            and text[match.end() : following.start()].strip() == ""
        )
        found.append(
            Block(
                str(page.relative_to(REPOSITORY)),
                text.count("\n", 0, match.start()) + 1,
                match["language"],
                match["code"],
                match["needs"],
                following["code"] if is_output and following is not None else None,
            )
        )
    return found


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of every English page in any of these (code) languages; the Chinese pages have the same ones."""
    return [block for page in pages() for block in blocks_of(page) if block.language in languages]


def inline_commands() -> list[tuple[str, str]]:
    """(page, command) of every command named in the text."""
    return [
        (str(page.relative_to(REPOSITORY)), command)
        for page in pages()
        for command in _INLINE.findall(page.read_text())
    ]
