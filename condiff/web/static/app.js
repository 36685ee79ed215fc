// The page of `condiff web`. Photos are sent unchanged to the server; the page shows previews.
import * as colorize from "./colorize.js";
import * as draw from "./draw.js";
import { $, showIf, text, translate } from "./page.js";
import { recall, remember } from "./remembered.js";
import { begin, end, known, showQueue } from "./server.js";

const QUEUE_MS = 5000;
const tabs = [$("#tab-colorize"), $("#tab-draw")];
const drawing = () => !$("#draw").hidden;

function openTab(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    showIf($(`#${each.getAttribute("aria-controls")}`), chosen);
  }
  remember("tab", tab.id);
}

function connectTabs() {
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => openTab(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const next = tabs[1 - i];
      next.focus();
      openTab(next);
    });
  });
  openTab(tabs.find((tab) => tab.id === recall("tab")) ?? tabs[0]);
}

/** Add dropped or pasted files to the open part of the page. */
function take(files) {
  if (!files?.length) return;
  if (drawing()) draw.openDrawing(files[0]);
  else colorize.addPhotos(files);
}

/** Ctrl-Z undoes a stroke; Ctrl-Shift-Z and Ctrl-Y redo it. */
function undoByKey(event) {
  const key = event.key.toLowerCase();
  if (!(event.ctrlKey || event.metaKey) || !"zy".includes(key)) return;
  if (event.target.matches("input[type=text], input[type=number]")) return;
  const buttons = (drawing() ? draw : colorize).undoButtons();
  const button = key === "y" || event.shiftKey ? buttons?.redo : buttons?.undo;
  if (!button || button.disabled) return;
  event.preventDefault();
  button.click();
}

function connect() {
  connectTabs();
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("over"); take(event.dataTransfer.files); });
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("keydown", undoByKey);
  addEventListener("pagehide", (event) => { if (!event.persisted) end(); });
  setInterval(showQueue, QUEUE_MS);
}

async function start() {
  translate();
  await begin();
  $("#version").textContent = `condiff ${known.version}`;
  colorize.buildColorize();
  draw.buildDraw();
  connect();
  document.body.dataset.ready = "yes";
}
start().catch((error) => { $("#drop-hint").textContent = error.message; });
