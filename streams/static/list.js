// A list as it is shown, which is not always as it is: while a person reads, rows keep their places.
//
// {rows: id -> row, order: ids as the server has them, shown: ids on the page, next, total, exact, partial}
// All functions are pure. Rows that did not change stay the same objects, so that they are not drawn again.

const META = ["next", "total", "exact", "partial"];

function meta(data) {
  return Object.fromEntries(META.map((name) => [name, data[name]]));
}

/** The list of a first answer. */
export function fresh(body) {
  const order = body.rows.map((row) => row.id);
  return { rows: new Map(body.rows.map((row) => [row.id, row])), order, shown: order, ...meta(body) };
}

/** The list of another answer to the same question: after a break. */
export function renew(list, body, isHeld) {
  return change(list, { ...body, order: body.rows.map((row) => row.id) }, isHeld);
}

/** The list after a change: rows are new at once; their places only if nobody reads (`isHeld` false). */
export function change(list, data, isHeld) {
  const rows = new Map(list.rows);
  for (const row of data.rows) rows.set(row.id, row);
  const changed = { ...list, rows, order: data.order ?? list.order, ...meta(data) };
  return isHeld ? trimmed(changed) : release(changed);
}

/** Without rows that came and went while others were held: a mouse may rest on a table for days. */
function trimmed(list) {
  const wanted = new Set([...list.shown, ...list.order]);
  if (list.rows.size === wanted.size) return list;
  return { ...list, rows: new Map([...list.rows].filter(([id]) => wanted.has(id))) };
}

/** The list with everything in its place. */
export function release(list) {
  if (list.shown === list.order && list.rows.size === list.order.length) return list;
  const rows = new Map(list.order.filter((id) => list.rows.has(id)).map((id) => [id, list.rows.get(id)]));
  return { ...list, rows, shown: list.order };
}

/** What is held back: how many rows are {added, gone}, and whether others have `moved`. Null when nothing is. */
export function held(list) {
  if (list.shown === list.order) return null;
  const [shown, order] = [new Set(list.shown), new Set(list.order)];
  const stayed = list.shown.filter((id) => order.has(id));
  const target = list.order.filter((id) => shown.has(id));
  const counts = {
    added: list.order.length - target.length,
    gone: list.shown.length - stayed.length,
    moved: stayed.some((id, at) => id !== target[at]),
  };
  return counts.added || counts.gone || counts.moved ? counts : null;
}
