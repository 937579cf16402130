// All regressions: how each is doing, now.

import { html, useEffect, useState } from "./lib.js";
import { get } from "./api.js";
import { Check, Chip, Choice, SearchField, Toggles } from "./filters.js";
import { count, percent } from "./format.js";
import { Ago, Amount, Moment, PageHead, Progress, RegressionLink, RegressionTime, Status } from "./parts.js";
import { url } from "./router.js";
import { useWatch } from "./stream.js";
import { ROWS, Table } from "./table.js";

const FILTERS = ["status", "project", "group", "user", "series", "q", "hidden", "cursor"];
const SORT = "-started";

const COLUMNS = [
  { key: "status", label: "Status", priority: 2, cell: (row) => html`<${Status} status=${row.status} />` },
  { key: "name", label: "Regression", sort: "name", cell: Named },
  { key: "progress", label: "Progress", cell: Progressed, priority: 2, help: "Finished of expected jobs" },
  number("live", "Live", "live"),
  number("fail", "Fail", "fail"),
  { ...number("pass", "Pass"), sort: undefined, priority: 3 },
  { ...number("skip", "Skip"), sort: undefined, priority: 3 },
  { key: "rate", label: "Pass rate", sort: "pass_rate", isNumber: true, priority: 3, cell: (row) => percent(row.pass_rate), help: "Passed of passed and failed" },
  { key: "elapsed", label: "Elapsed", isNumber: true, cell: (row) => html`<${RegressionTime} row=${row} />`, priority: 2 },
  { key: "heard", label: "Last heard", sort: "heard", isDescendingFirst: true, isNumber: true, priority: 3, cell: (row) => html`<${Ago} time=${row.heard} />` },
  { key: "started", label: "Started", sort: "started", isDescendingFirst: true, isNumber: true, priority: 3, cell: (row) => html`<${Moment} time=${row.started} />` },
];

function number(name, label, className = "") {
  return { key: name, label, sort: name, isDescendingFirst: true, isNumber: true, cell: (row) => html`<${Amount} value=${row[name]} className=${className} />` };
}

function Named(row) {
  const { project, group, username } = row.fields;
  const about = [project, group, username].filter(Boolean);
  return html`<span class="narrow-only"><${Status} status=${row.status} /> <span class="about"><${RegressionTime} row=${row} /></span></span>
    <${RegressionLink} name=${row.regression} /><span class="about">${about.map(String).join(" · ")}</span>
    <span class="narrow-only"><${Progress} row=${row} /></span>`;
}

function Progressed(row) {
  const of = row.submitted == null ? "" : ` of ${count(row.submitted)}`;
  return html`<${Progress} row=${row} /><span class="about">${count(row.finished)}${of} finished</span>`;
}

export function Regressions({ query }) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, query[name]]));
  const sort = query.sort ?? SORT;
  const [entry] = useWatch([url("/regressions", { ...wanted, sort, limit: ROWS })]);
  const facets = useFacets();
  return html`<${PageHead} title="Regressions" />
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <${SearchField} name="q" value=${query.q} label="Search" placeholder="Name, project, group or user" isWide />
      <${Toggles} name="status" value=${query.status} label="Status"
        options=${["LIVE", "COMPLETE", "ABORTED", "TANKED"].map((status) => [status, html`<${Status} status=${status} />`])} />
      ${["project", "group", "user"].map(
        (name) => html`<${Choice} key=${name} name=${name} value=${query[name]} label=${name[0].toUpperCase() + name.slice(1)} options=${facets[name] ?? []} />`,
      )}
      <${Check} name="hidden" value=${query.hidden} label="Show tanked" />
      <${Chip} name="series" label="Series" value=${query.series} />
    </form>
    <${Table} entry=${entry} columns=${COLUMNS} sort=${sort} caption="Regressions" one="regression" many="regressions"
      empty="No regression is like that." />`;
}

/** What projects, groups and users there are, as of now; none when that can't be asked. */
function useFacets() {
  const [facets, setFacets] = useState({});
  useEffect(() => {
    get("/facets").then(setFacets, () => {});
  }, []);
  return facets;
}
