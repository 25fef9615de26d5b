"""``/debug/requests/{id}``, and ``nanopd explain`` on what it says."""

from support.fake_server import Server

from nanopd.cli.explain import explain
from nanopd.server.request_log import RequestLog


def test_an_ended_request_is_explained(server: Server) -> None:
    request_id = server.complete().json()["id"]
    row = server.client.get(f"/debug/requests/{request_id}").json()
    assert row["request_id"] == request_id
    assert row["decision"]["chosen"]["decode_worker"] in {"collocated-0", "decode-0"}
    assert row["report"]["decision"] == row["decision"]
    first, *table = explain(row)
    assert row["decision"]["reason"] in first
    assert any(row["decision"]["chosen"]["decode_worker"] in line for line in table)


def test_every_choice_has_its_own(server: Server) -> None:
    request_id = server.complete(n=2).json()["id"]
    for index in range(2):
        assert server.client.get(f"/debug/requests/{request_id}-{index}").status_code == 200


def test_an_unknown_request_is_404_as_the_api_shapes_errors(server: Server) -> None:
    response = server.client.get("/debug/requests/nobody")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"


def test_only_the_last_are_kept(server: Server) -> None:
    log = RequestLog(server.controller, capacity=2)  # type: ignore[arg-type]
    ids = [server.complete().json()["id"] for _ in range(3)]
    assert [log.row(request_id) is not None for request_id in ids] == [False, True, True]
