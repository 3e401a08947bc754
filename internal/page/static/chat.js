// The chat: conversations, messages, and answers as they come.

import { stream } from "/page/api.js";
import { render } from "/page/markdown.js";
import { poll } from "/page/status.js";
import * as store from "/page/store.js";

const $ = (id) => document.getElementById(id);
const log = $("log"), prompt = $("prompt");

let current = null; // the conversation on show
let underWay = null; // {conversation, message, controller} of the answer that comes
let model = () => ({ name: "", thinks: false });

export function start(selectedModel) {
  model = selectedModel;
  store.remember([...document.querySelectorAll("#settings input:not([type=password]), #settings textarea")]);
  $("composer").addEventListener("submit", (e) => {
    e.preventDefault();
    send();
  });
  $("knobs").addEventListener("submit", (e) => e.preventDefault());
  onEnter(prompt, send);
  document.addEventListener("keydown", (e) => e.key === "Escape" && stop());
  $("stop").addEventListener("click", stop);
  $("new").addEventListener("click", () => show(null, true));
  $("export-md").addEventListener("click", () => current && store.download("chat.md", "text/markdown", store.asMarkdown(current)));
  $("export-json").addEventListener("click", () => current && store.download("chat.json", "application/json", JSON.stringify(current, null, 2)));
  show(store.conversations[0] ?? null);
}

function show(conversation, focus) {
  current = conversation;
  $("figures").textContent = "";
  notice("");
  draw();
  list();
  if (focus) prompt.focus();
}

function list() {
  $("conversations").replaceChildren(...store.conversations.map((c) => {
    const item = document.createElement("li");
    const open = button(c.title, () => show(c, true), "open");
    open.setAttribute("aria-current", c === current);
    const drop = button("✕", () => {
      if (underWay?.conversation === c) stop();
      store.remove(c.id);
      show(c === current ? (store.conversations[0] ?? null) : current);
    }, "drop");
    drop.setAttribute("aria-label", "Delete " + c.title);
    item.append(open, drop);
    return item;
  }));
}

function draw() {
  if (!current?.messages.length) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "Ask something. What is said stays in this browser and on the server that answers.";
    log.replaceChildren(empty);
    return;
  }
  log.replaceChildren(...current.messages.map(article));
  log.scrollTop = log.scrollHeight;
}

// article shows a message; an answer under way is drawn again with every piece.
function article(message, index) {
  const node = document.createElement("article");
  node.className = message.role;
  const head = document.createElement("header");
  const who = document.createElement("h2");
  who.textContent = message.role === "user" ? "You" : (message.model ?? "Assistant");
  head.append(who);
  const body = document.createElement("div");
  body.className = "body";
  const actions = document.createElement("div");
  actions.className = "actions";
  node.append(head, body, actions);
  if (message.role === "user") {
    body.textContent = message.content;
    actions.append(button("Edit", () => edit(node, message, index)));
  } else {
    fill(node, message);
    if (index === current.messages.length - 1) actions.append(button("Regenerate", () => again(index)));
    actions.append(button("Copy", () => navigator.clipboard.writeText(message.content)));
  }
  return node;
}

// fill draws the text of an answer.
function fill(node, message) {
  const body = node.querySelector(".body");
  const parts = [];
  if (message.reasoning) {
    const thought = document.createElement("details");
    thought.className = "thought";
    thought.open = body.querySelector(".thought")?.open ?? false;
    const summary = document.createElement("summary");
    summary.textContent = message.content ? "Thought" : "Thinking…";
    const text = document.createElement("div");
    text.textContent = message.reasoning;
    thought.append(summary, text);
    parts.push(thought);
  }
  if (message.content) parts.push(render(message.content));
  if (message.stopped) {
    const note = document.createElement("p");
    note.className = "empty";
    note.textContent = message.stopped;
    parts.push(note);
  }
  body.replaceChildren(...parts);
}

function edit(node, message, index) {
  if (underWay) return;
  const field = document.createElement("textarea");
  field.value = message.content;
  field.rows = Math.min(10, message.content.split("\n").length + 1);
  field.setAttribute("aria-label", "Edit the message");
  const submit = () => {
    if (!field.value.trim()) return;
    current.messages.length = index;
    ask(field.value.trim());
  };
  onEnter(field, submit);
  field.addEventListener("keydown", (e) => e.key === "Escape" && draw());
  node.querySelector(".body").replaceChildren(field);
  node.querySelector(".actions").replaceChildren(button("Send", submit), button("Cancel", draw));
  field.focus();
}

function again(index) {
  if (underWay) return;
  current.messages.length = index;
  answer();
}

function send() {
  const text = prompt.value.trim();
  if (!text || underWay) return;
  prompt.value = "";
  ask(text);
}

function ask(text) {
  current ??= store.create();
  if (!current.messages.length) current.title = text.slice(0, 60);
  current.messages.push({ role: "user", content: text });
  list();
  answer();
}

function stop() {
  underWay?.controller.abort();
}

// request is the body for the conversation on show.
function request(name) {
  const messages = current.messages.map(({ role, content, reasoning }) => ({ role, content, ...(reasoning && { reasoning_content: reasoning }) }));
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value.trim() });
  const body = { model: name, messages, stream: true, stream_options: { include_usage: true }, prompt_cache_key: current.id };
  for (const id of ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"]) {
    if ($(id).value !== "") body[id] = Number($(id).value);
  }
  if (!$("thinking").checked && model().thinks) body.chat_template_kwargs = { enable_thinking: false };
  return body;
}

async function answer() {
  const { name } = model();
  const conversation = current;
  const body = request(name);
  const message = { role: "assistant", content: "", model: name };
  conversation.messages.push(message);
  const controller = new AbortController();
  underWay = { conversation, message, controller };
  busy(true);
  notice("");
  draw();
  setTimeout(poll, 200); // it may have to be loaded
  let due = false;
  // However many tokens come, the answer is drawn once a frame.
  const redraw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (current !== conversation || underWay?.message !== message) return;
      const node = log.lastElementChild;
      const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      node.classList.add("busy");
      fill(node, message);
      if (follow) log.scrollTop = log.scrollHeight;
    });
  };
  const begin = performance.now();
  let first = 0, tokens = 0, engine = "", usage = null, failure = null;
  try {
    const events = stream("/v1/chat/completions", body, controller.signal, (r) => (engine = r.headers.get("X-Go-MLX-Engine") ?? ""));
    for await (const chunk of events) {
      usage = chunk.usage ?? usage;
      const delta = chunk.choices[0]?.delta;
      const text = delta?.content || delta?.reasoning_content;
      if (!text) continue;
      first ||= performance.now();
      tokens++;
      if (delta.reasoning_content) message.reasoning = (message.reasoning ?? "") + delta.reasoning_content;
      message.content += delta.content ?? "";
      redraw();
      if (current === conversation) figures(engine, begin, first, tokens);
    }
  } catch (e) {
    if (e.name === "AbortError") message.stopped = "Stopped.";
    else failure = e;
  }
  underWay = null;
  busy(false);
  poll();
  if (failure && !message.content && !message.reasoning) conversation.messages.pop();
  else if (failure) message.stopped = "The answer ended here: " + failure.message;
  if (failure) notice(failure.message);
  try {
    const dropped = store.save();
    if (dropped) notice(`This browser has no room for more: the ${dropped} oldest conversations were left out.`);
  } catch {
    notice("This browser does not keep conversations; export what you need.");
  }
  if (current === conversation) {
    draw();
    figures(engine, begin, first, usage?.completion_tokens ?? tokens, usage, performance.now());
  }
  list();
  $("spoken").textContent = failure ? "" : message.stopped ? "Stopped" : "Answer: " + message.content;
}

function figures(engine, begin, first, tokens, usage, end = performance.now()) {
  if (!first) return;
  const rate = tokens > 1 ? ((tokens - 1) / ((end - first) / 1000)).toFixed(1) + " tokens/s" : "";
  const parts = [engine, `first after ${Math.round(first - begin)} ms`, rate, `${tokens} tokens`];
  if (usage) parts.push(`${usage.prompt_tokens} in the prompt`);
  $("figures").textContent = parts.filter(Boolean).join(" · ");
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  log.setAttribute("aria-busy", is);
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// onEnter acts instead of breaking the line, unless Shift is held.
function onEnter(field, act) {
  let shift = false;
  field.addEventListener("keydown", (e) => (shift = e.shiftKey));
  field.addEventListener("beforeinput", (e) => {
    if (e.inputType !== "insertLineBreak" || shift) return;
    e.preventDefault();
    act();
  });
}

function button(text, act, kind = "") {
  const b = document.createElement("button");
  b.type = "button";
  b.className = kind;
  b.textContent = text;
  b.addEventListener("click", act);
  return b;
}
