// Puts the page together.

import * as api from "./api.js";
import * as chat from "./chat.js";
import * as classify from "./classify.js";
import * as kept from "./keep.js";
import * as status from "./status.js";

const $ = (id) => document.getElementById(id);

// Tabs, by click and by arrow keys.
const tabs = [...document.querySelectorAll("[role=tab]")];
function open(tab) {
  for (const t of tabs) {
    const on = t === tab;
    t.setAttribute("aria-selected", on);
    t.tabIndex = on ? 0 : -1;
    $(t.getAttribute("aria-controls")).hidden = !on;
  }
  $("drawer").hidden = tab.id !== "tab-chat"; // what it opens belongs to the chat
}
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!step) return;
    const next = tabs[(i + step + tabs.length) % tabs.length];
    open(next);
    next.focus();
  });
});

// Dark or light, as the system has it until somebody says otherwise.
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = kept.recall("go-mlx.theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  kept.keep("go-mlx.theme", next);
});

// On a phone a button opens the conversations.
function drawer(isOpen) {
  $("sidebar").classList.toggle("open", isOpen);
  $("drawer").setAttribute("aria-expanded", isOpen);
}
$("drawer").addEventListener("click", () => drawer(!$("sidebar").classList.contains("open")));
$("sidebar").addEventListener("click", (e) => e.target.closest(".open, #new") && drawer(false));
document.addEventListener("click", (e) => !e.composedPath().some((n) => n === $("sidebar") || n === $("drawer")) && drawer(false));
document.addEventListener("keydown", (e) => e.key === "Escape" && drawer(false));

$("key").value = api.getKey();
$("key").addEventListener("change", () => {
  api.setKey($("key").value.trim());
  status.poll();
});

status.start();
chat.start(status.selected);
classify.start(status.selected);
