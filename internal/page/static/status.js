// The model picker, what the models are going through, and the ledger of memory and workers.

import { getJSON, postJSON } from "./api.js";
import * as kept from "./keep.js";

const $ = (id) => document.getElementById(id);
const picker = $("model");

let models = [];

// selected is the model that was picked.
export const selected = () => models.find((m) => m.name === picker.value) ?? { name: picker.value, thinks: false };

export function start() {
  picker.addEventListener("change", () => {
    kept.keep("go-mlx.model", picker.value);
    draw();
  });
  $("load").addEventListener("click", async () => {
    const m = selected();
    $("load").disabled = true;
    setTimeout(poll, 200);
    try {
      await postJSON(m.phase === "ready" ? "v1/unload" : "v1/load", { model: m.name });
    } catch (e) {
      phase(e.message, "failed");
    }
    $("load").disabled = false;
    poll();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && poll());
  poll();
}

let timer = 0;
let asked = 0, shown = 0; // numbers of polls: answers may overtake each other, and an old one is not shown after a new one

// poll asks often while something happens, rarely otherwise, and not at all while nobody looks.
export async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  const mine = ++asked;
  const [status, e] = await getJSON("v1/status").then((s) => [s, null], (e) => [null, e]);
  if (mine < shown) return;
  shown = mine;
  if (status) {
    models = status.models;
    options();
    draw();
  } else {
    phase(e.status === 401 ? "The server asks for an API key: write it under Settings." : e.message, "failed");
    $("load").hidden = true; // it could do nothing
  }
  const lively = models.some((m) => m.active || m.waiting || m.phase === "loading" || m.phase === "closing");
  timer = setTimeout(poll, lively ? 500 : 3000);
}

function options() {
  const names = models.map((m) => m.name);
  if (names.join("\n") === [...picker.options].map((o) => o.value).join("\n")) return;
  const before = picker.value || kept.recall("go-mlx.model");
  picker.replaceChildren(...names.map((n) => new Option(n, n)));
  if (names.includes(before)) picker.value = before;
}

const words = { cold: "not loaded yet", loading: "loading", ready: "ready", closing: "closing", failed: "failed" };

// phase says what the model is going through; a whole sentence has a row of its own.
function phase(text, kind) {
  const node = $("phase");
  if (node.textContent !== text) node.textContent = text; // screen readers read what changes
  node.dataset.phase = kind;
  node.classList.toggle("long", text.length > 40);
}

function draw() {
  const m = selected();
  picker.title = m.name; // a long one is cut off
  let text = words[m.phase] ?? "";
  if (m.phase === "ready") text += `, ${m.engine} on ${m.device}`;
  if (m.phase === "loading" && m.total) text += ` ${Math.round((100 * m.done) / m.total)} %`;
  if (m.error) text += ": " + m.error;
  if (m.waiting && m.wait && m.phase !== "loading") text = m.wait; // what a request, of this page or of another client, waits for
  phase(text, m.phase);
  $("load").hidden = !["cold", "failed", "ready"].includes(m.phase) || (m.phase === "ready" && m.active > 0);
  $("load").textContent = m.phase === "ready" ? "Unload" : "Load";
  const bar = $("loading");
  bar.hidden = m.phase !== "loading";
  if (m.total) bar.value = m.done / m.total;
  else bar.removeAttribute("value");
  ledger();
}

const mb = (bytes) => (bytes / 1e6).toFixed(1);

function ledger() {
  const loaded = models.filter((m) => m.memory);
  const sum = loaded.reduce((n, m) => n + m.memory.weights, 0);
  $("ledger-sum").textContent = loaded.length ? `— ${loaded.length} loaded, ${mb(sum)} MB of weights` : "— nothing is loaded";
  const parts = [];
  if (loaded.length) {
    parts.push(table(
      ["Model", "Engine", "Requests", "Weights, MB", "KV, MB", "Prompt cache, MB", "MLX active, MB", "Peak, MB", "Live arrays"],
      loaded.map((m) => [m.name, m.engine, m.active, mb(m.memory.weights), mb(m.memory.kv), mb(m.memory.prompt_cache), mb(m.memory.active), mb(m.memory.peak), m.memory.live_arrays || "–"]),
    ));
  }
  const workers = models.flatMap((m) => (m.workers ?? []).map((w) => [m.name, w.pid || "–", w.state, w.phase || "–", w.active, w.quiet_s.toFixed(1)]));
  if (workers.length) parts.push(table(["Model", "Worker", "State", "Phase", "Requests", "Quiet, s"], workers));
  $("ledger").replaceChildren(...parts);
}

function table(heads, rows) {
  const t = document.createElement("table");
  const head = t.createTHead().insertRow();
  for (const h of heads) {
    const th = document.createElement("th");
    th.scope = "col";
    th.textContent = h;
    head.append(th);
  }
  const body = t.createTBody();
  for (const r of rows) {
    const tr = body.insertRow();
    r.forEach((value, i) => {
      const td = tr.insertCell();
      td.textContent = value;
      if (!/^[\d.–]+$/.test(value)) td.className = "name"; // numbers are on the right
    });
  }
  return t;
}
