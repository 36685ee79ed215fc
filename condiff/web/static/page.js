// Shared by all parts of the page: texts, elements, numbers in the reader's format.
import { STRINGS } from "./strings.js";

export const language = [...navigator.languages].map((l) => l.split("-")[0]).find((l) => STRINGS[l]) || "en";
export const table = { ...STRINGS.en, ...STRINGS[language] };

/** The text of a key; {name} is replaced by values.name, and {one, other} chosen by values.count. */
export function text(key, values = {}) {
  let found = table[key] ?? key;
  if (typeof found === "object") found = found[new Intl.PluralRules(language).select(values.count)] ?? found.other;
  return found.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element with properties and children; text is never markup. */
export function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "for" || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

export const showIf = (node, wanted) => { node.hidden = !wanted; };
export const press = (button, pressed) => button.setAttribute("aria-pressed", pressed);
export const megabytes = (bytes) => new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(bytes / 1e6) + " MB";
export const formatNumber = (value) => new Intl.NumberFormat(language, { maximumFractionDigits: 2 }).format(value);

/** Put the texts of the reader's language into the document. */
export function translate() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", text(node.dataset.label));
    if (node.matches("button")) node.title = text(node.dataset.label);
  }
  document.title = text("title");
  if (!/^(localhost|127\..*|\[::1\])$/.test(location.hostname)) $(".private").textContent = text("shared", { host: location.host });
}
