"""A conversation's last answer, found by the prompt that goes on from it."""

from random import Random

from nanopd.router.predictor import LengthPredictor
from nanopd.router.predictor.conversations import Conversations


def test_a_prompt_that_goes_on_finds_the_latest_answer() -> None:
    conversations = Conversations()
    assert conversations.last_answer((1, 2)) == 0
    conversations.note(2, 300)
    conversations.note(4, 50)
    assert conversations.last_answer((1, 2, 3)) == 300
    assert conversations.last_answer((1, 2, 3, 4, 5)) == 50
    assert conversations.last_answer((1, 9)) == 0  # another conversation behind the same first tokens
    assert conversations.last_answer(()) == 0
    conversations.note(4, 70)
    assert conversations.last_answer((1, 2, 3, 4)) == 70


def test_a_common_beginning_is_no_conversation() -> None:
    conversations, found = Conversations(), []
    for number in range(40):  # a system prompt, and questions too short for an end of their own
        found.append(conversations.last_answer((1,)))
        conversations.note(1, 100 + number)
    assert any(found[:5])
    assert not any(found[20:])


def test_the_last_answer_tells_conversations_apart() -> None:
    """Two kinds of them, whose prompts look alike: short answers go on short, long ones long."""
    rng, predictor = Random(4), LengthPredictor()
    for conversation in range(200):
        usual, chain = (20, 600)[conversation % 2], [rng.getrandbits(60)]
        for _ in range(4):
            key = predictor.key(1000, 4096, chain=chain)
            predictor.observe(key, rng.randint(usual - 10, usual + 10))
            chain.append(rng.getrandbits(60))
    begins = predictor.distribution(predictor.key(1000, 4096, chain=(1,)))
    assert 0.3 < begins.survival(100) < 0.7
    chain = [rng.getrandbits(60)]
    predictor.observe(predictor.key(1000, 4096, chain=chain), 22)
    goes_on = predictor.distribution(predictor.key(1000, 4096, chain=[*chain, rng.getrandbits(60)]))
    assert goes_on.survival(100) < 0.1
