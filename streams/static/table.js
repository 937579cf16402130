// A table of a list: sorted by the server, 200 rows a page, rows updated in place and never under the reader's eyes.

import { Component, html, useMemo, useRef } from "./lib.js";
import { count, plural } from "./format.js";
import { Icon } from "./icons.js";
import { held } from "./list.js";
import { releaseNow, useReading } from "./reading.js";
import { navigate, useLocation, withQuery } from "./router.js";

export const ROWS = 200;

/**
 * `entry`: a list as `useWatch` has it. `columns`: {key, label, cell(row), sort, isDescendingFirst, isNumber, priority,
 * help}; `sort` is the API's name for it, `priority` 2 is left out on narrow windows, 3 also on middling ones.
 * `sort`: how it is sorted now ("-started").
 */
export function Table({ entry, columns, caption, sort, one, many, empty }) {
  const { query } = useLocation();
  const body = useRef(null);
  useReading(body);
  const list = entry?.list;
  const heldBack = useMemo(() => (list ? held(list) : null), [list]);
  const present = useMemo(() => (heldBack ? new Set(list.order) : null), [heldBack, list]);
  return html`<section class="listing ${entry?.isOld ? "old" : ""}" aria-label=${caption}>
    <div class="listing-bar">
      <${Total} list=${list} one=${one} many=${many} />
    </div>
    <div class="scroller">
      <table aria-busy=${!list || entry.isOld ? "true" : "false"}>
        <caption class="unseen">${caption}</caption>
        <thead><tr>${columns.map((column) => html`<${Head} key=${column.key} column=${column} sort=${sort} />`)}</tr></thead>
        <tbody ref=${body} onKeyDown=${moveFocus}>
          ${list?.shown.map(
            (id) => html`<${Row} key=${id} row=${list.rows.get(id)} columns=${columns} isGone=${present ? !present.has(id) : false} />`,
          )}
        </tbody>
      </table>
      ${entry && !list && html`<p class="absent" role="alert">${entry.body?.detail ?? entry.body?.title}
        ${query.cursor && html` <a href=${withQuery({})}>First page</a>`}</p>`}
      ${!entry && html`<p class="absent" role="status">Loading…</p>`}
      ${list && list.shown.length === 0 && html`<p class="absent">${empty}</p>`}
    </div>
    <${Held} counts=${heldBack} />
    <${Pager} list=${list} isOld=${entry?.isOld} />
  </section>`;
}

class Row extends Component {
  shouldComponentUpdate(next) {
    return next.row !== this.props.row || next.columns !== this.props.columns || next.isGone !== this.props.isGone;
  }

  render({ row, columns, isGone }) {
    return html`<tr class=${isGone ? "gone" : ""} data-id=${row.id}>
      ${columns.map(
        (column, at) => html`<td key=${column.key} class=${classes(column)}>
          ${column.cell(row)}${isGone && at === 0 && html`<span class="unseen"> (no longer in this list)</span>`}</td>`,
      )}
    </tr>`;
  }
}

function classes(column) {
  return `col-${column.key} ${column.isNumber ? "number" : ""} priority-${column.priority ?? 1}`;
}

function Head({ column, sort }) {
  if (!column.sort) return html`<th scope="col" class=${classes(column)} title=${column.help}>${column.label}</th>`;
  const direction = sort === column.sort ? "ascending" : sort === `-${column.sort}` ? "descending" : "none";
  const isNextDescending = direction === "none" ? column.isDescendingFirst : direction === "ascending";
  const arrow = { ascending: "▲", descending: "▼", none: "" }[direction];
  return html`<th scope="col" class=${classes(column)} aria-sort=${direction} title=${column.help}>
    <a href=${withQuery({ sort: (isNextDescending ? "-" : "") + column.sort })}>${column.label}<span class="arrow" aria-hidden="true">${arrow}</span></a>
  </th>`;
}

function Total({ list, one, many }) {
  const page = Number(useLocation().query.page ?? 1);
  if (!list) return html`<span class="total"></span>`;
  const total = list.exact ? plural(list.total, one, many) : `more than ${plural(list.total, one, many)}`;
  const first = (page - 1) * ROWS + 1;
  const range = list.total > list.shown.length ? `${count(first)} to ${count(first + list.shown.length - 1)} of ` : "";
  return html`<span class="total">${range}${total}</span>
    ${list.partial && html`<span class="note"><${Icon} name="warn" />The search was cut short: there may be more. Ask for less.</span>`}`;
}

function Held({ counts }) {
  const parts = counts
    ? [counts.added && `${count(counts.added)} new`, counts.gone && `${count(counts.gone)} gone`, counts.moved && "others moved"]
    : [];
  return html`<div class="held" role="status">${counts &&
    html`<p><${Icon} name="hold" />Held while you read: ${parts.filter(Boolean).join(", ")}
      <button type="button" class="small" onClick=${releaseNow}>Show now</button></p>`}</div>`;
}

/** While the next page is awaited (`isOld`), where the one after it begins is not known. */
function Pager({ list, isOld }) {
  const { query, state } = useLocation();
  const page = Number(query.page ?? 1);
  if (!list || (page === 1 && !list.next)) return null;
  const trail = state?.trail ?? []; // the cursors of the pages before this one
  const go = (to, cursor, nextTrail) => (event) => {
    event.preventDefault();
    navigate(withQuery({ page: to > 1 ? to : null, cursor }), { state: { trail: nextTrail } });
    document.querySelector(".listing")?.scrollIntoView({ block: "start" });
  };
  const link = (label, to, cursor, nextTrail) =>
    html`<a class="button" href=${withQuery({ page: to > 1 ? to : null, cursor })} onClick=${go(to, cursor, nextTrail)}>${label}</a>`;
  const canGoBack = page === 2 || trail.length > 1;
  return html`<nav class="pager" aria-label="Pages">
    ${page > 1 ? link("First", 1, null, []) : html`<span class="button" aria-disabled="true">First</span>`}
    ${page > 1 && canGoBack ? link("Previous", page - 1, page === 2 ? null : trail.at(-2), trail.slice(0, -1)) : html`<span class="button" aria-disabled="true">Previous</span>`}
    <span class="page">Page ${count(page)}${list.exact ? ` of ${count(Math.max(page, Math.ceil(list.total / ROWS)))}` : ""}</span>
    ${list.next && !isOld ? link("Next", page + 1, list.next, [...trail, list.next]) : html`<span class="button" aria-disabled="true">Next</span>`}
  </nav>`;
}

/** Up, down, Home and End go from row to row. */
function moveFocus(event) {
  const rows = [...event.currentTarget.rows];
  const at = rows.indexOf(event.target.closest("tr"));
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  const link = rows[to]?.querySelector("a[href]");
  if (!link || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  link.focus();
}
