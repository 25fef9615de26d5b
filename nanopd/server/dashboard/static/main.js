// Wires the feed to the panels.

import { Charts, Fit } from "./charts.js";
import { Chat } from "./chat.js";
import { $, bytes, el, quantile, seconds, setText, whole } from "./dom.js";
import { follow } from "./feed.js";
import { Flow } from "./flow.js";
import { Requests } from "./requests.js";
import { Router } from "./router.js";
import { Workers } from "./workers.js";

const KEPT = 96; // finished requests
let finished = []; // oldest first
let numAccepted = 0; // of the last frame
let isDrawn = false;
const waiting = new Map(); // request id -> resolve

const requests = new Requests();
const flow = new Flow((id) => {
  requests.pick(id);
  $("requests").scrollIntoView({ block: "nearest" });
});
const workers = new Workers();
const charts = new Charts();
const router = new Router();
const fits = [
  new Fit("First token", (plan) => plan.ttft_ms, (report) => report.ttft_s),
  new Fit("Whole request", (plan) => plan.total_ms, (report) => report.e2e_s),
];
const chat = new Chat(finishedOf);
const numbers = tiles(["tokens/s", "in flight", "TTFT p50", "TPOT p50", "KV in use", "KV moved"]);

function onFrame({ live, finished: added }) {
  const { server, counters } = live;
  if (counters.requests < numAccepted || added[0]?.number <= finished.at(-1)?.number) finished = []; // the server started again
  numAccepted = counters.requests;
  finished = [...finished, ...added].slice(-KEPT);
  for (const request of added) waiting.get(request.request_id)?.(request);
  const strategy = server.strategy === "adaptive" ? `adaptive (policy ${server.policy})` : server.strategy;
  const fit = live.fit?.num_steps ? ` · steps foreseen within ${(100 * live.fit.error).toFixed(1)} % (profile alone ${(100 * live.fit.offline_error).toFixed(1)} %)` : "";
  setText($("facts"), `${server.model} · ${server.topology} · ${strategy} · context ${whole(server.max_model_len)}${fit}`);
  flow.update(live, finished, chat.ids);
  workers.update(live);
  charts.update(live, finished);
  router.update(live, finished);
  if (added.length || !isDrawn) fits.forEach((fit) => fit.update(finished));
  isDrawn = true;
  requests.update(finished, live.requests);
  showNumbers(live);
}

function showNumbers(live) {
  const recent = finished.slice(-50).filter((r) => r.report).map((r) => r.report);
  const of = (name) => quantile(recent.map((report) => report[name]).filter((value) => value !== null), 0.5);
  const blocks = live.workers.reduce((sum, w) => sum + w.num_blocks, 0);
  const free = live.workers.reduce((sum, w) => sum + w.stats.num_free_blocks, 0);
  const inFlight = Object.values(live.stages).reduce((a, b) => a + b, 0);
  const rate = live.tokens_per_s.slice(-5).reduce((a, b) => a + b, 0) / 5;
  const used = blocks ? `${Math.round((1 - free / blocks) * 100)}%` : "–";
  const texts = [whole(rate), whole(inFlight), seconds(of("ttft_s")), seconds(of("tpot_s")), used, bytes(live.counters.transfer_bytes)];
  texts.forEach((text, i) => setText(numbers[i], text));
  document.title = inFlight ? `${inFlight} in flight · nanopd` : "nanopd";
}

function tiles(names) {
  const values = names.map(() => el("dd", {}, "–"));
  $("numbers").append(...names.map((name, i) => el("div", {}, el("dt", {}, name), values[i])));
  return values;
}

/** The feed tells of a finished request up to half a second after its stream has ended. */
function finishedOf(id) {
  const known = finished.find((r) => r.request_id === id);
  if (known) return Promise.resolve(known);
  return new Promise((resolve) => {
    waiting.set(id, resolve);
    setTimeout(() => resolve(null), 3000);
  }).finally(() => waiting.delete(id));
}

follow(onFrame, (state) => {
  $("connection").dataset.state = state;
  setText($("connection"), state === "live" ? "live" : "no connection, trying again");
});
