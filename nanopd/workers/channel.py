"""A worker's end of the wire: one ZeroMQ DEALER whose identity says who speaks, messages as msgpack."""

import logging
import time

import msgspec
import zmq

from nanopd.messages import FromWorker, ToWorker, decode_to_worker, encode

logger = logging.getLogger(__name__)


def identity(worker_id: str, incarnation: int, voice: str = "") -> bytes:
    """The routing id of a worker's socket. ``voice`` tells a second socket of the same worker from its first."""
    return f"{worker_id}/{incarnation}/{voice}".encode()


def parse_identity(frame: bytes) -> tuple[str, int] | None:
    """(worker id, incarnation), or None if this is no identity of a worker."""
    parts = frame.decode(errors="replace").split("/")
    return (parts[0], int(parts[1])) if len(parts) == 3 and parts[1].isdecimal() else None


class WorkerChannel:
    """Messages to and from the controller. Used by the thread that made it."""

    def __init__(self, address: str, who: bytes) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, who)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a dropped message would cost a request: rather queue
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 500)  # ms, for the last words of a failing worker
        self._socket.connect(address)

    def send(self, message: FromWorker) -> None:
        self._socket.send(encode(message))

    def receive(self, timeout_s: float) -> list[ToWorker]:
        """Everything that has arrived; waits up to ``timeout_s`` for the first of it."""
        messages: list[ToWorker] = []
        if timeout_s >= 1e-3:
            self._socket.poll(round(timeout_s * 1e3))
        elif timeout_s > 0.0:  # poll counts in milliseconds
            time.sleep(timeout_s)
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return messages
            try:
                messages.append(decode_to_worker(data))
            except msgspec.MsgspecError as error:
                logger.warning("dropped a message that is none: %s", error)

    def close(self) -> None:
        self._socket.close()
        self._context.term()
