// The playground: a chat that streams, and tells which way each answer came.

import { $, el, pathOf, phaseBar, seconds, shortId, way, whole } from "./dom.js";
import { authorised, events, wantKey } from "./feed.js";

export class Chat {
  /** `finishedOf(id)` promises the feed's record of a finished request. */
  constructor(finishedOf) {
    this.finishedOf = finishedOf;
    this.ids = new Set(); // requests of this page
    this.history = [];
    this.running = null;
    this.model = null;
    $("chat").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.running.abort();
      else this.send();
    });
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.running) $("chat").requestSubmit();
    });
    $("clear").addEventListener("click", () => this.clear());
    this.clear();
  }

  clear() {
    this.running?.abort();
    this.history = [];
    $("messages").replaceChildren(el("p", { class: "empty" }, "Say something. Force a path to see how the same question travels."));
  }

  async send() {
    const text = $("prompt").value.trim();
    if (!text) return;
    $("prompt").value = "";
    $("messages").querySelector(".empty")?.remove();
    const history = this.history;
    history.push({ role: "user", content: text });
    const answer = el("p", { class: "text" });
    const path = el("div", { class: "path" }, "waiting for a worker");
    $("messages").append(el("div", { class: "message user" }, el("p", { class: "text" }, text)), el("div", { class: "message" }, answer, path));
    this.scroll(true);
    this.busy(new AbortController());
    try {
      await this.stream(history, answer, path);
    } catch (error) {
      if (error.name === "AbortError") path.textContent = "stopped";
      else path.replaceChildren(el("span", { class: "error" }, error.message));
    }
    if (answer.textContent) history.push({ role: "assistant", content: answer.textContent });
    else history.pop(); // no answer: the question is not part of the conversation
    this.busy(null);
  }

  async stream(history, answer, path) {
    const response = await this.post(history);
    const started = performance.now();
    let first = null;
    let id = null;
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (id === null) {
        this.ids.add((id = chunk.id));
        path.textContent = response.headers.get("x-nanopd-path") ?? "";
      }
      const stick = this.isAtEnd();
      const content = chunk.choices[0]?.delta.content;
      if (content) {
        first ??= performance.now() - started;
        answer.append(content);
      }
      if (chunk.nanopd) path.replaceChildren(...pathLines(chunk.nanopd.reports[0], id));
      this.scroll(stick);
    }
    const finished = id && (await this.finishedOf(id));
    if (finished) path.prepend(el("div", { class: "phases" }, phaseBar(finished.phases, Math.max(finished.report.e2e_s, 1e-6))));
    this.scroll(true);
  }

  async post(messages) {
    const strategy = new FormData($("chat")).get("strategy");
    const sampling = { max_tokens: Number($("max-tokens").value) || 128, temperature: Number($("temperature").value) };
    const body = { messages, stream: true, debug: true, ...sampling };
    if (strategy) body.strategy = strategy;
    for (;;) {
      const response = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: authorised({ "Content-Type": "application/json" }),
        body: JSON.stringify(body),
        signal: this.running.signal,
      });
      if (response.ok) return response;
      if (response.status !== 401) throw new Error((await response.json()).error.message);
      await wantKey();
    }
  }

  busy(running) {
    this.running = running;
    $("send").textContent = running ? "Stop" : "Send";
    $("prompt").required = !running; // an empty box must not keep Stop from working
  }

  isAtEnd() {
    const box = $("messages");
    return box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  }

  scroll(stick) {
    if (stick) $("messages").scrollTop = $("messages").scrollHeight;
  }
}

function pathLines(report, id) {
  const rate = report.tpot_s ? ` · ${whole(1 / report.tpot_s)} tokens/s` : "";
  return [
    el("p", {}, el("i", { class: "glyph", "data-path": pathOf(report.decision) }), el("b", {}, shortId(id)), ` ${way(report.decision)}`),
    el("p", {}, `first token ${seconds(report.ttft_s)} · ${report.num_output_tokens} tokens in ${seconds(report.e2e_s)}${rate}`),
    el("p", { class: "reason" }, report.decision.reason),
  ];
}
