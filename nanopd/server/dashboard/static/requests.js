// Finished requests: a list of bars, and one of them in full.

import { $, bytes, el, millis, pathOf, phaseBar, seconds, shortId, sync, way, whole } from "./dom.js";

export class Requests {
  constructor() {
    this.list = $("request-list");
    this.detail = $("request-detail");
    this.picked = null; // null: the latest
    this.shown = null;
    this.finished = []; // the latest first
    this.live = [];
    $("follow").addEventListener("click", () => this.pick(this.picked === null ? this.finished[0]?.request_id : null));
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.show(null);
  }

  pick(id) {
    this.picked = id;
    $("follow").setAttribute("aria-pressed", String(id === null));
    this.update([...this.finished].reverse(), this.live);
  }

  onKey(event) {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!move || !this.finished.length) return;
    event.preventDefault();
    const at = this.finished.findIndex((r) => r === this.shown);
    this.pick(this.finished[Math.max(0, Math.min(this.finished.length - 1, at + move))].request_id);
    this.list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  update(finished, live) {
    this.finished = [...finished].reverse();
    this.live = live;
    const running = live.find((r) => r.request_id === this.picked);
    const scale = Math.max(...this.finished.map((r) => r.report?.e2e_s ?? 0), 1e-3);
    const current = running ? null : (this.finished.find((r) => r.request_id === this.picked) ?? this.finished[0] ?? null);
    sync(this.list, this.finished, (r) => r.request_id, (r) => this.row(r), (node, r) => {
      const selected = String(r === current);
      if (node.getAttribute("aria-selected") !== selected) node.setAttribute("aria-selected", selected);
      if (node.scale !== scale) node.bar.replaceChildren(...phaseBar(r.phases, (node.scale = scale)));
    });
    if (this.list.firstChild) this.list.setAttribute("aria-activedescendant", current ? `request-${current.number}` : "");
    if (running) this.show(running, describeLive);
    else if (current !== this.shown) this.show(current);
  }

  row(r) {
    const report = r.report;
    const bar = el("div", { class: "phases" });
    const node = el("div", { class: "request", role: "option", id: `request-${r.number}`, onclick: () => this.pick(r.request_id) },
      el("i", { class: "glyph", "data-path": report ? pathOf(report.decision) : "" }), el("b", {}, shortId(r.request_id)),
      el("span", { class: "count" }, report ? `${report.num_prompt_tokens}+${report.num_output_tokens}` : ""), bar,
      el("span", { class: "time" }, report ? seconds(report.e2e_s) : r.reason));
    node.bar = bar;
    return node;
  }

  show(r, describe = describeFinished) {
    this.shown = r;
    this.detail.replaceChildren(...(r === null ? [el("p", { class: "empty" }, "Requests appear here when they end.")] : describe(r)));
  }
}

function describeLive(r) {
  return [
    el("h3", {}, el("i", { class: "glyph", "data-path": pathOf(r.decision) }), el("b", {}, shortId(r.request_id)), ` ${way(r.decision)}`,
      el("span", { class: "end" }, `${r.state}, ${seconds(r.age_s)}`)),
    el("p", { class: "reason" }, r.decision.reason),
    comparison(r.decision),
  ];
}

/** Everything known about a finished request. */
function describeFinished(r) {
  const report = r.report;
  if (!report) return [el("h3", {}, shortId(r.request_id)), el("p", { class: "error" }, r.error ?? r.reason)];
  return [
    el("h3", {}, el("i", { class: "glyph", "data-path": pathOf(report.decision) }), el("b", {}, shortId(r.request_id)), ` ${way(report.decision)}`,
      el("span", { class: "end", "data-reason": r.reason }, r.reason)),
    r.error ? el("p", { class: "error" }, r.error) : null,
    timeline(r),
    el("p", { class: "reason" }, report.decision.reason),
    comparison(report.decision, report),
    facts(report),
  ].filter(Boolean);
}

/** One line per stage, on the request's own time axis. */
function timeline(r) {
  const report = r.report;
  const scale = Math.max(report.e2e_s, 1e-6);
  const mark = report.ttft_s === null ? null : el("i", { class: "first-token", title: `first token after ${seconds(report.ttft_s)}` });
  if (mark) mark.style.left = `${(report.ttft_s / scale) * 100}%`;
  const rows = ["lost", "queued", "prefill", "transfer", "decode"].map((stage) => {
    const spans = r.phases.filter((phase) => phase.stage === stage);
    if (!spans.length) return null;
    const total = spans.reduce((sum, span) => sum + span.end_s - span.start_s, 0);
    return el("div", { class: "stage-row", "data-stage": stage }, el("span", {}, stage), el("div", { class: "phases" }, phaseBar(spans, scale)),
      el("span", { class: "time" }, seconds(total)));
  });
  const track = el("div", { class: "marks" }, mark);
  return el("div", { class: "timeline" }, rows.filter(Boolean), track);
}

/** The plans the router weighed, and what came. */
function comparison({ chosen, candidates }, report = null) {
  const same = (a, b) => a.prefill_worker === b.prefill_worker && a.decode_worker === b.decode_worker;
  const plans = candidates.length ? candidates : [chosen];
  const row = (plan) => el("tr", { class: same(plan, chosen) ? "chosen" : undefined },
    el("th", { scope: "row" }, way({ chosen: plan })), 
    el("td", {}, millis(plan.ttft_ms)), el("td", {}, millis(plan.tpot_ms)), el("td", {}, millis(plan.total_ms)));
  const actual = report && el("tr", { class: "actual" }, el("th", { scope: "row" }, "what came"),
    el("td", {}, seconds(report.ttft_s)), el("td", {}, seconds(report.tpot_s)), el("td", {}, seconds(report.e2e_s)));
  return el("table", {},
    el("thead", {}, el("tr", {}, ["plan", "first token", "per token", "whole"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, plans.slice(0, 4).map(row), actual));
}

function facts(report) {
  const cached = Math.max(report.prefill.num_cached_tokens, report.decision.num_resident_tokens);
  const entries = [
    ["tokens", `${whole(report.num_prompt_tokens)} in, ${whole(report.num_output_tokens)} out`],
    cached ? ["prefix cache", `${whole(cached)} tokens`] : null,
    report.transfer_bytes ? ["KV moved", `${bytes(report.transfer_bytes)}, ${report.transport.replaceAll("_", " ")}`] : null,
    report.transfer_bytes ? ["transfer", `${millis(report.transfer_ms)} busy, ${millis(report.transfer_exposed_ms)} not hidden`] : null,
    report.num_attempts > 1 ? ["attempts", whole(report.num_attempts)] : null,
  ];
  return el("dl", { class: "facts-list" }, entries.filter(Boolean).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
