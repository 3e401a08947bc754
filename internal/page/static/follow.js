// Keeps the end of the conversation in sight, unless the reader has scrolled away from it.

const log = document.getElementById("log");

let atEnd = true; // the end of the conversation is on show, and stays so
let size = ""; // of the log, when it was last seen to change
const logSize = () => `${log.clientWidth} ${log.clientHeight}`;

export const toEnd = () => (log.scrollTop = log.scrollHeight);

export const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

// followEnd begins to watch the log.
export function followEnd() {
  log.addEventListener("scroll", () => {
    if (size === logSize()) atEnd = nearEnd(); // otherwise it is the browser that scrolls, because the log has another size
  });
  new ResizeObserver(() => { // settings, notices and a phone's keyboard take room from it
    if (atEnd) toEnd();
    size = logSize();
  }).observe(log);
}
