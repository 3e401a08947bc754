// Branches of a conversation. Its messages are the path on show. The first message of a part that has other versions carries them:
// versions, a list of the other parts (each the messages from there to the end) with null in the place of the one on show, and at,
// that place.

// leave takes away what is from an index on, and returns what the message that comes in its place has to carry.
export function leave(messages, index) {
  const part = messages.splice(index);
  const { versions, at } = taken(part);
  versions[at] = part;
  return { versions: [...versions, null], at: versions.length };
}

// turnTo shows another version of what is from an index on.
export function turnTo(messages, index, which) {
  const part = messages.splice(index);
  const { versions, at } = taken(part);
  versions[at] = part;
  put(messages, versions, which);
}

// giveUp takes away the newest version, of which nothing has come, and shows the one before it.
export function giveUp(messages, index) {
  const { versions } = taken(messages.splice(index));
  versions.pop();
  if (versions.length) put(messages, versions, versions.length - 1);
}

function taken(part) {
  const { versions = [null], at = 0 } = part[0];
  delete part[0].versions;
  delete part[0].at;
  return { versions, at };
}

function put(messages, versions, which) {
  const part = versions[which];
  versions[which] = null;
  if (versions.length > 1) Object.assign(part[0], { versions, at: which });
  messages.push(...part);
}

const text = (value) => value == null || typeof value === "string";

// sound reports whether messages from a file are what this page makes.
export function sound(messages) {
  return Array.isArray(messages) && messages.every((m) => {
    if ((m?.role !== "user" && m?.role !== "assistant") || typeof m.content !== "string") return false;
    if (![m.reasoning, m.model, m.cut, m.stopped].every(text)) return false;
    if (m.versions === undefined) return m.at === undefined;
    return Array.isArray(m.versions) && Number.isInteger(m.at) && m.at >= 0 && m.at < m.versions.length &&
      m.versions.every((part, i) => (i === m.at) ? part === null : Array.isArray(part) && part.length > 0 && sound(part));
  });
}
