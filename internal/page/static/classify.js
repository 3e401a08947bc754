// The classify tab: lines in, labels out, and how they compare with the right ones.

import { stream } from "./api.js";
import { poll } from "./status.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);

let rows = []; // {text, right, label, probability, margin}
let controller = null;

export function start(selectedModel) {
  $("labels").value = ["sport", "food", "travel"].join("\n");
  store.remember([$("labels")]);
  $("classify").addEventListener("submit", (e) => {
    e.preventDefault();
    if (!controller) run(selectedModel().name);
  });
  $("halt").addEventListener("click", () => controller?.abort());
  $("csv").addEventListener("click", () => store.download("labels.csv", "text/csv", csv()));
}

const lines = (id) => $(id).value.split("\n").map((l) => l.trim()).filter(Boolean);

async function run(model) {
  const labels = lines("labels");
  const given = lines("texts").map((line) => {
    const [before, ...after] = line.split("\t");
    return after.length && labels.includes(before.trim()) ? { right: before.trim(), text: after.join(" ").trim() } : { right: "", text: line };
  });
  rows = [];
  draw(labels);
  say("", "");
  controller = new AbortController();
  busy(true, given.length);
  const begin = performance.now();
  try {
    const body = { model, labels, texts: given.map((g) => g.text), stream: true };
    for await (const part of stream("v1/classify", body, controller.signal)) {
      rows.push(...part.data.map((d) => ({ ...given[d.index], ...d })));
      $("classified").value = part.done;
      draw(labels, part.data.length);
      const seconds = (performance.now() - begin) / 1000;
      say(summary(seconds), "");
    }
  } catch (e) {
    say($("verdict").textContent, e.name === "AbortError" ? "Stopped." : e.message);
  }
  controller = null;
  poll();
  busy(false);
}

function summary(seconds) {
  const rate = `${rows.length} texts in ${seconds.toFixed(1)} s (${Math.round(rows.length / seconds)} a second)`;
  const known = rows.filter((r) => r.right);
  if (!known.length) return rate;
  const right = known.filter((r) => r.right === r.label).length;
  return `${rate}; ${right} of ${known.length} right (${((100 * right) / known.length).toFixed(1)} %)`;
}

// shown is how many rows the table holds at most; the CSV holds all.
const shown = 2000;

function draw(labels, added = 0) {
  const body = $("results").tBodies[0];
  $("results").hidden = !rows.length;
  $("csv").disabled = !rows.length;
  if (!added) body.replaceChildren();
  for (const row of rows.slice(rows.length - added)) {
    if (body.rows.length < shown) body.append(line(row));
  }
  confusion(labels);
}

function line(row) {
  const tr = document.createElement("tr");
  const meter = document.createElement("meter");
  meter.value = row.probability;
  meter.textContent = row.probability.toFixed(3);
  meter.setAttribute("aria-hidden", "true");
  const probability = cell("td", row.probability.toFixed(3) + " ");
  probability.append(meter);
  const label = cell("td", row.label);
  if (row.right && row.right !== row.label) label.className = "wrong";
  tr.append(cell("td", row.index + 1), label, cell("td", row.right), probability, cell("td", row.margin.toFixed(3)), cell("td", row.text));
  return tr;
}

// confusion plots right labels against given ones; without right labels, how often each was given.
function confusion(labels) {
  $("confusion").replaceChildren();
  if (!rows.length) return;
  const known = rows.filter((r) => r.right);
  const table = document.createElement("table");
  const caption = document.createElement("caption");
  caption.textContent = known.length ? "Right labels (rows) and the model's (columns)" : "How often each label was given";
  const head = document.createElement("tr");
  head.append(cell("td", ""), ...labels.map((l) => heading(l, "col")));
  table.append(caption, head);
  for (const right of known.length ? labels : [""]) {
    const of = known.length ? known.filter((r) => r.right === right) : rows;
    const tr = document.createElement("tr");
    tr.append(heading(right || "all", "row"));
    for (const label of labels) {
      const n = of.filter((r) => r.label === label).length;
      const td = cell("td", n || "");
      td.style.setProperty("--share", of.length ? n / of.length : 0);
      if (label === right) td.className = "diagonal";
      tr.append(td);
    }
    table.append(tr);
  }
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.append(table);
  $("confusion").append(scroll);
}

function cell(kind, text) {
  const node = document.createElement(kind);
  node.textContent = text;
  return node;
}

function heading(text, scope) {
  const node = cell("th", text);
  node.scope = scope;
  return node;
}

// csv quotes every field, and keeps a spreadsheet from taking a text for a formula.
function csv() {
  const quote = (v) => `"${String(v).replace(/^(?=[=+\-@\t])/, "'").replaceAll('"', '""')}"`;
  const all = [["index", "label", "right", "probability", "margin", "text"], ...rows.map((r) => [r.index, r.label, r.right, r.probability, r.margin, r.text])];
  return all.map((r) => r.map(quote).join(",")).join("\r\n") + "\r\n";
}

function busy(is, total = 0) {
  $("run").hidden = is;
  $("halt").hidden = !is;
  $("classified").hidden = !is;
  $("classified").max = total || 1;
  $("classified").value = 0;
}

function say(verdict, problem) {
  $("verdict").textContent = verdict;
  $("classify-notice").textContent = problem;
  $("classify-notice").hidden = !problem;
  $(problem ? "classify-notice" : "verdict").scrollIntoView({ block: "nearest" }); // on a small screen it is below the fields
}
