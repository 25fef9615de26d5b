from hypothesis import example, given
from hypothesis import strategies as st
from support.tiny_tokenizer import IM_END, tiny_tokenizer

TOKENIZER = tiny_tokenizer()  # one token per byte: every character beyond ASCII is spread over several


def pieces_of(token_ids: list[int]) -> tuple[list[str], str]:
    detokenizer = TOKENIZER.detokenizer()
    return [detokenizer.push(token) for token in token_ids], detokenizer.flush()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("🙂é日本語")
def test_pieces_of_valid_text_join_to_it_and_never_show_half_a_character(text: str) -> None:
    pieces, rest = pieces_of(list(text.encode()))
    assert "".join(pieces) + rest == text
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in pieces)


@given(st.lists(st.integers(0, IM_END), max_size=60))
@example([0xE2, 0x80])
@example([0xFF, 0x41, 0xF0, 0x9F, IM_END, 0x41])
def test_any_tokens_join_to_the_full_decode(token_ids: list[int]) -> None:
    pieces, rest = pieces_of(token_ids)
    assert "".join(pieces) + rest == TOKENIZER.decode(token_ids)


def test_a_character_appears_with_its_last_byte() -> None:
    pieces, _ = pieces_of(list("a🙂b".encode()))
    assert pieces == ["a", "", "", "", "🙂", "b"]


def test_an_unfinished_character_is_shown_at_the_end_only() -> None:
    pieces, rest = pieces_of(list("a🙂".encode()[:-1]))
    assert ("".join(pieces), rest) == ("a", "\ufffd")
