"""Chat templates: the model's own Jinja text, rendered in a sandbox with the helpers Hugging Face templates expect."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nanopd.errors import ConfigError, InvalidRequestError

Message = Mapping[str, Any]  # {"role": ..., "content": ...}


class ChatTemplate:
    """One compiled template. The template is data from a model file: it cannot reach Python beyond what it is given."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """``special_tokens``: names the template may use, such as bos_token. Raises ConfigError if the template does not parse."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError(f"the model's chat template does not parse: {error}") from error
        self._special_tokens = dict(special_tokens or {})

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of a conversation; ``variables`` are what this template takes besides (``enable_thinking`` and the like).

        Raises InvalidRequestError with the template's own words if it refuses the messages.
        """
        given = {
            **self._special_tokens,
            **(variables or {}),
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(given)
        except (TemplateError, TypeError) as error:
            raise InvalidRequestError(f"messages do not fit the model's chat template: {error}", "messages") from error


def _to_json(
    value: Any, indent: int | None = None, ensure_ascii: bool = False, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's own filter this does not escape HTML characters: the prompt is no web page."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
