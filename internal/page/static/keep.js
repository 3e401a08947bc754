// Small things that are kept over visits, by name. A browser that keeps nothing for a site throws at the very mention of its storage, and
// one that has no room throws when it is written to; the page then remembers until it is closed.

const own = new Map();

// inside gives a storage to a func; undefined where there is none, or no room in it.
function inside(storage, use) {
  try {
    return use(window[storage]);
  } catch {
    return undefined;
  }
}

// recall is the text that was kept by a name; null for none.
export const recall = (name, storage = "localStorage") => own.get(name) ?? inside(storage, (s) => s.getItem(name)) ?? null;

export function keep(name, text, storage = "localStorage") {
  const written = inside(storage, (s) => {
    s.setItem(name, text);
    return true;
  });
  if (written) own.delete(name); // another tab may write it next
  else own.set(name, text);
}

export function forget(name) {
  own.delete(name);
  inside("localStorage", (s) => s.removeItem(name));
}

// recallJSON is what was kept as JSON; what is no JSON is as good as nothing.
export function recallJSON(name, otherwise) {
  try {
    return JSON.parse(recall(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}
