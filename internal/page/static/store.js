// Conversations, kept in this browser.

const name = "go-mlx.conversations";

export let conversations = read();

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(name) ?? "[]");
    return Array.isArray(found) ? found.filter((c) => c && Array.isArray(c.messages)) : [];
  } catch {
    return [];
  }
}

// save keeps all conversations, leaving out the oldest ones if the browser has no room. It returns how many it left out.
export function save() {
  let dropped = 0;
  for (;;) {
    try {
      localStorage.setItem(name, JSON.stringify(conversations));
      return dropped;
    } catch (e) {
      if (conversations.length < 2) throw e;
      conversations.pop();
      dropped++;
    }
  }
}

export function create() {
  const c = { id: crypto.randomUUID(), title: "New chat", messages: [] };
  conversations.unshift(c);
  return c;
}

export function remove(id) {
  conversations = conversations.filter((c) => c.id !== id);
  save();
}

// remember keeps the values of fields over visits.
export function remember(fields) {
  const key = "go-mlx.settings";
  const values = JSON.parse(localStorage.getItem(key) ?? "{}");
  for (const f of fields) {
    const property = f.type === "checkbox" ? "checked" : "value";
    if (f.id in values) f[property] = values[f.id];
    f.addEventListener("change", () => {
      values[f.id] = f[property];
      localStorage.setItem(key, JSON.stringify(values));
    });
  }
}

export function asMarkdown(c) {
  const names = { user: "You", assistant: "Assistant" };
  return `# ${c.title}\n\n` + c.messages.map((m) => `## ${names[m.role]}\n\n${m.content}\n`).join("\n");
}

export function download(file, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
