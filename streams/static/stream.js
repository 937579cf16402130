// The one event stream of this tab. It is closed while the tab is hidden, and goes on where it was when shown again.

import { useEffect, useState } from "./lib.js";
import { now, setServerTime } from "./clock.js";
import { isReading, onReadingEnd } from "./reading.js";
import * as lists from "./list.js";

const SILENCE_MS = 15_000; // three heartbeats
const RETRY_MS = [1000, 2000, 5000, 10_000, 20_000];

const listeners = new Set();
let connection = { isOpen: false, since: now(), state: null, refused: 0 };
let watched = null; // {paths, sink}: what the page on view wants
let source = null;
let lastId = null;
let heardAt = now();
let failures = 0;
let retryTimer = 0;
let silenceTimer = 0;

function setConnection(changes) {
  connection = { ...connection, ...changes };
  for (const listener of listeners) listener(connection);
}

/** {isOpen, since, state, refused}: `since` (ms) is when the server was last heard or lost, `refused` counts its noes. */
export function useConnection() {
  const [value, setValue] = useState(connection);
  useEffect(() => {
    listeners.add(setValue);
    setValue(connection);
    return () => listeners.delete(setValue);
  }, []);
  return value;
}

function open() {
  close();
  if (!watched || document.hidden) return;
  const query = watched.paths.map((path) => `watch=${encodeURIComponent(path)}`);
  if (lastId) query.push(`last=${encodeURIComponent(lastId)}`);
  source = new EventSource(`/api/v1/events?${query.join("&")}`);
  for (const name of ["state", "snapshot", "change"]) source.addEventListener(name, (event) => heard(name, event));
  source.addEventListener("error", lost);
  listenForSilence();
}

function close() {
  clearTimeout(retryTimer);
  clearTimeout(silenceTimer);
  source?.close();
  source = null;
}

function heard(name, event) {
  if (event.target !== source) return;
  const data = JSON.parse(event.data);
  failures = 0;
  listenForSilence();
  if (name === "state") setServerTime(data.now);
  heardAt = now();
  if (name === "state") return setConnection({ isOpen: true, since: heardAt, state: data });
  if (!connection.isOpen) setConnection({ isOpen: true, since: heardAt });
  if (event.lastEventId) lastId = event.lastEventId;
  watched.sink(name, data);
}

function lost() {
  if (connection.isOpen) setConnection({ isOpen: false, since: heardAt });
  // A refusal is final for the browser, so we ask again; a broken line it mends by itself.
  if (source?.readyState !== EventSource.CLOSED) return;
  setConnection({ refused: connection.refused + 1 });
  close();
  retryTimer = setTimeout(open, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
  failures += 1;
}

function listenForSilence() {
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => {
    lost();
    open();
  }, SILENCE_MS);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return close();
  setConnection({ isOpen: false, since: now(), state: null });
  open();
});
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => event.persisted && open());

/** Ask again at once: after a login. */
export function reconnect() {
  failures = 0;
  open();
}

/**
 * What the API answers at these paths, now and whenever it changes: one entry a path,
 * {path, isOld, status, body} with `list` instead of `body` where it is a list, null before the first answer.
 * While a new path's answer is awaited the entry before it stays, `isOld`.
 */
export function useWatch(paths) {
  const [entries, setEntries] = useState(() => paths.map(() => null));
  const key = JSON.stringify(paths);
  useEffect(() => {
    const sink = (name, data) =>
      setEntries((before) => before.map((entry, at) => (at === data.watch ? next(entry, paths[at], name, data) : entry)));
    watched = { paths, sink };
    lastId = null;
    setEntries((before) => paths.map((path, at) => (before[at] ? { ...before[at], isOld: before[at].path !== path } : null)));
    open();
    const stopListening = onReadingEnd(() => setEntries((before) => before.map(released)));
    return () => {
      stopListening();
      watched = null;
      close();
    };
  }, [key]);
  return paths.map((_, at) => entries[at] ?? null);
}

function next(entry, path, name, data) {
  if (name === "change" && data.rows && entry?.list) {
    return { ...entry, path, isOld: false, list: lists.change(entry.list, data, isReading()) };
  }
  const status = data.status ?? 200;
  if (status !== 200 || !data.body?.rows) return { path, isOld: false, status, body: data.body };
  const isSameList = entry?.list && entry.path === path && !entry.isOld;
  const list = isSameList ? lists.renew(entry.list, data.body, isReading()) : lists.fresh(data.body);
  return { path, isOld: false, status, list };
}

function released(entry) {
  return entry?.list ? { ...entry, list: lists.release(entry.list) } : entry;
}
