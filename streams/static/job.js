// One job, laid out for a person: who and where it is, how long, what it said, and its record to copy.

import { html, useEffect } from "./lib.js";
import { count, plural, runtime } from "./format.js";
import { Absent, Ago, Copy, Directory, Facts, HostLink, jobTitle, JobTime, Moment, PageHead, RegressionLink, Result, text } from "./parts.js";
import { url } from "./router.js";
import { useWatch } from "./stream.js";

const KNOWN = new Set([
  "start_time", "finish_time", "category", "jobdir", "seed", "config", "uniqueid", "build", "testgroup", "host", "username",
  "sourcecode", "extid", "metadata", "result", "compute_ms", "runtime_ms", "cycles", "exit_code", "fail_message", "bucket",
]);

export function Job({ query }) {
  const [entry] = useWatch([url("/job", { key: query.key })]);
  const title = entry?.status === 200 ? jobTitle(entry.body.record.job) : "Job";
  useEffect(() => {
    document.title = `${title} · livejobs`;
  }, [title]);
  const up = html`<a href="/">Regressions</a>`;
  if (entry?.status !== 200) {
    return html`<${PageHead} title=${title} crumbs=${up} /><${Absent} entry=${entry} what="job" />`;
  }
  const { record, started, earlier, earlier_since: since } = entry.body;
  const { job } = record;
  const row = { ...record, started };
  const raw = JSON.stringify(record, null, 2);
  return html`<${PageHead} title=${title} crumbs=${html`${up} / <${RegressionLink} name=${record.regression} />`}
      badge=${html`<${Result} result=${record.result} verdict=${record.verdict} />`} />
    <section class="numbers" aria-label="How long and where">
      <div class="tiles">
        <div class="tile"><span class="label">${record.result === "live" ? "Running for" : "Runtime"}</span><span class="value"><${JobTime} row=${row} /></span></div>
        <div class="tile"><span class="label">Host</span><span class="value"><${HostLink} host=${job.host} /></span></div>
        <div class="tile"><span class="label">Last update</span><span class="value"><${Ago} time=${record.updated} /></span></div>
        <div class="tile"><span class="label">Started</span><span class="value"><${Moment} time=${started} /></span></div>
      </div>
    </section>
    <${Failure} record=${record} />
    <section aria-labelledby="identity">
      <h2 id="identity">What it is</h2>
      <${Facts} pairs=${facts(job)} />
    </section>
    <${More} job=${job} />
    <${Earlier} records=${earlier} since=${since} />
    <section aria-labelledby="raw">
      <h2 id="raw">Record <${Copy} text=${raw} what="JSON" /></h2>
      <pre class="raw" tabindex="0" aria-labelledby="raw">${raw}</pre>
    </section>`;
}

function facts(job) {
  const code = (name) => [name, job[name] && html`<code>${text(job[name])}</code>`];
  const number = (name, show) => [name, job[name] == null ? null : html`<span title=${count(job[name])}>${show(job[name])}</span>`];
  return [
    ["test", job.testgroup],
    ["category", job.category],
    ["build", job.build],
    ["user", job.username && html`<a href=${url("/search", { user: job.username })}>${job.username}</a>`],
    code("seed"),
    code("config"),
    code("uniqueid"),
    code("extid"),
    ["directory", job.jobdir && html`<${Directory} path=${job.jobdir} />`],
    ["source", job.sourcecode && html`<${Directory} path=${job.sourcecode} />`],
    ["start_time", job.start_time],
    ["finish_time", job.finish_time],
    number("runtime_ms", runtime),
    number("compute_ms", runtime),
    number("cycles", count),
    number("exit_code", count),
  ];
}

function Failure({ record }) {
  if (record.result !== "fail") return null;
  return html`<section aria-labelledby="failure" class="failure">
    <h2 id="failure">Why it failed</h2>
    <p><a href=${url("/regression", { name: record.regression, result: "fail", signature: record.signature })}>${record.signature}</a></p>
    ${record.verdict && html`<p class="about">The system's verdict, not the job's own word: its finish never came. If it does, it replaces this.</p>`}
    ${record.job.fail_message && html`<pre tabindex="0" aria-label="Fail message">${record.job.fail_message}</pre>`}
  </section>`;
}

/** Metadata and fields that we don't know. */
function More({ job }) {
  const metadata = Array.isArray(job.metadata) ? job.metadata : [];
  const unknown = Object.entries(job).filter(([name]) => !KNOWN.has(name));
  if (metadata.length + unknown.length === 0) return null;
  return html`<section aria-labelledby="more">
    <h2 id="more">More about it</h2>
    <${Facts} pairs=${[...metadata, ...unknown].map(([name, value]) => [text(name), html`<code>${text(value)}</code>`])} />
  </section>`;
}

function Earlier({ records, since }) {
  return html`<section aria-labelledby="earlier">
    <h2 id="earlier">Earlier updates</h2>
    <p class="about">${records.length ? `${plural(records.length, "update")} before the present one, newest first; at most 50 are kept. ` : "None that this view has seen. "}
      It looks back to <${Moment} time=${since} />, when the view was last rebuilt.</p>
    ${records.length > 0 && html`<div class="scroller"><table>
      <thead><tr><th scope="col">Result</th><th scope="col">Host</th><th scope="col" class="number">Updated</th></tr></thead>
      <tbody>${records.map(
        (record) => html`<tr key=${record.updated}>
          <td><${Result} result=${record.result} verdict=${record.verdict} /></td>
          <td>${record.job.host ?? "–"}</td>
          <td class="number"><${Moment} time=${record.updated} /></td></tr>`,
      )}</tbody></table></div>`}
  </section>`;
}
