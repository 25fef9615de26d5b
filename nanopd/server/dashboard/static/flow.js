// Requests as chips that move from stage to stage.

import { $, bytes, el, pathOf, seconds, setAttr, setText, shortId, way, whole } from "./dom.js";

const LANES = ["queued", "prefill", "transfer", "decode", "done"];
const [ROW, GAP] = [24, 4]; // pixels, as in style.css
const DONE_S = 30; // how long a finished request stays in sight
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Flow {
  constructor(onPick) {
    this.onPick = onPick;
    this.lanes = Object.fromEntries(LANES.map((name) => [name, lane(name)]));
    $("lanes").append(...LANES.map((name) => this.lanes[name].node));
    this.chips = new Map(); // by request id
  }

  update(live, finished, yours) {
    const recent = finished.filter((r) => live.now - r.ended_at < DONE_S).reverse();
    const items = { done: recent.map((r) => fromFinished(r, live.now)) };
    for (const stage of LANES.slice(0, 4)) items[stage] = live.requests.filter((r) => r.stage === stage).map(fromLive);
    const before = this.positions();
    const focused = document.activeElement;
    for (const name of LANES) {
      const { chips, count, more, note } = this.lanes[name];
      const total = name === "done" ? items.done.length : live.stages[name];
      const shown = this.arrange(this.lanes[name], items[name], name === "done");
      setText(count, whole(total));
      setText(more, total > shown.length ? `+${total - shown.length} more` : "");
      setText(note, notes[name](live, finished));
      this.place(chips, shown, yours);
    }
    if (focused !== document.activeElement) focused.focus({ preventScroll: true }); // a chip that changes lanes would lose it
    this.animate(before);
  }

  positions() {
    return new Map([...this.chips].map(([id, chip]) => [id, { box: chip.getBoundingClientRect(), stage: chip.dataset.stage }]));
  }

  /** Which items a lane shows, each with its cell. One that stays keeps its place; in `inOrder` lanes the first item is always on top. */
  arrange(lane, items, inOrder) {
    const columns = getComputedStyle(lane.chips).gridTemplateColumns.split(" ").length;
    const room = columns * Math.floor((lane.chips.clientHeight + GAP) / (ROW + GAP)); // nothing may be clipped: chips fly in from outside
    const byId = new Map(items.map((item) => [item.id, item]));
    const slots = Array.from({ length: room }, (_, i) => (!inOrder && byId.has(lane.slots[i]) ? lane.slots[i] : null));
    const placed = new Set(slots);
    const newcomers = items.filter((item) => !placed.has(item.id)).map((item) => item.id);
    lane.slots = slots.map((id) => id ?? newcomers.shift() ?? null);
    const cell = (i) => `${Math.floor(i / columns) + 1} / ${(i % columns) + 1}`;
    return lane.slots.flatMap((id, i) => (id === null ? [] : [{ ...byId.get(id), cell: cell(i) }]));
  }

  /** One node per request for its whole life, whichever lane it is in. */
  place(parent, items, yours) {
    const nodes = items.map((item) => {
      let chip = this.chips.get(item.id);
      if (!chip) {
        chip = el("button", { type: "button", class: "chip", onclick: () => this.onPick(item.id) },
          el("i", { class: "glyph" }), el("b"), el("span"));
        this.chips.set(item.id, chip);
      }
      setAttr(chip, "data-stage", item.stage);
      chip.style.gridArea = item.cell;
      setAttr(chip.firstChild, "data-path", item.path);
      chip.classList.toggle("yours", yours.has(item.id));
      setText(chip.children[1], shortId(item.id));
      setText(chip.lastChild, item.text);
      setAttr(chip, "aria-label", item.label);
      setAttr(chip, "title", item.label);
      return chip;
    });
    for (const child of [...parent.children]) if (!nodes.includes(child)) child.remove();
    nodes.forEach((node, i) => parent.children[i] !== node && parent.insertBefore(node, parent.children[i] ?? null));
  }

  /** First, last, invert, play: a chip glides from where it was. */
  animate(before) {
    for (const [id, chip] of this.chips) {
      if (!chip.isConnected) {
        this.chips.delete(id);
        continue;
      }
      if (calm.matches) continue;
      const from = before.get(id);
      const to = chip.getBoundingClientRect();
      if (!from) chip.animate([{ opacity: 0 }, { opacity: 1 }], 250);
      else if (from.box.left !== to.left || from.box.top !== to.top) {
        const start = { transform: `translate(${from.box.left - to.left}px, ${from.box.top - to.top}px)` };
        // A hand-off is often over between two frames: the chip still passes the transfer lane, in its colour.
        const crossed = from.stage === "prefill" && chip.dataset.stage === "decode" && chip.firstChild.dataset.path === "disaggregated";
        const middle = crossed ? [{ borderColor: "var(--transfer)", offset: 0.5 }] : [];
        chip.animate([start, ...middle, { transform: "none" }], { duration: crossed ? 700 : 420, easing: "cubic-bezier(.3,.7,.2,1)" });
      }
    }
  }
}

function lane(name) {
  const parts = { count: el("b"), note: el("p", { class: "note" }), chips: el("div", { class: "chips" }), more: el("p", { class: "more" }) };
  const title = el("h3", {}, el("i", { class: "key" }), name, parts.count);
  const node = el("section", { class: "lane", "data-stage": name, "aria-label": name }, title, parts.note, parts.chips, parts.more);
  return { ...parts, slots: [], node };
}

const fromLive = (r) => ({
  id: r.request_id,
  stage: r.stage,
  path: pathOf(r.decision),
  text: r.num_output_tokens ? `${r.num_prompt_tokens}+${r.num_output_tokens}` : whole(r.num_prompt_tokens),
  label: `${shortId(r.request_id)}: ${r.state}, ${way(r.decision)}, ${r.num_prompt_tokens} prompt and ${r.num_output_tokens} output tokens`,
});

const fromFinished = (r) => ({
  id: r.request_id,
  stage: r.reason === "error" ? "lost" : "done",
  path: r.report ? pathOf(r.report.decision) : "",
  text: r.report ? seconds(r.report.e2e_s) : r.reason,
  label: `${shortId(r.request_id)}: ended (${r.reason})${r.report ? ` after ${seconds(r.report.e2e_s)}, ${way(r.report.decision)}` : ""}`,
});

const sum = (live, name) => live.workers.reduce((total, w) => total + w.stats[name], 0);
const notes = {
  queued: (live) => `${whole(sum(live, "num_reserved"))} reserved`,
  prefill: (live) => `${whole(live.requests.reduce((n, r) => n + (r.stage === "prefill" ? r.num_prompt_tokens : 0), 0))} prompt tokens`,
  transfer: (live) => `${whole(live.counters.handoffs)} hand-offs · ${bytes(live.counters.transfer_bytes)}`,
  decode: (live) => `${whole(live.tokens_per_s.at(-1))} tokens/s`,
  done: (live) => `${whole(Object.values(live.counters.finished).reduce((a, b) => a + b, 0))} in all`,
};
