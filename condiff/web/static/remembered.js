// Data kept in the browser between visits: settings and colours, never photos or words.
const KEY = "condiff";
let kept = {};
try {
  kept = Object(JSON.parse(localStorage.getItem(KEY)));
} catch { /* no storage, or unknown content: start empty */ }

/** The value remembered under a name, or `otherwise`. */
export const recall = (name, otherwise) => kept[name] ?? otherwise;

/** Remember a value; undefined forgets it. */
export function remember(name, value) {
  kept[name] = value;
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
  } catch { /* a private window, or no room */ }
}
