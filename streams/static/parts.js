// The small parts that several pages are made of.

import { html } from "./lib.js";
import { useNow } from "./clock.js";
import * as format from "./format.js";
import { Icon } from "./icons.js";
import { url } from "./router.js";

const STATUS_ICONS = { LIVE: "live", COMPLETE: "check", ABORTED: "stop", TANKED: "ban" };
const RESULT_ICONS = { live: "live", pass: "check", fail: "cross", skip: "skip" };
const VERDICTS = { timeout: "by timeout", finish: "by regr-finish", tank: "by tank" };

/**
 * A page's heading, the same element before and after what it is about has come: it may have the focus. `crumbs` is the
 * way up, `badge` stands beside the title, the children at the right.
 */
export function PageHead({ title, crumbs, badge, children }) {
  return html`<header class="page-head">
    <div>${crumbs && html`<p key="crumbs" class="crumbs">${crumbs}</p>`}<h1 key="title" tabindex="-1">${title}${badge && html` ${badge}`}</h1></div>
    ${children}
  </header>`;
}

/** A regression's status: LIVE, COMPLETE, ABORTED or TANKED. */
export function Status({ status }) {
  return html`<span class="badge status-${status.toLowerCase()}"><${Icon} name=${STATUS_ICONS[status]} />${status}</span>`;
}

/** A job's result; with a verdict, that the system decided and not a finish. */
export function Result({ result, verdict }) {
  return html`<span class="badge result-${result}"><${Icon} name=${RESULT_ICONS[result]} />${result}</span>${verdict &&
    html` <span class="badge verdict" title="The system ended this job ${VERDICTS[verdict]}; its own finish would replace that.">
      <${Icon} name="clock" />${VERDICTS[verdict] ?? verdict}</span>`}`;
}

/** How long since `from` (a time); it ticks. */
export function Elapsed({ from }) {
  const time = useNow();
  if (!from) return html`<span class="none">–</span>`;
  return html`<time class="ticks" datetime=${from} title="since ${format.moment(from)}">${format.duration(time - Date.parse(from))}</time>`;
}

/** How long ago; it ticks. */
export function Ago({ time }) {
  const ago = useNow() - Date.parse(time);
  if (!time) return html`<span class="none">–</span>`;
  return html`<time datetime=${time} title=${format.moment(time)}>${ago < 1000 ? "now" : `${format.duration(ago)} ago`}</time>`;
}

/** A moment. */
export function Moment({ time }) {
  if (!time) return html`<span class="none">–</span>`;
  return html`<time datetime=${time} title=${time}>${format.moment(time)}</time>`;
}

/** Running time of a regression: it ticks while LIVE. */
export function RegressionTime({ row }) {
  if (row.status === "LIVE") return html`<${Elapsed} from=${row.started} />`;
  return html`${format.duration(row.duration_ms)}`;
}

/** Running time of a job: it ticks while live. */
export function JobTime({ row }) {
  if (row.result === "live") return html`<${Elapsed} from=${row.started} />`;
  return html`${format.runtime(row.job.runtime_ms)}`;
}

const SEGMENTS = ["pass", "fail", "skip", "live"];

/** Pass, fail, skip, live and not yet seen as one bar; the words are its label. */
export function Progress({ row, isLarge }) {
  const seen = row.finished + row.live;
  const total = Math.max(row.submitted ?? 0, seen, 1);
  const words = SEGMENTS.filter((name) => row[name]).map((name) => `${format.count(row[name])} ${name}`);
  const unseen = total - seen;
  if (seen === 0 && row.submitted == null) words.push("no job seen yet");
  else if (unseen) words.push(`${format.count(unseen)} not yet seen`);
  return html`<span class="progress ${isLarge ? "large" : ""}" role="img" aria-label=${words.join(", ")} title=${words.join(", ")}>
    ${SEGMENTS.filter((name) => row[name]).map(
      (name) => html`<span key=${name} class="segment ${name}" style=${{ width: `${(100 * row[name]) / total}%` }}></span>`,
    )}</span>`;
}

/** A number that is quiet when it is 0. */
export function Amount({ value, className = "" }) {
  return html`<span class=${value ? className : "none"}>${value == null ? "–" : format.count(value)}</span>`;
}

/** A regression's name, its number bold: nightly/core_17. */
export function RegressionLink({ name }) {
  const cut = name.lastIndexOf("/") + 1;
  return html`<a class="name" href=${url("/regression", { name })}>${name.slice(0, cut)}<b>${name.slice(cut)}</b></a>`;
}

/** What a job is called: the first word of its config or its test, else whatever names it. */
export function jobTitle(job) {
  const first = (job.config ?? "").trim().split(/\s+/)[0];
  return first || job.testgroup || job.category || job.uniqueid || format.leaf(job.jobdir) || "job";
}

/** The way to a job's page. */
export function JobLink({ row }) {
  return html`<a class="name" href=${url("/job", { key: row.id })} title=${row.job.jobdir ?? row.job.uniqueid ?? ""}>${jobTitle(row.job)}</a>`;
}

/** The way to a host's jobs. */
export function HostLink({ host }) {
  if (!host) return html`<span class="none">–</span>`;
  return html`<a href=${url("/hosts", { host })}>${host}</a>`;
}

/** Text that was published, shown as a link only where it is a web address. */
export function Directory({ path }) {
  if (!path) return html`<span class="none">–</span>`;
  if (/^https?:\/\/[^\s]+$/i.test(path)) {
    return html`<a href=${path} rel="noopener noreferrer" target="_blank">${path}</a>`;
  }
  return html`<code>${path}</code> <${Copy} text=${path} what="path" />`;
}

/** A button that copies text. */
export function Copy({ text, what }) {
  const copy = async (event) => {
    const button = event.currentTarget;
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed by the browser";
    }
    setTimeout(() => (button.textContent = label), 1500);
  };
  return html`<button type="button" class="quiet small" onClick=${copy}>Copy ${what}</button>`;
}

/** Instead of what is not there: a problem, or that we wait. */
export function Absent({ entry, what }) {
  if (!entry) return html`<p class="absent" role="status">Loading ${what}…</p>`;
  return html`<div class="absent" role="alert">
    <p><b>${entry.status === 404 ? `No such ${what}.` : `Can't show the ${what}.`}</b></p>
    <p>${entry.body?.detail ?? entry.body?.title}</p>
  </div>`;
}

/** Name and value pairs; those without a value are left out. */
export function Facts({ pairs }) {
  const given = pairs.filter(([, value]) => value != null && value !== "");
  return html`<dl class="facts">
    ${given.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

/** A field's value of any JSON type as text. */
export function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

