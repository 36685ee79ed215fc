// Requests to the server of `condiff web`; running jobs are shown with progress and Cancel.
import { $, megabytes, showIf, text } from "./page.js";

let session = "";
export let known; // the content of /api/settings: controls, looks, limits

/** Read the server's settings, and begin a session. */
export async function begin() {
  known = await (await fetch("/api/settings")).json();
  session = (await (await post("/api/session")).json()).session;
}

export const path = (...parts) => ["/api", ...[session, ...parts].map(encodeURIComponent)].join("/");
export const fileOf = (upload, name) => path("files", upload, name);

/** POST an order as JSON; the Response, or an Error with the server's sentence. */
export const post = (where, order = {}, signal) =>
  send(where, JSON.stringify(order), "application/json", signal);

async function send(where, body, type, signal) {
  let response;
  try {
    response = await fetch(where, { method: "POST", headers: { "Content-Type": type }, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(text("lost"));
  }
  if (response.ok) return response;
  const answer = await response.text();
  let sentence = answer;
  try { sentence = JSON.parse(answer).error ?? answer; } catch { /* a plain sentence */ }
  throw new Error(sentence);
}

/** POST an order, and pass every event of the response to `hear`; resolves to all events merged. */
export const stream = async (where, order, hear, signal) => listen(await post(where, order, signal), hear);

async function listen(response, hear = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", all = {}, ended = false;
  for (;;) {
    const { value, done } = await read(reader);
    if (done) break;
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      if (event.canceled) throw new DOMException("canceled", "AbortError");
      all = { ...all, ...event };
      ended ||= Boolean(event.done);
      hear(event);
    }
  }
  if (!ended) throw new Error(text("lost")); // the connection was lost
  return all;
}

/** The next part of a response; an Error with a sentence if the connection is lost. */
async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(text("lost"));
  }
}

/** Send the file of a photo, a drawing or a reference; resolves to the server's events. */
export async function upload(kind, file, name, hear, signal) {
  if (file.size > known.max_upload) throw new Error(text("too_large", { name, size: megabytes(known.max_upload) }));
  const where = `${path(kind, "upload")}?name=${encodeURIComponent(name)}`;
  return listen(await send(where, file, "application/octet-stream", signal), hear);
}

/** Download a file that the server wrote. */
export function save(number, file, name) {
  const link = document.createElement("a");
  link.href = `${fileOf(number, file)}?name=${encodeURIComponent(name)}`;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}

export const remove = (number) => post(path("remove", number)).catch(() => {});

/** End the session when the page is closed. */
export function end() {
  navigator.sendBeacon(path("end"), new Blob(["{}"], { type: "application/json" }));
}

/** Show the server's number of jobs; this also keeps the session alive. */
export async function showQueue() {
  try {
    const { queue } = await (await post(path("alive"))).json();
    $("#queue").textContent = queue ? text("queue", { count: queue }) : "";
  } catch { /* the next action reports it */ }
}

/** The running job of one part of the page: its progress, message and Cancel. */
export class Task {
  constructor(prefix) {
    this.progress = $(`#${prefix}progress`);
    this.message = $(`#${prefix}message`);
    this.cancelButton = $(`#${prefix}cancel`);
    this.trouble = $(`#${prefix}trouble`);
    this.running = null;
    this.cancelButton.addEventListener("click", () => this.cancel(true));
  }

  /** Run `work(hear, signal)`; false if it failed or was canceled. `doing` describes it. */
  async run(doing, work) {
    this.cancel();
    const running = { abort: new AbortController(), job: null };
    this.running = running;
    showIf(this.trouble, false);
    this.show(doing);
    const hear = (event) => {
      if (this.running !== running) return;
      if (event.job) running.job = event.job;
      if (event.waiting) this.show(text("waiting", { count: event.waiting }));
      if (event.steps) {
        this.progress.value = event.step / event.steps;
        this.show(doing, event);
      }
    };
    let ok = false;
    try {
      await work(hear, running.abort.signal);
      ok = true;
      if (this.running === running) this.message.textContent = text("ready");
    } catch (error) {
      if (this.running === running) {
        if (error.name === "AbortError") this.message.textContent = text("canceled");
        else { this.message.textContent = ""; this.trouble.textContent = error.message; showIf(this.trouble, true); }
      }
    }
    if (this.running === running) {
      this.running = null;
      showIf(this.progress, false);
      showIf(this.cancelButton, false);
    }
    showQueue();
    return ok;
  }

  show(doing, event) {
    showIf(this.progress, true);
    showIf(this.cancelButton, true);
    if (!event) this.progress.removeAttribute("value");
    this.message.textContent = event ? `${doing} · ${text("thinking", event)}` : doing;
  }

  /** Let the job continue in the background when the page shows something else. */
  leave() {
    this.running = null;
    this.message.textContent = "";
    showIf(this.progress, false);
    showIf(this.cancelButton, false);
  }

  /** Cancel the job; on the server it ends at the sampler's next step. */
  cancel(byUser = false) {
    const running = this.running;
    if (!running) return;
    if (running.job) post(path("cancel", running.job)).catch(() => {});
    if (byUser && running.job) return; // the server's response ends the stream
    running.abort.abort();
  }
}
