// The server's clock, and one tick a second for everything on the page that shows a time going by.

import { useEffect, useState } from "./lib.js";

const TICK_MS = 1000;
const JITTER_MS = 300; // of the network: less than that is no other clock
const tickers = new Set();
let offsetMs = 0; // the server's clock minus the browser's

/** Take over the server's clock; `iso` is its now. */
export function setServerTime(iso) {
  const measured = Date.parse(iso) - Date.now();
  if (Math.abs(measured - offsetMs) > JITTER_MS) offsetMs = measured;
}

/** Now by the server's clock, in ms since 1970. */
export function now() {
  return Date.now() + offsetMs;
}

setInterval(() => {
  if (!document.hidden) for (const tick of tickers) tick(now());
}, TICK_MS);

/** Now, and again each second. */
export function useNow() {
  const [time, setTime] = useState(now());
  useEffect(() => {
    tickers.add(setTime);
    return () => tickers.delete(setTime);
  }, []);
  return Math.max(time, now() - TICK_MS);
}
