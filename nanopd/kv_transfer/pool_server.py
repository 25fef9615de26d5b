"""The door of a pool: a Unix socket where peers of the same host and user ask for what they need to write into it.

Every peer has a connection of its own, served by a thread of its own, and says first what it wants (a name in ``services``). Messages are packets,
descriptors travel beside them. The socket is in the abstract namespace: the kernel removes it with its owner, however that one ends, and the end of
a connection tells either side that the other is gone.
"""

import contextlib
import logging
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Sequence

import msgspec

from nanopd.errors import TransferError

logger = logging.getLogger(__name__)

MAX_PACKET = 128 << 10
_HANDSHAKE_S = 10.0  # a peer that lives answers within milliseconds
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Wish(msgspec.Struct, frozen=True):
    """First packet of a connection."""

    service: str
    sender: str  # the asking worker's own pool, by name
    details: dict[str, int] = {}


class Connection:
    """One peer. Packets arrive whole and in order; an empty one means that the peer is gone."""

    def __init__(self, peer: socket.socket) -> None:
        self._socket = peer
        _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user not in (os.getuid(), 0):
            peer.close()
            raise TransferError(f"a process of user {user} is not let into the KV pool of user {os.getuid()}")

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Raises OSError if the peer is gone."""
        socket.send_fds(self._socket, [packet], list(descriptors), socket.MSG_NOSIGNAL)

    def receive(self) -> bytes:
        """Waits for a packet."""
        return self._receive(0)

    def receive_now(self) -> bytes | None:
        """A packet if one has arrived."""
        try:
            return self._receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """Waits for a packet; the caller closes the descriptors."""
        packet, descriptors, _, _ = socket.recv_fds(self._socket, MAX_PACKET, 4)
        return packet, descriptors

    def set_patience(self, seconds: float | None) -> None:
        """How long ``receive`` waits before it raises TimeoutError; None: for ever."""
        self._socket.settimeout(seconds)

    def say_goodbye(self) -> None:
        """Sends no more; what the peer has sent can still be received."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Takes no more; what has arrived can still be received."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._socket.close()

    def _receive(self, flags: int) -> bytes:
        for _ in range(2):  # a reset is told once; then the last words the peer sent before it can still be read
            try:
                return self._socket.recv(MAX_PACKET, flags)
            except ConnectionError:
                continue
        return b""


Service = Callable[[Connection, Wish, list[int]], None]  # serves one connection; the descriptors are its own to close


class PoolServer:
    """Serves connections until closed."""

    def __init__(self, label: str) -> None:
        self.name = f"nanopd-kv-{label}-{secrets.token_hex(8)}"
        self.services: dict[str, Service] = {}
        self._open: dict[threading.Thread, tuple[Connection, str]] = {}  # with the peer's name, once it has said it
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{self.name}")
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, name="nanopd-pool-server", daemon=True)
        self._thread.start()

    def cut(self, sender: str) -> None:
        """``sender`` is gone: returns when nothing it has asked for can be written into the pool any more."""
        with self._lock:
            threads = [thread for thread, (connection, name) in self._open.items() if name == sender]
            for thread in threads:
                self._open[thread][0].cut()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """Ends every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            threads = list(self._open)
            for connection, _ in self._open.values():
                connection.cut()
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                connection = Connection(peer)
            except TransferError as error:
                logger.warning("%s", error)
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="nanopd-pool-peer", daemon=True)
            with self._lock:
                self._open[thread] = (connection, "")
            thread.start()

    def _serve(self, connection: Connection) -> None:
        thread = threading.current_thread()
        try:
            packet, descriptors = connection.receive_with_descriptors()
            wish = msgspec.json.decode(packet, type=Wish)
            with self._lock:
                self._open[thread] = (connection, wish.sender)
            service = self.services.get(wish.service)
            if service is None:
                raise TransferError(f"no service {wish.service!r} here")
            service(connection, wish, descriptors)
        except (OSError, msgspec.MsgspecError, TransferError) as error:
            logger.info("a connection to the KV pool has ended: %s", error)
        except Exception:  # one bad peer must not end the service for the others
            logger.exception("a connection to the KV pool has failed")
        finally:
            connection.close()
            with self._lock:
                del self._open[thread]


def ask(
    name: str, wish: Wish, descriptors: Sequence[int] = (), patience_s: float = _HANDSHAKE_S
) -> tuple[Connection, bytes, list[int]]:
    """Connects to the pool called ``name`` and asks: the connection, the answer and descriptors that came with it.

    Raises TransferError if nobody answers in time, or not with yes (an answer is JSON, starting with ``{``).
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        peer.settimeout(patience_s)
        peer.connect(f"\0{name}")
        connection = Connection(peer)
        connection.send(msgspec.json.encode(wish), descriptors)
        answer, received = connection.receive_with_descriptors()
    except OSError as error:
        peer.close()
        raise TransferError(f"the KV pool {name} cannot be reached: {error}") from error
    connection.set_patience(None)
    if not answer.startswith(b"{"):
        connection.close()
        raise TransferError(f"the KV pool {name} cannot be used: {answer.decode(errors='replace') or 'it has hung up'}")
    return connection, answer, received
