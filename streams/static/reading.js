// Is a person reading a table? Then nothing in it may move. Reading is: the mouse is over its rows or a finger on them,
// the keyboard's focus is in them, text of them is selected, or (without a mouse) one has scrolled into them.

import { useEffect } from "./lib.js";

const ENDS_AFTER_MS = 150; // the mouse crosses the gap between two tables without ending it
const hasNoMouse = matchMedia("(hover: none)");
const bodies = new Set(); // the elements whose rows are read
const listeners = new Set();
const signs = { isPointedAt: false, isFocused: false };
let wasReading = false;
let timer = 0;

export function isReading() {
  return signs.isPointedAt || signs.isFocused || isSelected() || isScrolledInto();
}

/** Call back whenever reading ends; returns how to stop that. */
export function onReadingEnd(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Let go of whatever is held, although somebody reads: they asked for it. */
export function releaseNow() {
  for (const listener of listeners) listener();
}

/** Rows in this element (a ref's) are what is read. */
export function useReading(ref) {
  useEffect(() => {
    const body = ref.current;
    bodies.add(body);
    return () => {
      bodies.delete(body);
      look();
    };
  }, []);
}

function within(target) {
  return target instanceof Node && [...bodies].some((body) => body.contains(target));
}

function isSelected() {
  const selection = getSelection();
  return selection && !selection.isCollapsed && within(selection.anchorNode);
}

function isScrolledInto() {
  return hasNoMouse.matches && [...bodies].some((body) => {
    const place = body.getBoundingClientRect();
    return place.top < 0 && place.bottom > 0;
  });
}

function look() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const reading = isReading();
    if (wasReading && !reading) releaseNow();
    wasReading = reading;
  }, ENDS_AFTER_MS);
}

function sign(name, value) {
  signs[name] = value;
  wasReading ||= isReading();
  look();
}

document.addEventListener("pointerover", (event) => sign("isPointedAt", within(event.target)));
document.addEventListener("pointerdown", (event) => sign("isPointedAt", within(event.target)));
for (const end of ["pointercancel", "pointerup"]) {
  document.addEventListener(end, (event) => event.pointerType === "touch" && sign("isPointedAt", false));
}
document.documentElement.addEventListener("pointerleave", () => sign("isPointedAt", false));
document.addEventListener("focusin", (event) => sign("isFocused", within(event.target)));
document.addEventListener("focusout", (event) => sign("isFocused", within(event.relatedTarget)));
document.addEventListener("selectionchange", look);
addEventListener("scroll", look, { passive: true });
