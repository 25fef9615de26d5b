// Decisions, the latest first: why, what was expected, what came.

import { $, el, pathOf, seconds, setText, shortId, sync, way } from "./dom.js";

const SHOWN = 40;

export class Router {
  update(live, finished) {
    const ended = finished.filter((r) => r.report).map((r) => ({ id: r.request_id, decision: r.report.decision, actual: r.report.e2e_s }));
    const open = live.requests.map((r) => ({ id: r.request_id, decision: r.decision, actual: null }));
    const planned = [...ended, ...open].filter((d) => d.decision.chosen.decode_worker);
    sync($("decisions"), planned.reverse().slice(0, SHOWN), (d) => d.id, make, update);
  }
}

function make(d) {
  const parts = { way: el("span", { class: "way" }), times: el("span", { class: "times" }), reason: el("p") };
  const node = el("li", {}, el("i", { class: "glyph" }), el("b", {}, shortId(d.id)), parts.way, parts.times, parts.reason);
  node.parts = parts;
  return node;
}

function update(node, d) {
  const expected = d.decision.chosen.total_ms;
  const actual = d.actual === null ? "running" : seconds(d.actual);
  node.firstChild.setAttribute("data-path", pathOf(d.decision));
  setText(node.parts.way, way(d.decision));
  setText(node.parts.times, expected ? `${seconds(expected / 1e3)} expected · ${actual}` : actual);
  setText(node.parts.reason, d.decision.reason);
}
