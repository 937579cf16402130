// Requests to the API. What went wrong is an ApiError with the problem's own words (RFC 9457).

const BASE = "/api/v1";

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The JSON answer of GET. Raises ApiError. */
export function get(path) {
  return request(path, { headers: { Accept: "application/json" } });
}

/** Send JSON; the JSON answer, or null where there is none. Raises ApiError. */
export function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-Livejobs": "1" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body) });
}

/** Raises ApiError. */
export function remove(path) {
  return request(path, { method: "DELETE", headers: { "X-Livejobs": "1", "Content-Type": "application/json" } });
}

async function request(path, options) {
  let answer;
  try {
    answer = await fetch(BASE + path, options);
  } catch {
    throw new ApiError(0, "the server can't be reached");
  }
  const body = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, body?.detail ?? body?.title ?? `the server says ${answer.status}`);
  return body;
}
