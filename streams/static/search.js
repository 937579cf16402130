// Search across all live jobs: which host is my build on?

import { html } from "./lib.js";
import { SearchField } from "./filters.js";
import { ANYWHERE } from "./jobs.js";
import { PageHead } from "./parts.js";
import { url } from "./router.js";
import { useWatch } from "./stream.js";
import { ROWS, Table } from "./table.js";

const FIELDS = [["build", "Build"], ["user", "User"], ["test", "Test"], ["seed", "Seed"], ["config", "Config"], ["host", "Host"]];

export function Search({ query }) {
  const wanted = Object.fromEntries(["q", ...FIELDS.map(([name]) => name), "cursor"].map((name) => [name, query[name]]));
  const sort = query.sort ?? "started";
  const [entry] = useWatch([url("/jobs", { ...wanted, sort, limit: ROWS })]);
  return html`<${PageHead} title="Live jobs" />
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <${SearchField} name="q" value=${query.q} label="Search" placeholder="Words: part of a host, build, test, seed, user, …" isWide />
      ${FIELDS.map(([name, label]) => html`<${SearchField} key=${name} name=${name} value=${query[name]} label=${label} placeholder="exactly" />`)}
    </form>
    <${Table} entry=${entry} columns=${ANYWHERE} sort=${sort} caption="Live jobs of all regressions" one="live job" many="live jobs" empty="No live job is like that." />`;
}
