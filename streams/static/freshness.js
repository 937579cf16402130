// How fresh the view is: a badge in the page's head, and a bar when it is not.

import { html } from "./lib.js";
import { useNow } from "./clock.js";
import { clock, count, duration, plural } from "./format.js";
import { Icon } from "./icons.js";
import { useConnection } from "./stream.js";

const BEHIND_SHOWN = 1000; // fewer records behind are read at once

/** {kind, since (ms), words}: `live`, `waiting`, `behind`, `rebuilding`, `away` (the broker) or `lost` (the server). */
function freshness({ isOpen, since, state }) {
  if (!isOpen && !state) return { kind: "waiting", since, words: "Connecting" };
  if (!isOpen) return { kind: "lost", since, words: "No connection to the server" };
  if (!state) return { kind: "waiting", since, words: "Connecting" };
  const asOf = state.as_of ? Date.parse(state.as_of) : null;
  if (state.rebuilding) {
    const { read, total } = state.rebuilding;
    return { kind: "rebuilding", since: asOf, words: `Building the view: ${count(read)} of ${count(total)} records read` };
  }
  if (!state.connected) return { kind: "away", since: asOf, words: "The broker is away" };
  if (state.behind > BEHIND_SHOWN) return { kind: "behind", since: asOf, words: `Catching up: ${plural(state.behind, "record")} behind` };
  return { kind: "live", since: asOf, words: "Live" };
}

/** The badge: its words are read out when they turn, its age is not. */
export function FreshnessBadge() {
  const { kind, since, words } = freshness(useConnection());
  const age = useNow() - (since ?? 0);
  const isLive = kind === "live";
  const title = since ? `as of ${clock(since)}` : "";
  return html`<span class="freshness ${isLive || kind === "waiting" ? kind : "stale"}" title=${title}>
    <${Icon} name=${isLive ? "live" : kind === "waiting" ? "clock" : "warn"} />
    <span role="status">${isLive || kind === "waiting" ? words : "Stale"}</span>
    ${since && kind !== "waiting" && html`<span class="age" aria-hidden="true">${duration(age)}</span>`}
  </span>`;
}

/** The bar: since when what is shown is old, and why. */
export function StaleBar() {
  const { kind, since, words } = freshness(useConnection());
  if (kind === "live" || kind === "waiting") return html`<div role="alert"></div>`;
  return html`<div role="alert"><p class="stale-bar"><${Icon} name="warn" /><span><b>${words}.</b>
    ${since ? ` Stale since ${clock(since)}: what is shown is from then.` : ""}</span></p></div>`;
}
