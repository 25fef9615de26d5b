// One card per worker.

import { $, el, millis, setAttr, setText, svg, sync, whole } from "./dom.js";

const HISTORY = 80; // frames: 40 s
const FIGURES = [
  ["running", (w) => whole(w.stats.num_running)],
  ["waiting", (w) => whole(w.stats.num_waiting)],
  ["reserved", (w) => whole(w.stats.num_reserved)],
  ["step", (w) => (w.stats.num_steps ? millis(w.stats.step_ms) : "–")],
  ["prefix hits", (w) => share(w.stats.prefix_hit_tokens, w.stats.prefix_query_tokens)],
  ["preempted", (w) => whole(w.stats.num_preemptions)],
];

export class Workers {
  constructor() {
    this.steps = new Map();
  }

  update(live) {
    sync($("worker-cards"), live.workers, (w) => w.worker_id, card, (node, w) => this.fill(node, w));
  }

  fill(node, w) {
    const { state, kv, bar, figures, spark } = node.parts;
    const used = w.num_blocks - w.stats.num_free_blocks;
    const cached = Math.min(w.stats.num_cached_blocks, w.stats.num_free_blocks);
    setAttr(node, "data-ready", w.ready);
    setText(state, w.ready ? (w.incarnation ? `ready, started ${w.incarnation + 1} times` : "ready") : "not ready");
    const guesses = w.stats.num_draft_tokens ? ` · ${share(w.stats.num_accepted_tokens, w.stats.num_draft_tokens)} of guesses right` : "";
    setText(kv, `${whole(used)} of ${whole(w.num_blocks)} KV blocks${guesses}`);
    bar.children[0].style.width = percent(used, w.num_blocks);
    bar.children[1].style.width = percent(cached, w.num_blocks);
    FIGURES.forEach(([, value], i) => setText(figures[i], value(w)));
    spark.setAttribute("d", this.path(w));
  }

  /** Step time over the last frames, as tall as its largest. */
  path(w) {
    const history = this.steps.get(w.worker_id) ?? [];
    this.steps.set(w.worker_id, history);
    history.push(w.stats.step_ms);
    if (history.length > HISTORY) history.shift();
    const top = Math.max(...history, 1e-9);
    const x = (i) => 100 - ((history.length - 1 - i) / (HISTORY - 1)) * 100;
    return history.map((ms, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${(23 - (ms / top) * 21).toFixed(1)}`).join("");
  }
}

function card(w) {
  const parts = { state: el("span"), kv: el("span"), bar: el("div", { class: "bar" }, el("i", { class: "owned" }), el("i", { class: "cached" })) };
  parts.figures = FIGURES.map(() => el("dd"));
  parts.spark = svg("path", { fill: "none", "vector-effect": "non-scaling-stroke" });
  const node = el("article", { class: "worker", "data-role": w.role, "aria-label": w.worker_id },
    el("header", {}, el("i", { class: "role" }), el("h3", {}, w.worker_id), parts.state),
    el("dl", {}, FIGURES.map(([name], i) => el("div", {}, el("dt", {}, name), parts.figures[i]))),
    el("div", { class: "history" }, "step, last 40 s",
      svg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", role: "img", "aria-label": "step time, last 40 s" }, parts.spark)),
    parts.bar, parts.kv);
  parts.kv.className = "kv";
  node.parts = parts;
  return node;
}

const percent = (part, of) => `${of ? (part / of) * 100 : 0}%`;
const share = (part, of) => (of ? `${Math.round((part / of) * 100)}%` : "–");
