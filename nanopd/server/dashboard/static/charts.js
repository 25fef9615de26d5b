// Small SVG charts: throughput, requests by stage, TTFT, TPOT over the last two minutes, and predicted against actual.

import { $, el, pathOf, quantile, seconds, setText, svg, whole } from "./dom.js";

const SPAN = 120; // seconds
const H = 108; // pixels, as in style.css
const BOX = { left: 36, right: 5, top: 7, bottom: 17 };
const STAGES = ["queued", "prefill", "transfer", "decode"];
const xOf = (chart, age) => chart.width - BOX.right - (age / SPAN) * (chart.width - BOX.left - BOX.right);
const yOf = (share) => H - BOX.bottom - share * (H - BOX.top - BOX.bottom);

export class Charts {
  constructor() {
    this.history = []; // {now, stages} of every frame of the last two minutes
    this.rate = frame("Output tokens per second");
    this.stages = frame("Requests in flight");
    this.ttft = frame("Time to first token");
    this.tpot = frame("Time per output token");
    $("chart-grid").append(this.rate.node, this.stages.node, this.ttft.node, this.tpot.node);
  }

  update(live, finished) {
    for (const chart of [this.rate, this.stages, this.ttft, this.tpot]) fit(chart);
    this.history.push({ now: live.now, stages: live.stages });
    while (this.history[0].now < live.now - SPAN) this.history.shift();
    this.drawRate(live);
    this.drawStages(live);
    const points = (value) =>
      finished
        .filter((r) => r.report && value(r.report) !== null && live.now - r.ended_at < SPAN)
        .map((r) => ({ age: live.now - r.ended_at, value: value(r.report), path: pathOf(r.report.decision) }));
    drawDots(this.ttft, points((report) => report.ttft_s));
    drawDots(this.tpot, points((report) => report.tpot_s));
  }

  drawRate(live) {
    const rates = live.tokens_per_s;
    const top = niceTop(Math.max(...rates, 4));
    const step = (this.rate.width - BOX.left - BOX.right) / SPAN;
    let d = "";
    rates.forEach((rate, i) => {
      if (rate) d += `M${(BOX.left + (i + 0.5) * step).toFixed(1)} ${yOf(0)}V${yOf(rate / top).toFixed(1)}`;
    });
    this.rate.plot.replaceChildren(svg("path", { d, class: "bars", "data-stage": "decode" }));
    axis(this.rate, top, whole);
    const lately = rates.slice(-10);
    setText(this.rate.value, `${whole(lately.reduce((a, b) => a + b, 0) / lately.length)} over 10 s`);
  }

  drawStages(live) {
    const total = (stages) => STAGES.reduce((sum, name) => sum + stages[name], 0);
    const top = niceTop(Math.max(...this.history.map((h) => total(h.stages)), 4));
    const below = this.history.map(() => 0);
    const areas = [...STAGES].reverse().map((name) => {
      const points = this.history.map((h, i) => [xOf(this.stages, live.now - h.now), below[i], (below[i] += h.stages[name])]);
      const upper = points.map(([x, , high]) => `${x.toFixed(1)} ${yOf(high / top).toFixed(1)}`);
      const lower = points.map(([x, low]) => `${x.toFixed(1)} ${yOf(low / top).toFixed(1)}`).reverse();
      return svg("path", { d: `M${[...upper, ...lower].join("L")}Z`, class: "area", "data-stage": name });
    });
    this.stages.plot.replaceChildren(...areas);
    axis(this.stages, top, whole);
    setText(this.stages.value, `${whole(total(live.stages))} now`);
  }
}

function frame(title) {
  const parts = { value: el("span"), plot: svg("g"), grid: svg("g", { class: "grid" }) };
  const now = svg("text", { y: H - 3, "text-anchor": "end" }, "now");
  const image = svg("svg", { role: "img", "aria-label": title }, parts.grid, svg("text", { x: BOX.left, y: H - 3 }, "2 min ago"), now, parts.plot);
  return { ...parts, now, image, title, width: 0, node: el("figure", {}, el("figcaption", {}, title, parts.value), image) };
}

/** Drawn at the size it is shown: text keeps its size in every column width. */
function fit(chart) {
  const width = Math.round(chart.image.getBoundingClientRect().width);
  if (width === chart.width) return;
  chart.width = width;
  chart.top = null; // the grid is drawn anew
  chart.image.setAttribute("viewBox", `0 0 ${width} ${H}`);
  chart.now.setAttribute("x", width - BOX.right);
}

function axis(chart, top, format) {
  const label = `${chart.title}: ${chart.value.textContent}`;
  if (chart.image.getAttribute("aria-label") !== label) chart.image.setAttribute("aria-label", label);
  if (chart.top === top) return;
  chart.top = top;
  chart.grid.replaceChildren(...[0, 0.5, 1].flatMap((share) => [
    svg("line", { x1: BOX.left, x2: chart.width - BOX.right, y1: yOf(share), y2: yOf(share) }),
    svg("text", { x: BOX.left - 5, y: yOf(share) + 3, "text-anchor": "end" }, format(top * share)),
  ]));
}

function drawDots(chart, points) {
  const values = points.map((p) => p.value);
  const top = niceTop(Math.max(...values, 0.001));
  const p50 = quantile(values, 0.5);
  const dots = points.map((p) => {
    const [cx, cy] = [xOf(chart, p.age), yOf(p.value / top)].map((number) => number.toFixed(1));
    return svg("circle", { cx, cy, r: 2.6, class: "dot", "data-path": p.path });
  });
  const y = yOf((p50 ?? 0) / top);
  const median = p50 === null ? [] : [svg("line", { x1: BOX.left, x2: chart.width - BOX.right, y1: y, y2: y, class: "median" })];
  chart.plot.replaceChildren(...median, ...dots);
  setText(chart.value, p50 === null ? "none yet" : `p50 ${seconds(p50)} · p90 ${seconds(quantile(values, 0.9))}`);
  axis(chart, top, tick);
}

const tick = (s) => (s === 0 ? "0" : s < 1 ? `${+(s * 1e3).toPrecision(3)}ms` : `${+s.toPrecision(3)}s`);

/** The next of 1, 2, 4, 6, 8 times a power of ten: halves are round too, and the axis seldom moves. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

// ---- predicted against actual

const SIDE = 240;
const PAD = 34;

/** Log-log; on the diagonal the router was right. */
export class Fit {
  /** `expected` reads milliseconds from a plan, `actual` seconds from a report. */
  constructor(title, expected, actual) {
    this.title = title;
    this.expected = expected;
    this.actual = actual;
    this.plot = svg("g");
    this.grid = svg("g", { class: "grid" });
    this.text = el("span");
    const frame = { viewBox: `0 0 ${SIDE} ${SIDE}`, preserveAspectRatio: "xMidYMin", role: "img", "aria-label": title };
    this.image = svg("svg", frame, this.grid, this.plot,
      svg("text", { x: SIDE / 2 + 12, y: SIDE - 3, "text-anchor": "middle", class: "name" }, "expected"),
      svg("text", { x: -SIDE / 2 + 12, y: 10, transform: "rotate(-90)", "text-anchor": "middle", class: "name" }, "actual"));
    $("fit").append(el("figure", {}, el("figcaption", {}, title, this.text), this.image));
  }

  update(finished) {
    const points = finished
      .filter((r) => ["stop", "length"].includes(r.reason) && this.expected(r.report.decision.chosen) > 0 && this.actual(r.report) > 0)
      .map((r) => ({ x: this.expected(r.report.decision.chosen) / 1e3, y: this.actual(r.report), path: pathOf(r.report.decision) }));
    const errors = points.map((p) => Math.abs(p.x / p.y - 1));
    setText(this.text, points.length ? `median error ${whole(quantile(errors, 0.5) * 100)}%` : "no forecast yet");
    this.image.setAttribute("aria-label", `${this.title}, expected against actual: ${this.text.textContent}`);
    const all = points.flatMap((p) => [p.x, p.y]);
    const low = Math.floor(Math.log10(Math.min(...all, 0.1)));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...all, 1))));
    const at = (value) => (Math.log10(value) - low) / (high - low);
    const x = (value) => PAD + at(value) * (SIDE - PAD - 8);
    const y = (value) => SIDE - PAD + 8 - at(value) * (SIDE - PAD - 2);
    const decades = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
    this.grid.replaceChildren(...decades.flatMap((d) => [
      svg("line", { x1: x(d), x2: x(d), y1: y(decades[0]), y2: y(decades.at(-1)) }),
      svg("line", { x1: x(decades[0]), x2: x(decades.at(-1)), y1: y(d), y2: y(d) }),
      svg("text", { x: x(d), y: y(decades[0]) + 10, "text-anchor": "middle" }, tick(d)),
      d > decades[0] && svg("text", { x: PAD - 4, y: y(d) + 3, "text-anchor": "end" }, tick(d)), // the corner has one label
    ]), svg("line", { class: "diagonal", x1: x(decades[0]), y1: y(decades[0]), x2: x(decades.at(-1)), y2: y(decades.at(-1)) }));
    this.plot.replaceChildren(...points.map((p) => svg("circle", { cx: x(p.x), cy: y(p.y), r: 3, class: "dot", "data-path": p.path })));
  }
}
