// Markdown of a model, which may be hostile, as nodes. HTML in it is shown as text; DOMPurify stands behind that.

import { copyText } from "./copy.js";
import { Marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import highlighter from "./vendor/highlight.js";

const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  renderer: {
    html({ text }) {
      return escape(text);
    },
    // An address in an answer could carry what was said to whoever owns it, so nothing is fetched.
    image({ href, text }) {
      return escape(`[image: ${text || href}]`);
    },
    // The page has its own headings above those of an answer.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    code({ text, lang }) {
      const language = /^[\w+#-]+/.exec(lang ?? "")?.[0] ?? "";
      return `<pre><code class="${escape(language)}">${escape(text)}</code></pre>`;
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
  },
});

const allowed = {
  ALLOWED_TAGS: ["p", "br", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a", "hr", "span"],
  ALLOWED_ATTR: ["href", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"], // the expression above is for addresses, and these are none
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

// Blocks shows a text that grows: paragraphs, lists and code that are whole stay as they are, and only what follows is drawn
// again. So a selection stays, and a long answer costs no more for every piece.
export class Blocks {
  constructor() {
    this.node = document.createElement("div");
    this.blocks = []; // {raw, nodes}
  }

  show(markdown) {
    const tokens = marked.lexer(markdown);
    let same = 0;
    // The last block may still grow, and one like "[name]: address" changes those before it.
    if (Object.keys(tokens.links).length === this.links) {
      while (same < this.blocks.length && same < tokens.length - 1 && this.blocks[same].raw === tokens[same].raw) same++;
    }
    this.links = Object.keys(tokens.links).length;
    for (const old of this.blocks.splice(same)) for (const n of old.nodes) n.remove();
    for (const token of tokens.slice(same)) {
      const fragment = render(Object.assign([token], { links: tokens.links }));
      this.blocks.push({ raw: token.raw, nodes: [...fragment.childNodes] });
      this.node.append(fragment);
    }
  }
}

function render(tokens) {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), allowed);
  for (const link of fragment.querySelectorAll("a")) {
    if (!link.href) {
      link.replaceWith(...link.childNodes); // its address was not one to follow
      continue;
    }
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const code of fragment.querySelectorAll("pre > code")) highlight(code);
  for (const node of fragment.querySelectorAll("[class]")) {
    if (!node.closest("pre")) node.removeAttribute("class"); // an answer has no say in the page's style
  }
  return fragment;
}

function highlight(code) {
  const text = code.textContent;
  const language = code.className;
  code.className = "";
  if (highlighter.getLanguage(language)) {
    const { value } = highlighter.highlight(text, { language, ignoreIllegals: true });
    code.replaceChildren(DOMPurify.sanitize(value, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }));
  }
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy plain";
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    copy.textContent = (await copyText(text)) ? "Copied" : "Not copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  code.parentElement.append(copy);
}
