// Conversations, kept in this browser: each is a record of its own, so that two tabs do not write over each other.

import { sound } from "./branches.js";
import * as kept from "./keep.js";
import { openDB } from "./vendor/idb.js";

// conversations are all that this tab knows of, the one changed last in front.
export let conversations = [];

let db = null; // null where the browser keeps nothing
const others = new BroadcastChannel("go-mlx.conversations");

// Opening, reading and writing happen one after the other, in the order in which they were asked for. While one of them waits, what this
// tab knows is newer than the database: what is unsaved or being deleted is not replaced by what is read.
let last = Promise.resolve();
const unsaved = new Map(); // how many writes of a conversation are waiting or under way
const failed = new Set(); // conversations whose last write failed
const removing = new Set(); // ids of the conversations to be deleted

function inTurn(work) {
  const done = last.then(work);
  last = done.catch(() => {}); // the one who asked is told
  return done;
}

// open reads what was kept; changed is called when another tab has changed something.
export async function open(changed) {
  await inTurn(openDatabase);
  others.addEventListener("message", async () => {
    await inTurn(read);
    changed();
  });
  return db !== null;
}

async function openDatabase() {
  try {
    db = await openDB("go-mlx", 1, { upgrade: (d) => d.createObjectStore("conversations", { keyPath: "id" }) });
    await takeOver();
    await read();
  } catch {
    db = null;
  }
}

async function read() {
  if (!db) return;
  const kept = (await db.getAll("conversations")).filter((c) => !removing.has(c.id));
  const known = new Map(conversations.map((c) => [c.id, c])); // as they are now: some were begun while the database was read
  const newer = (c) => c.busy || unsaved.has(c) || failed.has(c) || !c.version;
  // A conversation that is on show stays the same object.
  conversations = kept.map((c) => {
    const before = known.get(c.id);
    return !before ? c : newer(before) ? before : Object.assign(before, c);
  });
  for (const c of known.values()) if (newer(c) && !conversations.includes(c)) conversations.push(c);
  sort();
}

const sort = () => conversations.sort((a, b) => b.changed - a.changed);

// takeOver moves what an earlier version of the page kept elsewhere.
async function takeOver() {
  const name = "go-mlx.conversations";
  const old = kept.recallJSON(name, []);
  if (!Array.isArray(old) || !old.length) return;
  const now = Date.now();
  for (const [i, c] of old.entries()) {
    if (c && sound(c.messages)) await db.put("conversations", { ...create(), ...c, changed: now - i, version: 1 });
  }
  kept.forget(name);
}

// save keeps one conversation; false where the browser keeps nothing.
export async function save(c) {
  c.changed = Date.now();
  if (!conversations.includes(c)) conversations.push(c);
  sort();
  unsaved.set(c, (unsaved.get(c) ?? 0) + 1);
  try {
    const written = await inTurn(() => write(c));
    failed.delete(c);
    return written;
  } catch (e) {
    failed.add(c);
    throw e;
  } finally {
    if (unsaved.get(c) === 1) unsaved.delete(c);
    else unsaved.set(c, unsaved.get(c) - 1);
  }
}

// write puts a conversation into the database. If another tab has changed it meanwhile, both are kept: this tab's becomes one of its own.
async function write(c) {
  if (!conversations.includes(c)) return true; // deleted meanwhile
  if (!db) return false;
  const writing = db.transaction("conversations", "readwrite");
  const written = await writing.store.get(c.id);
  if (!conversations.includes(c)) return true;
  if (written && written.version !== c.version) {
    conversations = conversations.filter((other) => other !== c);
    conversations.push(written, c);
    c.id = newID();
    c.title += " (this tab)";
    c.version = 0;
    sort();
  }
  const { busy, ...record } = c;
  record.version++;
  await writing.store.put(record);
  await writing.done;
  c.version = record.version; // not before: what could not be written, for want of room, is no version of it
  others.postMessage("changed");
  return true;
}

// newID is a random name. crypto.randomUUID is there over https and on localhost only.
function newID() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

export function create() {
  return { id: newID(), title: "New chat", messages: [], changed: Date.now(), version: 0 };
}

export async function remove(c) {
  const id = c.id; // which a write may change that finds the record of another tab
  conversations = conversations.filter((other) => other.id !== id); // first: an answer that ends now is not to save it again
  removing.add(id);
  try {
    await inTurn(async () => {
      await db?.delete("conversations", id);
      c.version = 0; // it has no record now, should it be saved again
      failed.delete(c);
    });
  } catch (e) {
    if (!conversations.some((other) => other.id === c.id)) conversations.push(c);
    sort();
    throw e;
  } finally {
    removing.delete(id);
  }
  others.postMessage("changed");
}

// remember keeps the values of fields over visits.
export function remember(fields) {
  const key = "go-mlx.settings";
  const values = { ...kept.recallJSON(key, {}) };
  for (const f of fields) {
    const property = f.type === "checkbox" ? "checked" : "value";
    if (Object.hasOwn(values, f.id)) f[property] = values[f.id];
    f.addEventListener("change", () => {
      values[f.id] = f[property];
      kept.keep(key, JSON.stringify(values));
    });
  }
}

export function asMarkdown(c) {
  const names = { user: "You", assistant: "Assistant" };
  const system = c.system?.trim() ? `## System\n\n${c.system.trim()}\n\n` : "";
  return `# ${c.title}\n\n${system}` + c.messages.map((m) => `## ${names[m.role]}\n\n${m.content}\n`).join("\n");
}

export function download(file, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
