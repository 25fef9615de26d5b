import re

import pytest

from nanopd.errors import ConfigError, InvalidRequestError
from nanopd.tokenizer.chat_template import ChatTemplate

HI = [{"role": "user", "content": "Hi"}]


def test_messages_special_tokens_and_generation_prompt() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
        {"bos_token": "<s>"},
    )
    assert template.render(HI) == "<s>[user]Hi>"
    assert template.render(HI, add_generation_prompt=False) == "<s>[user]Hi"


def test_variables_of_the_caller_reach_the_template() -> None:
    assert ChatTemplate("{{ enable_thinking }}").render(HI, variables={"enable_thinking": False}) == "False"
    assert ChatTemplate("{{ messages[0].content }}").render(HI, variables={"messages": "mine"}) == "Hi"


def test_helpers_hugging_face_templates_expect() -> None:
    assert (
        ChatTemplate("{{ messages | tojson }}").render([{"role": "user", "content": "<é>"}])
        == '[{"role": "user", "content": "<é>"}]'
    )
    assert re.fullmatch(r"\d{4}", ChatTemplate("{{ strftime_now('%Y') }}").render(HI))
    assert ChatTemplate("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}").render(HI * 2) == "user"


def test_blocks_leave_no_blank_lines() -> None:
    assert ChatTemplate("{% if true %}\n  a\n{% endif %}\nb").render(HI) == "  a\nb"


def test_a_refusal_keeps_the_templates_words() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        template.render(HI)
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.os }}",
    ],
)
def test_the_sandbox_keeps_templates_away_from_python(attack: str) -> None:
    with pytest.raises(InvalidRequestError):
        ChatTemplate(attack).render(HI)


def test_a_template_that_does_not_parse_is_the_models_fault() -> None:
    with pytest.raises(ConfigError, match="does not parse"):
        ChatTemplate("{% for %}")
