// Where we are is the URL, and nothing else: path, filters, sort and page. Plain links do all of the moving.

import { useEffect, useState } from "./lib.js";

const PAGES = new Set(["/", "/regression", "/job", "/hosts", "/search"]);
const listeners = new Set();

/** A path with a query; empty parameters are left out. */
export function url(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value != null && value !== "" && value !== false) query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** This page with some parameters changed. Any change but a new page or cursor goes back to the first page. */
export function withQuery(changes) {
  const query = Object.fromEntries(new URLSearchParams(location.search));
  if (!("cursor" in changes)) changes = { ...changes, cursor: null, page: null };
  return url(location.pathname, { ...query, ...changes });
}

/** Go there. `state` is kept with the history's entry. */
export function navigate(to, { replace = false, state = null } = {}) {
  history[replace ? "replaceState" : "pushState"](state, "", to);
  for (const listener of listeners) listener(current());
}

function current() {
  return {
    path: location.pathname,
    query: Object.fromEntries(new URLSearchParams(location.search)),
    state: history.state,
    href: location.pathname + location.search,
  };
}

/** The place, and again whenever it changes. */
export function useLocation() {
  const [place, setPlace] = useState(current);
  useEffect(() => {
    listeners.add(setPlace);
    return () => listeners.delete(setPlace);
  }, []);
  return place;
}

addEventListener("popstate", () => {
  for (const listener of listeners) listener(current());
});

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  if (!link || event.defaultPrevented || event.button !== 0 || link.target || link.hasAttribute("download")) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (link.origin !== location.origin || !PAGES.has(link.pathname) || link.hash) return;
  event.preventDefault();
  navigate(link.pathname + link.search);
});
