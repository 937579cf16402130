// Numbers, times and durations as a person reads them. Null and undefined are "–".

const NONE = "–";
const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const days = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short" });
const clocks = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const SI = ["", " k", " M", " G", " T", " P", " E"];

/** 12345 -> "12,345". */
export function count(n) {
  return n == null ? NONE : integers.format(n);
}

/** 12345678 -> "12.3 M". */
export function si(n) {
  if (n == null) return NONE;
  let step = 0;
  while (n >= 999.5 && step < SI.length - 1) {
    n /= 1000;
    step += 1;
  }
  return (step && n < 99.95 ? n.toFixed(1) : integers.format(n)) + SI[step];
}

/** 0.9871 -> "98.7 %"; never rounded up to 100. */
export function percent(part) {
  if (part == null) return NONE;
  const tenths = part < 1 ? Math.min(Math.round(part * 1000), 999) : 1000;
  return `${(tenths / 10).toFixed(tenths === 1000 ? 0 : 1)} %`;
}

/** 3723000 -> "1 h 02 m"; the two greatest units. */
export function duration(ms) {
  if (ms == null) return NONE;
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} m`;
  return `${Math.floor(seconds / 86400)} d ${two(Math.floor(seconds / 3600) % 24)} h`;
}

/** As `duration`, but ms where they matter: 1234 -> "1.2 s", 87 -> "87 ms". */
export function runtime(ms) {
  if (ms == null || ms >= 60_000) return duration(ms);
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function two(n) {
  return String(n).padStart(2, "0");
}

/** Local time of day. */
export function clock(time) {
  return clocks.format(new Date(time));
}

/** Local date and time; today without the date. */
export function moment(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return NONE;
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? clocks.format(date) : `${days.format(date)} ${clocks.format(date)}`;
}

/** 1 -> "1 job", 2 -> "2 jobs". */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** The last part of a path. */
export function leaf(path) {
  return String(path ?? "").replace(/\/+$/, "").split("/").pop();
}
