"""``GET /debug/requests/{id}``: why a request went where it went, and what came of it. The last ones are kept; ``nanopd explain`` reads them."""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanopd.cluster.events import FinishRequest
from nanopd.request import Request

if TYPE_CHECKING:
    from nanopd.runtime.controller import Controller


class RequestLog:
    """Holds the reports of the ``capacity`` requests that ended last."""

    def __init__(self, controller: "Controller", capacity: int = 1024) -> None:
        self._controller = controller
        self._capacity = capacity
        self._ended: OrderedDict[str, FinishRequest] = OrderedDict()
        controller.on_finish.append(self._on_finish)

    async def show(self, http: HttpRequest) -> Response:
        """200 with the decision (and, once the request has ended, its times); 404 for an id that is not known any more."""
        row = self.row(http.path_params["request_id"])
        if row is None:
            raise HTTPException(404, "no such request among those that run and those that ended last")
        return Response(msgspec.json.encode(row), media_type="application/json")

    def row(self, request_id: str) -> dict[str, Any] | None:
        """The fields of a line of ``nanopd simulate --decisions``; ``report`` holds all there is."""
        finish = self._ended.get(request_id)
        if finish is not None:
            report = finish.report
            times = {
                "ttft_ms": _ms(report.ttft_s if report else None),
                "tpot_ms": _ms(report.tpot_s if report else None),
                "e2e_ms": _ms(report.e2e_s if report else None),
            }
            decision = msgspec.to_builtins(report.decision) if report else None
            return {
                "request_id": request_id,
                "state": finish.reason.value,
                "decision": decision,
                **times,
                "report": msgspec.to_builtins(report),
            }
        for live in self._controller.snapshot().requests:
            if live.request_id == request_id:
                return {"request_id": request_id, "state": live.state, "decision": msgspec.to_builtins(live.decision)}
        return None

    def _on_finish(self, finish: FinishRequest, request: Request) -> None:
        self._ended[finish.request_id] = finish
        if len(self._ended) > self._capacity:
            self._ended.popitem(last=False)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
