"""The controller's end of the wire: a ZeroMQ ROUTER on a socket file in a directory only this user can enter."""

import contextlib
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from nanopd.messages import FromWorker, ToWorker, decode_from_worker, encode
from nanopd.workers.channel import identity, parse_identity

logger = logging.getLogger(__name__)

_DIRECTORY = re.compile(r"nanopd-(\d+)-[0-9a-f]{8}")
_MAX_PARENT = 107 - len("/nanopd-4194304-0123abcd/workers")  # a Unix socket's path has at most 107 bytes


class ControllerChannel:
    """Messages to and from all workers. Lives in the running event loop."""

    def __init__(self) -> None:
        self.directory = _make_directory()
        self.address = f"ipc://{self.directory}/workers"
        self._context = zmq.asyncio.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.address)

    def send(self, worker_id: str, incarnation: int, message: ToWorker) -> None:
        """Queues a message; one to a worker that is not connected is dropped."""
        self._socket.send_multipart([identity(worker_id, incarnation), encode(message)])

    async def receive(self, deliver: Callable[[str, int, FromWorker], None]) -> None:
        """Hands every message to ``deliver`` until cancelled. Whatever is no message is logged and dropped."""
        while True:
            frames = await self._socket.recv_multipart()
            sender = parse_identity(frames[0])
            if sender is None or len(frames) != 2:
                logger.warning("dropped a message from an unknown sender")
                continue
            try:
                message = decode_from_worker(frames[1])
            except msgspec.MsgspecError as error:
                logger.warning("dropped a message from %s that is none: %s", sender[0], error)
                continue
            deliver(*sender, message)

    def close(self) -> None:
        self._socket.close()
        self._context.term()
        shutil.rmtree(self.directory, ignore_errors=True)


def _make_directory() -> Path:
    """A fresh directory with mode 0700, named after this process so that what a killed controller left can be told and removed."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _MAX_PARENT:
        parent = Path("/tmp")
    _remove_leftovers(parent)
    directory = parent / f"nanopd-{os.getpid()}-{secrets.token_hex(4)}"
    directory.mkdir(mode=0o700)
    return directory


def _remove_leftovers(parent: Path) -> None:
    """Removes this user's directories whose controller is gone."""
    for entry in parent.glob("nanopd-*"):
        match = _DIRECTORY.fullmatch(entry.name)
        if match is None or os.path.exists(f"/proc/{match[1]}") or entry.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == os.getuid():
                shutil.rmtree(entry)
