"""The life of the server process: signals, a port in use, a model that is not there."""

import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import psutil
import pytest
from support.server_process import REPOSITORY, ServerProcess

pytestmark = pytest.mark.e2e

OPTIONS = ("--dtype", "float32", "--num-blocks", "128", "--max-num-seqs", "4")


def post(server: ServerProcess, **fields: Any) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/completions",
        json={"prompt": "Hello", "temperature": 0, "ignore_eos": True, **fields},
        timeout=120,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_leaves_nothing_behind(number: int) -> None:
    with ServerProcess("--workers", "1P+1D", *OPTIONS) as server:
        workers = server.children()
        assert len(workers) == 2
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(post(server, max_tokens=40)))
        thread.start()
        server.wait_until(lambda: server.get("/health")["num_requests"] == 1, "the request")

        assert server.terminate(number) == 0

        thread.join()
        assert answers[0].json()["usage"]["completion_tokens"] == 40
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        with pytest.raises(httpx.ConnectError):
            post(server)


@pytest.mark.parametrize(("drain_timeout_s", "num_signals"), [(1, 1), (60, 2)])
def test_a_drain_has_an_end(drain_timeout_s: int, num_signals: int) -> None:
    """By its time limit, or by a second signal: what still runs is aborted, and its client is told."""
    with ServerProcess("--workers", "1C", "--drain-timeout-s", str(drain_timeout_s), *OPTIONS) as server:
        workers = server.children()
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(post(server, max_tokens=1900)))
        thread.start()
        server.wait_until(lambda: server.get("/health")["num_requests"] == 1, "the request")
        for _ in range(num_signals - 1):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # two signals at once are one
        assert server.terminate(timeout_s=30) == 0
        thread.join()
        body = answers[0].json()
        assert body["choices"][0]["finish_reason"] == "abort"
        assert body["usage"]["completion_tokens"] < 1900
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_a_signal_while_workers_start() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nanopd", "serve", "--port", "0", "--workers", "1P+1D", *OPTIONS],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert "starting" in process.stdout.readline()
    deadline = time.monotonic() + 30
    while not (workers := psutil.Process(process.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "serves" not in process.stdout.read()
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_a_full_queue_is_429_and_a_place_comes_free() -> None:
    with ServerProcess("--workers", "1C", "--max-queued-requests", "2", *OPTIONS) as server:
        with httpx.stream(
            "POST",
            f"{server.url}/v1/completions",
            json={"prompt": "Hi", "stream": True, "ignore_eos": True, "max_tokens": 900},
        ):
            refused = post(server, n=2, max_tokens=4)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert post(server, max_tokens=4).status_code == 200
        server.wait_until(lambda: post(server, n=2, max_tokens=4).status_code == 200, "a place in the queue")


def run_serve(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanopd", "serve", *options], capture_output=True, text=True, cwd=REPOSITORY, timeout=120
    )


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_serve("--port", str(port))
    assert result.returncode == 2
    assert result.stderr == f"nanopd serve: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_worker_that_cannot_start_is_one_sentence() -> None:
    result = run_serve("--port", "0", "--num-blocks", "1", "--device", "no-such-device")
    assert result.returncode != 0
    assert "no-such-device" in result.stderr
    assert "Traceback" not in result.stderr.splitlines()[-1]
