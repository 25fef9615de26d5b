"""The door of a pool: services, descriptors, refusals, and its end."""

import os
import time

import pytest

from nanopd.errors import TransferError
from nanopd.kv_transfer import pool_server
from nanopd.kv_transfer.pool_server import PoolServer, Wish, ask


@pytest.fixture
def server():
    server = PoolServer("test")
    yield server
    server.close()


def test_an_answer_comes_with_its_descriptors(server, tmp_path):
    secret = tmp_path / "pool"
    secret.write_text("blocks")

    def serve(connection, wish, descriptors):
        assert (wish.sender, wish.details) == ("me", {"slots": 3})
        descriptor = os.open(secret, os.O_RDONLY)
        connection.send(b"{}", [descriptor])
        os.close(descriptor)
        assert connection.receive() == b"more"
        connection.send(b"and more")

    server.services["map"] = serve
    connection, answer, (descriptor,) = ask(server.name, Wish("map", "me", {"slots": 3}))
    assert answer == b"{}"
    with os.fdopen(descriptor) as file:
        assert file.read() == "blocks"
    connection.send(b"more")
    assert connection.receive() == b"and more"
    assert connection.receive() == b"", "it has ended"
    connection.close()


def test_descriptors_travel_the_other_way_too(server):
    received = []

    def serve(connection, wish, descriptors):
        received.append(os.read(descriptors[0], 10))
        os.close(descriptors[0])
        connection.send(b"{}")

    server.services["relay"] = serve
    reader, writer = os.pipe()
    os.write(writer, b"slots")
    ask(server.name, Wish("relay", "me"), [reader])[0].close()
    os.close(reader), os.close(writer)
    assert received == [b"slots"]


def test_what_is_not_served_is_refused(server):
    with pytest.raises(TransferError, match="hung up"):
        ask(server.name, Wish("dance", "me"))

    def serve(connection, wish, descriptors):
        connection.send(b"out of memory")

    server.services["map"] = serve
    with pytest.raises(TransferError, match="out of memory"):
        ask(server.name, Wish("map", "me"))


def test_a_service_that_fails_ends_only_its_connection(server):
    def serve(connection, wish, descriptors):
        if wish.sender == "bad":
            raise RuntimeError("a bug")
        connection.send(b"{}")

    server.services["map"] = serve
    with pytest.raises(TransferError):
        ask(server.name, Wish("map", "bad"))
    ask(server.name, Wish("map", "good"))[0].close()


def test_a_silent_server_is_given_up(server):
    server.services["map"] = lambda connection, wish, descriptors: time.sleep(1.0)
    with pytest.raises(TransferError, match="cannot be reached"):
        ask(server.name, Wish("map", "me"), patience_s=0.05)


def test_nobody_answers_after_close():
    server = PoolServer("test")
    ended = []

    def serve(connection, wish, descriptors):
        connection.send(b"{}")
        ended.append(connection.receive())

    server.services["relay"] = serve
    connection, _, _ = ask(server.name, Wish("relay", "me"))
    server.close()
    assert ended == [b""], "close waits for its connections"
    assert connection.receive() == b""
    with pytest.raises(TransferError, match="cannot be reached"):
        ask(server.name, Wish("relay", "me"))


def test_another_user_is_not_let_in(server, monkeypatch):
    class OfAnother:
        size = 12

        @staticmethod
        def unpack(_credentials):
            return 1, os.getuid() + 1, 1

    server.services["map"] = lambda connection, wish, descriptors: connection.send(b"{}")
    monkeypatch.setattr(pool_server, "_CREDENTIALS", OfAnother)
    with pytest.raises(TransferError, match="is not let into"):
        ask(server.name, Wish("map", "me"))
