// Columns of tables of jobs: which ones depends on whether they still run, and on what is known already.

import { html } from "./lib.js";
import { count, runtime, si } from "./format.js";
import { Ago, HostLink, JobLink, JobTime, RegressionLink, Result } from "./parts.js";
import { withQuery } from "./router.js";

const quiet = html`<span class="none">–</span>`;

function text(name) {
  return (row) => (row.job[name] ? html`<span class="clip" title=${row.job[name]}>${row.job[name]}</span>` : quiet);
}

function code(name) {
  return (row) => (row.job[name] ? html`<code class="clip" title=${row.job[name]}>${row.job[name]}</code>` : quiet);
}

const JOB = { key: "job", label: "Job", cell: (row) => html`<${JobLink} row=${row} />` };
const REGRESSION = { key: "regression", label: "Regression", cell: (row) => html`<${RegressionLink} name=${row.regression} />` };
const RESULT = { key: "result", label: "Result", cell: (row) => html`<${Result} result=${row.result} verdict=${row.verdict} />` };
const HOST = { key: "host", label: "Host", cell: (row) => html`<${HostLink} host=${row.job.host} />` };
const TEST = { key: "test", label: "Test", cell: text("testgroup"), priority: 2 };
const CONFIG = { key: "config", label: "Config", cell: code("config"), priority: 3 };
const SEED = { key: "seed", label: "Seed", cell: code("seed"), priority: 2 };
const BUILD = { key: "build", label: "Build", cell: text("build"), priority: 2 };
const USER = { key: "user", label: "User", cell: text("username"), priority: 3 };
const ELAPSED = { key: "elapsed", label: "Elapsed", sort: "started", isNumber: true, cell: (row) => html`<${JobTime} row=${row} />`, help: "Sorted by when it started: the longest running first" };
const UPDATED = { key: "updated", label: "Last update", sort: "updated", isDescendingFirst: true, isNumber: true, cell: (row) => html`<${Ago} time=${row.updated} />`, priority: 2 };
const RUNTIME = { key: "runtime", label: "Runtime", sort: "runtime_ms", isDescendingFirst: true, isNumber: true, cell: (row) => runtime(row.job.runtime_ms) };
const CYCLES = { key: "cycles", label: "Cycles", sort: "cycles", isDescendingFirst: true, isNumber: true, cell: (row) => html`<span title=${count(row.job.cycles)}>${si(row.job.cycles)}</span>`, priority: 3 };
const WHY = { key: "why", label: "Signature", cell: Why, priority: 2 };

function Why(row) {
  if (!row.signature) return row.result === "fail" ? quiet : "";
  return html`<a class="clip" href=${withQuery({ result: "fail", signature: row.signature })} title=${row.job.fail_message || row.signature}>${row.signature}</a>`;
}

function unsorted(column) {
  return { ...column, sort: undefined };
}

/** Of one regression, still running. */
export const LIVE = [JOB, { ...HOST, sort: "host" }, { ...TEST, sort: "test" }, CONFIG, SEED, BUILD, ELAPSED, UPDATED];
/** Of one regression, ended. */
export const ENDED = [RESULT, JOB, { ...HOST, sort: "host" }, { ...TEST, sort: "test" }, SEED, RUNTIME, CYCLES, WHY, UPDATED];
/** Of all regressions, still running. */
export const ANYWHERE = [JOB, REGRESSION, HOST, TEST, SEED, BUILD, USER, ELAPSED, UPDATED];
/** Of one host, still running. */
export const ON_HOST = [JOB, REGRESSION, TEST, SEED, BUILD, USER, ELAPSED, UPDATED];
/** Of one host, failed. */
export const FAILS_ON_HOST = [JOB, REGRESSION, RESULT, unsorted(RUNTIME), { ...WHY, cell: (row) => html`<span class="clip" title=${row.signature}>${row.signature ?? quiet}</span>` }, unsorted(UPDATED)];
