// Elements and text. Data only ever becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const $ = (id) => document.getElementById(id);

/** Writes only what has changed: an untouched node costs no layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttr(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Keeps `parent`'s children in step with `items`: one node per key, made once, updated in place, in order. */
export function sync(parent, items, keyOf, make, update) {
  const known = (parent._nodes ??= new Map());
  const seen = new Set();
  let previous = null;
  for (const item of items) {
    const key = keyOf(item);
    seen.add(key);
    let node = known.get(key);
    if (!node) known.set(key, (node = make(item)));
    update(node, item);
    const after = previous ? previous.nextSibling : parent.firstChild;
    if (after !== node) parent.insertBefore(node, after);
    previous = node;
  }
  for (const [key, node] of known) {
    if (!seen.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
}

// ---- numbers

export const whole = (n) => Math.round(n).toLocaleString("en");

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.9995) return `${whole(s * 1e3)} ms`;
  return s < 10 ? `${s.toFixed(2)} s` : s < 100 ? `${s.toFixed(1)} s` : `${whole(s)} s`;
}

export const millis = (ms) => (ms === null || ms === undefined ? "–" : ms < 10 ? `${ms.toFixed(1)} ms` : seconds(ms / 1e3));

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) [n, unit] = [n / 1024, unit + 1];
  return `${n < 10 && unit ? n.toFixed(1) : whole(n)} ${units[unit]}`;
}

export function quantile(values, q) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (sorted.length - 1) * q;
  const low = Math.floor(rank);
  return sorted[low] + ((sorted[low + 1] ?? sorted[low]) - sorted[low]) * (rank - low);
}

// ---- words of the domain

export const pathOf = (decision) => {
  const { prefill_worker, decode_worker } = decision.chosen;
  return !decode_worker ? "" : prefill_worker === decode_worker ? "collocated" : "disaggregated";
};

export const way = (decision) => {
  const { prefill_worker, decode_worker } = decision.chosen;
  return prefill_worker === decode_worker ? decode_worker || "not planned yet" : `${prefill_worker} → ${decode_worker}`;
};

/** The random part of an id is at its end, before the number of a choice. */
export const shortId = (id) => id.replace(/^(chatcmpl|cmpl)-/, "").slice(0, 4) + (id.match(/-\d+$/)?.[0] ?? "");

/** Bars of a finished request's phases, `scale` seconds wide. */
export function phaseBar(phases, scale) {
  return phases.map((phase) => {
    const bar = el("i", { "data-stage": phase.stage, title: `${phase.stage} ${seconds(phase.end_s - phase.start_s)}` });
    bar.style.left = `${(phase.start_s / scale) * 100}%`;
    bar.style.width = `${((phase.end_s - phase.start_s) / scale) * 100}%`;
    return bar;
  });
}
