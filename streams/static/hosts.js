// Which hosts run what, for how long, and where it fails. One host: its live jobs and its recent fails.

import { html } from "./lib.js";
import { SearchField } from "./filters.js";
import { FAILS_ON_HOST, ON_HOST } from "./jobs.js";
import { Amount, Elapsed, HostLink, PageHead } from "./parts.js";
import { url } from "./router.js";
import { useWatch } from "./stream.js";
import { ROWS, Table } from "./table.js";

const FAILS_SHOWN = 50;

const COLUMNS = [
  { key: "host", label: "Host", sort: "host", cell: (row) => html`<span class="name"><${HostLink} host=${row.host} /></span>` },
  { key: "live", label: "Live jobs", sort: "live", isDescendingFirst: true, isNumber: true, cell: (row) => html`<${Amount} value=${row.live} />` },
  { key: "oldest", label: "Longest running", sort: "oldest", isNumber: true, cell: Longest },
  { key: "regressions", label: "Regressions", isNumber: true, priority: 2, cell: (row) => html`<${Amount} value=${row.regressions} />` },
  { key: "fails", label: "Fails in 24 h", sort: "fails", isDescendingFirst: true, isNumber: true, cell: (row) => html`<${Amount} value=${row.fails} className="fail" />` },
];

function Longest(row) {
  if (!row.oldest_job) return html`<${Elapsed} from=${row.oldest} />`;
  return html`<a href=${url("/job", { key: row.oldest_job })}><${Elapsed} from=${row.oldest} /></a>`;
}

export function Hosts({ query }) {
  return query.host ? html`<${OneHost} key=${query.host} query=${query} />` : html`<${AllHosts} query=${query} />`;
}

function AllHosts({ query: { q, sort = "-live", cursor } }) {
  const [entry] = useWatch([url("/hosts", { q, sort, cursor, limit: ROWS })]);
  return html`<${PageHead} title="Hosts" />
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <${SearchField} name="q" value=${q} label="Search" placeholder="Part of a host's name" isWide />
    </form>
    <${Table} entry=${entry} columns=${COLUMNS} sort=${sort} caption="Hosts" one="host" many="hosts" empty="No host is like that." />`;
}

function OneHost({ query: { host, sort = "started", cursor } }) {
  const [live, fails] = useWatch([
    url("/jobs", { host, sort, cursor, limit: ROWS }),
    url("/jobs", { host, result: "fail", sort: "-updated", limit: FAILS_SHOWN }),
  ]);
  return html`<${PageHead} title=${host} crumbs=${html`<a href="/hosts">Hosts</a>`} />
    <section aria-labelledby="live"><h2 id="live">Live jobs</h2>
      <${Table} entry=${live} columns=${ON_HOST} sort=${sort} caption="Live jobs on ${host}" one="live job" many="live jobs" empty="Nothing is running here." />
    </section>
    <section aria-labelledby="fails"><h2 id="fails">Recent fails</h2>
      <${Table} entry=${fails} columns=${FAILS_ON_HOST} caption="Recent fails on ${host}" one="fail" many="fails" empty="No fail." />
    </section>`;
}
