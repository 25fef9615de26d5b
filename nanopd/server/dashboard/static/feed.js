// The stream of frames, and the API key. fetch instead of EventSource: it can send the Authorization header.

const KEY = "nanopd-api-key";
let askForKey = null; // the promise of an open dialog

export function authorised(headers = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

export function wantKey() {
  askForKey ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const field = document.getElementById("key");
    document.getElementById("key-error").textContent = sessionStorage.getItem(KEY) ? "That key was not accepted." : "";
    field.value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    document.getElementById("key-form").onsubmit = () => {
      sessionStorage.setItem(KEY, field.value.trim());
      askForKey = null;
      resolve();
    };
    dialog.showModal();
  });
  return askForKey;
}

/** The data of each server-sent event in a response body. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (event.startsWith("data: ")) yield event.slice(6);
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const shown = () =>
  document.hidden ? new Promise((go) => document.addEventListener("visibilitychange", go, { once: true })) : null;

/** Calls `onFrame` for every frame, for ever; `onState` with live | waiting. A hidden page reads nothing. */
export async function follow(onFrame, onState) {
  let seen = 0;
  for (let failures = 0; ; ) {
    await shown();
    const stop = new AbortController();
    const hide = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const response = await fetch(`/dashboard/events?after=${seen}`, { headers: authorised(), signal: stop.signal });
      if (response.status === 401) {
        await wantKey();
        continue;
      }
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      for await (const data of events(response)) {
        const frame = JSON.parse(data);
        seen = frame.finished.at(-1)?.number ?? seen;
        failures = 0;
        onState("live");
        onFrame(frame);
      }
    } catch (error) {
      if (error.name !== "AbortError" && error.name !== "TypeError") console.error(error);
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    if (document.hidden) continue;
    onState("waiting");
    seen = failures ? 0 : seen; // a server that was away may have started again
    await pause(Math.min(500 * 2 ** failures++, 5000));
  }
}
