import socket

import pytest

from nanopd.errors import ConfigError
from nanopd.server.serve import _listen


def test_tokens_are_sent_at_once() -> None:
    """Accepted connections do not wait for acknowledgements before they send a small packet."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _address = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with _listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            _listen("127.0.0.1", port)
