"""What a run shows while it goes on: a live line on a terminal, a line for each cell in a log."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nanopd.bench.sample import Outcome


class Progress:
    """Told what happens, says it on the console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._title, self._total, self._num_sent = "", 0, 0
        self._ended: Counter[Outcome] = Counter()

    def say(self, sentence: str) -> None:
        self._console.print(Text(sentence, style="dim"))

    @contextmanager
    def cell(self, title: str, num_requests: int) -> Iterator[None]:
        self._title, self._total, self._num_sent = title, num_requests, 0
        self._ended.clear()
        if self._console.is_terminal:
            with Live(
                console=self._console, get_renderable=self._line, refresh_per_second=4, transient=True
            ) as self._live:
                yield
        else:
            yield
        self._console.print(self._line())

    def sent(self) -> None:
        self._num_sent += 1

    def ended(self, outcome: Outcome) -> None:
        self._ended[outcome] += 1

    def _line(self) -> Text:
        completed = self._ended[Outcome.COMPLETED]
        lost = sum(self._ended.values()) - completed
        running = self._num_sent - completed - lost
        lost_text = Text(f", {lost} refused or failed", style="bold red") if lost else Text("")
        unfinished = f", {running} under way" if running else ""
        return Text.assemble(
            (f"  {self._title}", "bold"), f"  {completed} of {self._total} completed", unfinished, lost_text
        )
