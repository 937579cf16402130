// One regression: its statistics, what still runs, what failed and why, and how it went.

import { html } from "./lib.js";
import { Charts } from "./charts.js";
import { Chip, SearchField } from "./filters.js";
import { count, duration, percent, plural, si } from "./format.js";
import { ENDED, LIVE } from "./jobs.js";
import { Absent, Ago, Directory, Facts, Moment, PageHead, Progress, RegressionTime, Status, text } from "./parts.js";
import { url, withQuery } from "./router.js";
import { useWatch } from "./stream.js";
import { ROWS, Table } from "./table.js";
import { TankButton } from "./tank.js";

const RESULTS = ["live", "fail", "pass", "skip"];
const SHOWN_FIELDS = new Set(["name", "project", "component", "group", "username", "tag", "queue", "host", "dir", "command"]);

export function Regression({ query, whoami }) {
  const result = query.result ?? "live";
  const sort = query.sort ?? (result === "live" ? "started" : "-updated");
  const { name, q, signature, verdict, cursor } = query;
  const [entry, charts, jobs] = useWatch([
    url("/regression", { name }),
    url("/charts", { regression: name }),
    url("/jobs", { regression: name, result, q, signature, verdict, sort, cursor, limit: ROWS }),
  ]);
  if (entry?.status !== 200) {
    return html`<${Heading} name=${name} /><${Absent} entry=${entry} what="regression" />`;
  }
  const row = entry.body;
  return html`<${Heading} row=${row} whoami=${whoami} />
    <${Numbers} row=${row} />
    <div class="columns">
      <${Jobs} entry=${jobs} query=${{ ...query, result, sort }} row=${row} />
      <aside id="more" aria-label="Fails and charts">
        <${Signatures} row=${row} chosen=${signature} />
        <${Charts} entry=${charts} />
      </aside>
    </div>
    <${Fields} row=${row} />`;
}

function Jobs({ entry, query, row }) {
  const { result, sort, q, signature, verdict } = query;
  return html`<section aria-labelledby="jobs">
    <h2 id="jobs" class="unseen">Jobs</h2>
    <div class="filters">
      <nav class="tabs" aria-label="Jobs by result">${RESULTS.map((one) => html`<${Tab} key=${one} name=${one} chosen=${result} row=${row} />`)}</nav>
      <${SearchField} name="q" value=${q} label="Search these jobs" placeholder="Host, test, seed, config, …" isWide />
      <a class="button narrow-only" href="#more">Fails and charts ↓</a>
      <${Chip} name="signature" label="Signature" value=${signature} />
      <${Chip} name="verdict" label="Ended by the" value=${verdict && "system"} />
    </div>
    <${Table} key=${result} entry=${entry} columns=${result === "live" ? LIVE : ENDED} sort=${sort} caption="${result} jobs of ${row.regression}"
      one="${result} job" many="${result} jobs" empty=${nothing(row, query)} />
  </section>`;
}

function nothing(row, { result, q, signature, verdict }) {
  if (q || signature || verdict) return `No ${result} job is like that.`;
  if (row[result] > 0) return "The jobs of this regression are gone: it ended long ago, and only its statistics stay.";
  return result === "live" ? "Nothing is running." : `No ${result} job.`;
}

function Heading({ name, row, whoami }) {
  const up = html`<a href="/">Regressions</a>`;
  if (!row) return html`<${PageHead} title=${name} crumbs=${up} />`;
  const series = row.series && html` / <a href=${url("/", { series: row.series, hidden: "true" })}>${row.series}</a>`;
  const near = (other, label) => other && other !== row.regression && html`<a class="button" href=${url("/regression", { name: other })}>${label}</a>`;
  return html`<${PageHead} title=${row.regression} crumbs=${html`${up}${series}`} badge=${html`<${Status} status=${row.status} />`}>
    <nav class="actions" aria-label="This regression and its series">
      ${near(row.previous, "‹ Previous")} ${near(row.following, "Following ›")} ${row.latest !== row.following && near(row.latest, "Latest »")}
      <${TankButton} row=${row} whoami=${whoami} />
    </nav>
  <//>`;
}

function Numbers({ row }) {
  const of = row.submitted == null ? "" : ` of ${count(row.submitted)}`;
  return html`<section class="numbers" aria-label="Statistics">
    <${Progress} row=${row} isLarge />
    <ul class="legend">
      ${RESULTS.map((name) => html`<li key=${name}><span class="swatch ${name}" aria-hidden="true"></span><b>${count(row[name])}</b> ${name}</li>`)}
      <li><b>${count(row.finished)}</b>${of} finished</li>
      ${row.remaining != null && html`<li><b>${count(row.remaining)}</b> remaining</li>`}
    </ul>
    <div class="tiles">
      <${Tile} label="Pass rate" value=${percent(row.pass_rate)} />
      <${Tile} label="Elapsed" value=${html`<${RegressionTime} row=${row} />`} />
      <${Tile} label="Last heard of" value=${html`<${Ago} time=${row.heard} />`} />
      <${Tile} label="Cycles" value=${si(row.cycles)} more=${row.cycles_per_second == null ? "" : `${si(row.cycles_per_second)} a second`} />
      <${Tile} label="Compute time" value=${duration(row.compute_ms)} more="${duration(row.runtime_ms)} of runtime" />
      <${Tile} label="Started" value=${html`<${Moment} time=${row.started} />`} more=${row.last_finish && html`last finish <${Moment} time=${row.last_finish} />`} />
    </div>
  </section>`;
}

function Tile({ label, value, more }) {
  return html`<div class="tile"><span class="label">${label}</span><span class="value">${value}</span><span class="about">${more}</span></div>`;
}

function Tab({ name, chosen, row }) {
  const to = withQuery({ result: name === "live" ? null : name, signature: null, verdict: null, sort: null });
  return html`<a href=${to} aria-current=${name === chosen ? "true" : "false"}>${name} <span class="pill">${count(row[name])}</span></a>`;
}

function Signatures({ row, chosen }) {
  const all = Object.entries(row.signatures ?? {}).sort((one, other) => other[1] - one[1]);
  if (all.length === 0) return null;
  const most = all[0][1];
  return html`<section aria-labelledby="signatures">
    <h2 id="signatures">Fails by signature</h2>
    <div class="scroller"><table class="signatures">
      <thead class="unseen"><tr><th scope="col">Fails</th><th scope="col">Signature</th></tr></thead>
      <tbody>${all.map(
        ([signature, fails]) => html`<tr key=${signature} class=${signature === chosen ? "chosen" : ""}>
          <td class="number"><b>${count(fails)}</b></td>
          <td><span class="share" aria-hidden="true" style=${{ width: `${(100 * fails) / most}%` }}></span>
            <a href=${withQuery({ result: "fail", signature, verdict: null, sort: null })}>${signature}</a></td>
        </tr>`,
      )}</tbody>
    </table></div>
    <p class="about">${plural(all.length, "signature")}. <a href=${withQuery({ result: "fail", verdict: "true", signature: null, sort: null })}>Fails that the system decided</a></p>
  </section>`;
}

function Fields({ row }) {
  const { fields } = row;
  const known = ["project", "component", "group", "username", "tag", "queue", "host"].map((name) => [name, fields[name] && text(fields[name])]);
  const others = Object.entries(fields).filter(([name]) => !SHOWN_FIELDS.has(name));
  return html`<section aria-labelledby="about">
    <h2 id="about">About it</h2>
    <${Facts} pairs=${[
      ...known,
      ["dir", fields.dir && html`<${Directory} path=${text(fields.dir)} />`],
      ["command", fields.command && html`<code>${text(fields.command)}</code>`],
      ...others.map(([name, value]) => [name, html`<code>${text(value)}</code>`]),
    ]} />
  </section>`;
}
