// The chat: conversations, messages, and answers as they come.

import { stream } from "./api.js";
import { attachFiles } from "./attach.js";
import { giveUp, leave, sound, turnTo } from "./branches.js";
import { copyText } from "./copy.js";
import { button, onEnter } from "./dom.js";
import { followEnd, nearEnd, toEnd } from "./follow.js";
import * as kept from "./keep.js";
import { Blocks } from "./markdown.js";
import { poll } from "./status.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const log = $("log"), prompt = $("prompt");

let current = null; // the conversation on show
let begun = false; // the user has chosen or begun one, perhaps before those that are kept were read
let underWay = null; // {conversation, message, controller} of the answer that comes
let model = () => ({ name: "", thinks: false });

export function start(selectedModel) {
  model = selectedModel;
  store.remember([...document.querySelectorAll("#settings input:not([type=password]), #settings textarea:not(#system)")]);
  $("system").addEventListener("change", instruct);
  followEnd();
  $("composer").addEventListener("submit", (e) => {
    e.preventDefault();
    send();
  });
  $("knobs").addEventListener("submit", (e) => e.preventDefault());
  onEnter(prompt, send);
  document.addEventListener("keydown", (e) => e.key === "Escape" && stop());
  $("stop").addEventListener("click", stop);
  $("search").addEventListener("input", list);
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", (e) => importFiles(e.target));
  $("attach").addEventListener("click", () => $("attach-file").click());
  $("attach-file").addEventListener("change", (e) => attachFiles(e.target, prompt, notice));
  $("new").addEventListener("click", () => show(null, true));
  $("export-md").addEventListener("click", () => current && store.download("chat.md", "text/markdown", store.asMarkdown(current)));
  $("export-json").addEventListener("click", () => current && store.download("chat.json", "application/json", JSON.stringify(current, null, 2)));
  store.open(changedElsewhere).then((keeps) => {
    if (!current && !begun && store.conversations.length) show(store.conversations[0]); // that would take a notice away
    else list();
    if (!keeps) notice("This browser does not keep conversations; export what you need.");
  });
  show(null);
}

// changedElsewhere draws what another tab has changed.
function changedElsewhere() {
  if (current && !underWay && current.version && !store.conversations.includes(current)) show(store.conversations[0] ?? null);
  else if (!underWay && !log.querySelector("textarea")) draw(false);
  list();
}

// instruct keeps the system prompt: with the chat on show, or without one as that of new chats.
function instruct() {
  const text = $("system").value;
  if (!current) kept.keep("go-mlx.system", text);
  else if ((current.system ?? "") !== text) {
    current.system = text;
    keep(current);
  }
}

function show(conversation, focus) {
  current = conversation;
  begun ||= focus === true;
  $("system").value = conversation?.system ?? kept.recall("go-mlx.system") ?? "";
  $("figures").textContent = "";
  notice("");
  draw();
  list();
  if (focus) prompt.focus();
}

// matches reports whether a conversation has what is searched for.
function matches(c) {
  const wanted = $("search").value.trim().toLowerCase();
  return !wanted || c.title.toLowerCase().includes(wanted) || c.messages.some((m) => m.content.toLowerCase().includes(wanted));
}

let listed = []; // what the list shows: {c, title, shown, item}

// list draws the list of conversations, if it is another one; what has the focus keeps it.
function list() {
  if (renaming) return; // the list is drawn when the name is there
  const found = store.conversations.filter(matches);
  const none = !found.length && $("search").value.trim() !== "";
  const same = (c, i) => listed[i].c === c && listed[i].title === c.title && listed[i].shown === (c === current);
  if (!none && found.length === listed.length && found.length === $("conversations").children.length && found.every(same)) return;
  const focused = listed.find(({ item }) => item.contains(document.activeElement));
  const part = document.activeElement.className;
  listed = found.map((c) => {
    const item = document.createElement("li");
    const open = button(c.title, () => show(c, true), "open");
    open.setAttribute("aria-current", c === current);
    const drop = button("✕", () => discard(c), "drop");
    drop.setAttribute("aria-label", "Delete " + c.title);
    const name = button("✎", () => rename(c, item), "rename");
    name.setAttribute("aria-label", "Rename " + c.title);
    item.append(open, name, drop);
    return { c, title: c.title, shown: c === current, item };
  });
  const items = listed.map(({ item }) => item);
  if (none) {
    const line = document.createElement("li");
    line.className = "none";
    line.textContent = "No conversation has this.";
    items.push(line);
  }
  $("conversations").replaceChildren(...items);
  listed.find(({ c }) => c === focused?.c)?.item.querySelector(`.${part}`)?.focus();
}

let renaming = false; // a field for a title is in the list

// rename lets a conversation have another title.
function rename(c, item) {
  const field = document.createElement("input");
  field.value = c.title;
  field.setAttribute("aria-label", "Title of the conversation");
  let over = false;
  const end = (taken) => {
    if (over) return; // the field loses the focus when it goes
    over = true;
    renaming = false;
    listed = []; // the field goes, whatever the title is
    const title = field.value.trim();
    if (!taken || !title || title === c.title || !store.conversations.includes(c)) return list(); // another tab may have deleted it
    c.title = title;
    keep(c);
  };
  const endByKey = (e, taken) => {
    e.preventDefault();
    e.stopPropagation(); // it is meant for the field, not for what closes or stops by Escape
    end(taken);
    listed.find((l) => l.c === c)?.item.querySelector(".rename").focus();
  };
  const form = document.createElement("form"); // a browser submits it by Enter, when the key's press is over and cannot fall on a button
  form.append(field);
  form.addEventListener("submit", (e) => endByKey(e, true));
  field.addEventListener("keydown", (e) => e.key === "Escape" && endByKey(e, false));
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(form);
  renaming = true;
  field.select();
}

// importFiles reads conversations that were exported.
async function importFiles(input) {
  for (const file of input.files) {
    try {
      const c = JSON.parse(await file.text());
      if (!sound(c?.messages)) throw new Error("it is no conversation of this page");
      const made = Object.assign(store.create(), { title: String(c.title ?? file.name), messages: c.messages, system: String(c.system ?? "") });
      await store.save(made);
      show(made, true);
    } catch (e) {
      notice(`${file.name}: ${e.message}`);
    }
  }
  input.value = "";
}

// discard deletes a conversation, which can be undone. It is gone from the page at once; the database may take its time.
async function discard(c) {
  if (underWay?.conversation === c) stop();
  const removed = store.remove(c);
  const before = current, next = c === current ? (store.conversations[0] ?? null) : current;
  show(next);
  notice(`Deleted “${c.title}”.`, "Undo", async () => {
    await store.save(c);
    show(c, true);
  });
  try {
    await removed;
  } catch (e) {
    if (current === next) show(before);
    else list();
    notice("This browser could not delete the conversation. " + e.message);
  }
}

// draw shows the conversation, from its end if that is wished for.
function draw(fromEnd = true) {
  $("export-md").disabled = $("export-json").disabled = !current?.messages.length;
  if (!current?.messages.length) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "Ask something. What is said stays in this browser and on the server that answers.";
    log.replaceChildren(empty);
    return;
  }
  const at = log.scrollTop;
  log.replaceChildren(...current.messages.map(article));
  log.scrollTop = fromEnd ? log.scrollHeight : at;
}

// coming reports whether an answer is under way.
const coming = (message) => underWay?.message === message;

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
  if (message.versions) actions.append(versions(message, index));
  if (message.role === "user") {
    body.textContent = message.content;
    actions.append(button("Edit", () => edit(node, message, index)));
    if (index === current.messages.length - 1 && !underWay) actions.append(button("Ask again", () => answer()));
  } else {
    fill(node, message);
    if (coming(message)) return node;
    const last = index === current.messages.length - 1;
    if (last && message.cut && message.content) actions.append(button("Continue", () => answer(message)));
    if (last) actions.append(button("Regenerate", () => again(index)));
    if (message.content) actions.append(button("Copy", async (e) => {
      const b = e.currentTarget; // it is forgotten after the await
      b.textContent = (await copyText(message.content)) ? "Copied" : "Not copied";
      setTimeout(() => (b.textContent = "Copy"), 1500);
    }));
  }
  return node;
}

// versions lets one leaf through the versions of a message.
function versions({ versions, at }, index) {
  const group = document.createElement("span");
  group.className = "versions";
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Versions");
  const place = document.createElement("span");
  place.textContent = `${at + 1} of ${versions.length}`;
  const leaf = (text, label, which) => {
    const b = button(text, () => {
      if (underWay) return;
      turnTo(current.messages, index, which);
      keep(current);
      draw(false);
      log.querySelectorAll("article")[index]?.querySelector(`[aria-label="${label}"]`)?.focus();
    });
    b.setAttribute("aria-label", label);
    b.disabled = which < 0 || which >= versions.length;
    return b;
  };
  group.append(leaf("‹", "Version before", at - 1), place, leaf("›", "Version after", at + 1));
  return group;
}

const texts = new WeakMap(); // the Blocks of articles

// part is the element of a kind in a body, made if need be.
function part(body, kind, make) {
  let node = body.querySelector(":scope > ." + kind);
  if (!node) {
    node = make();
    node.classList.add(kind);
    body.append(node);
  }
  return node;
}

// fill draws the text of an answer; what is there already stays.
function fill(node, message) {
  const body = node.querySelector(".body");
  if (message.reasoning) {
    const thought = part(body, "thought", () => {
      const details = document.createElement("details");
      details.append(document.createElement("summary"), document.createElement("div"));
      return details;
    });
    thought.firstChild.textContent = coming(message) && !message.content ? "Thinking…" : "Thought";
    thought.lastChild.textContent = message.reasoning;
  }
  if (message.content) {
    if (!texts.has(node)) texts.set(node, new Blocks());
    const text = texts.get(node);
    part(body, "text", () => text.node);
    text.show(message.content);
  }
  const note = message.stopped ?? message.cut ?? (coming(message) || message.content ? "" : message.reasoning ? "No answer came after the thought." : "The answer is empty.");
  if (note) part(body, "note", () => document.createElement("p")).textContent = note;
}

function edit(node, message, index) {
  if (underWay) return;
  const field = document.createElement("textarea");
  field.value = message.content;
  field.rows = Math.min(10, message.content.split("\n").length + 1);
  field.setAttribute("aria-label", "Edit the message");
  const submit = () => {
    if (!field.value.trim()) return;
    ask(field.value.trim(), leave(current.messages, index));
  };
  onEnter(field, submit);
  field.addEventListener("keydown", (e) => e.key === "Escape" && draw(false));
  node.querySelector(".body").replaceChildren(field);
  node.querySelector(".actions").replaceChildren(button("Send", submit), button("Cancel", () => draw(false)));
  field.focus();
}

function again(index) {
  if (underWay) return;
  answer(null, leave(current.messages, index));
}

function send() {
  const text = prompt.value.trim();
  if (!text || underWay) return;
  prompt.value = "";
  ask(text);
}

// ask says something; instead of something that was said before, if it is a branch.
function ask(text, branch) {
  current ??= Object.assign(store.create(), { system: $("system").value });
  if (!current.messages.length && !branch) current.title = text.slice(0, 60);
  current.messages.push({ role: "user", content: text, ...branch });
  keep(current); // a question is not lost, whatever becomes of its answer
  answer();
}

async function keep(conversation) {
  try {
    const saved = store.save(conversation);
    list(); // the database may take its time
    await saved;
  } catch (e) {
    notice("This browser has no room for the conversation; export what you need. " + e.message);
  }
  list();
}

function stop() {
  underWay?.controller.abort();
}

// request is the body for the conversation on show; going on, the answer continues the last message.
function request(name, goingOn) {
  const messages = current.messages.map(({ role, content, reasoning }) => ({ role, content, ...(reasoning && !goingOn && { reasoning_content: reasoning }) }));
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value.trim() });
  const body = { model: name, messages, stream: true, stream_options: { include_usage: true }, prompt_cache_key: current.id };
  for (const id of ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"]) {
    if ($(id).value !== "") body[id] = Number($(id).value);
  }
  const stops = $("stop_strings").value.split("\n").filter(Boolean);
  if (stops.length) body.stop = stops;
  if (!$("thinking").checked && model().thinks) body.chat_template_kwargs = { enable_thinking: false };
  if (goingOn) body.continue_final_message = true;
  return body;
}

// answer lets the model answer; with a message, which was cut off, it goes on from there; in place of another answer, if it is a branch.
async function answer(goingOn, branch) {
  if (underWay) return;
  const { name } = model();
  const conversation = current;
  const body = request(name, goingOn);
  const message = goingOn ?? { role: "assistant", content: "", model: name, ...branch };
  const before = message.content.length;
  delete message.cut;
  delete message.stopped;
  if (!goingOn) conversation.messages.push(message);
  const controller = new AbortController();
  underWay = { conversation, message, controller };
  conversation.busy = true; // what another tab keeps does not replace it
  busy(true);
  notice("");
  $("figures").textContent = "";
  draw();
  setTimeout(poll, 200); // it may have to be loaded
  const redraw = () => drawOnce(conversation, message);
  const begin = performance.now();
  let first = 0, tokens = 0, engine = "", usage = null, failure = null;
  try {
    const events = stream("v1/chat/completions", body, controller.signal, (r) => (engine = r.headers.get("X-Go-MLX-Engine") ?? ""));
    for await (const chunk of events) {
      usage = chunk.usage ?? usage;
      const delta = chunk.choices[0]?.delta;
      if (chunk.choices[0]?.finish_reason === "length") message.cut = "Cut off: the answer has as many tokens as it may have.";
      const text = delta?.content || delta?.reasoning_content;
      if (!text) continue;
      if (!first) poll(); // it is loaded now
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
    if (message.content.length > before || goingOn) message.cut = message.stopped ?? "The answer ended here.";
  }
  underWay = null;
  delete conversation.busy;
  busy(false);
  poll();
  if (failure && !message.content && !message.reasoning) giveUp(conversation.messages, conversation.messages.length - 1);
  else if (failure) message.stopped = "The answer ended here: " + failure.message;
  const follow = nearEnd();
  if (current === conversation) {
    draw(follow);
    figures(engine, begin, first, usage?.completion_tokens ?? tokens, usage, performance.now());
    if (follow) toEnd(); // the figures may have taken a line more
  }
  if (failure && current === conversation) retryable(failure, conversation);
  $("spoken").textContent = failure ? "" : message.stopped ? "Stopped" : (message.cut ? "The answer was cut off: " : "Answer: ") + message.content;
  if (store.conversations.includes(conversation)) await keep(conversation); // it may have been deleted meanwhile
}

// retryable says what went wrong, and offers to try again what has no answer yet.
function retryable(failure, conversation) {
  if (conversation.messages.at(-1)?.role === "user") notice(failure.message, "Try again", () => answer());
  else notice(failure.message);
}

let due = false;

// drawOnce draws an answer once a frame, however many tokens come.
function drawOnce(conversation, message) {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    if (current !== conversation || underWay?.message !== message) return;
    const node = log.lastElementChild;
    const follow = nearEnd();
    node.classList.add("busy");
    fill(node, message);
    if (follow) toEnd();
  });
}

function figures(engine, begin, first, tokens, usage, end = performance.now()) {
  if (!first) return;
  const rate = tokens > 1 && end > first ? ((tokens - 1) / ((end - first) / 1000)).toFixed(1) + " tokens/s" : "";
  const parts = [engine, `first after ${Math.round(first - begin)} ms`, rate, `${tokens} ${tokens === 1 ? "token" : "tokens"}`];
  if (usage) parts.push(`${usage.prompt_tokens} in the prompt`);
  const room = model().context_length;
  if (usage && room) parts.push(`${Math.round((100 * usage.total_tokens) / room)} % of the context`);
  $("figures").textContent = parts.filter(Boolean).join(" · ");
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  log.setAttribute("aria-busy", is);
}

// notice shows a line, with something to do about it.
function notice(text, action, act) {
  const follow = nearEnd(); // the line takes room from the messages
  $("notice").textContent = text;
  $("notice").hidden = !text;
  $("notice").classList.toggle("calm", action === "Undo");
  if (action) {
    $("notice").append(" ", button(action, () => {
      notice("");
      act();
    }));
  }
  if (follow) toEnd();
}
