from hypothesis import given
from hypothesis import strategies as st

from nanopd.tokenizer.stop_strings import StopMatcher

texts = st.text(alphabet="abc", max_size=30)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def run(pieces: list[str], stop: list[str], include: bool = False) -> tuple[str, str | None]:
    matcher = StopMatcher(stop, include)
    shown = "".join(matcher.push(piece) for piece in pieces)
    return shown + ("" if matcher.matched else matcher.flush()), matcher.matched


def oracle(text: str, stop: list[str], include: bool) -> tuple[str, str | None]:
    """Character by character: the first prefix of the text that ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            longest = max(ending, key=len)
            return (text[:end] if include else text[: end - len(longest)]), longest
    return text, None


@given(texts, stops, st.lists(st.integers(0, 30)), st.booleans())
def test_same_answer_however_the_text_is_cut(text: str, stop: list[str], cuts: list[int], include: bool) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert run(pieces, stop, include) == oracle(text, stop, include)


@given(texts, stops)
def test_nothing_that_belongs_to_a_stop_string_is_shown_early(text: str, stop: list[str]) -> None:
    matcher, shown = StopMatcher(stop), ""
    for character in text:
        shown += matcher.push(character)
        assert oracle(text, stop, False)[0].startswith(shown)


def test_only_a_possible_start_is_withheld() -> None:
    matcher = StopMatcher(["END"])
    assert [matcher.push(piece) for piece in ("a E", "N", "x", "E")] == ["a ", "", "ENx", ""]
    assert matcher.flush() == "E"


def test_nothing_follows_a_match() -> None:
    matcher = StopMatcher(["."], include_in_output=True)
    assert [matcher.push(piece) for piece in ("a.b", "c")] == ["a.", ""]
    assert matcher.matched == "."
