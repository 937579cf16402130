// Filters: what is typed or chosen goes into the URL, and from there to the server.

import { html, useEffect, useRef, useState } from "./lib.js";
import { Icon } from "./icons.js";
import { navigate, withQuery } from "./router.js";

const TYPING_MS = 300;

/** A field for the parameter `name`; asks when typing pauses. */
export function SearchField({ name, value = "", label, placeholder, isWide }) {
  const [typed, setTyped] = useState(value);
  const timer = useRef(0);
  useEffect(() => setTyped(value), [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const ask = (text) => navigate(withQuery({ [name]: text.trim() }), { replace: true });
  const onInput = (event) => {
    const text = event.currentTarget.value;
    setTyped(text);
    clearTimeout(timer.current);
    timer.current = setTimeout(ask, TYPING_MS, text);
  };
  const onKeyDown = (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(timer.current);
    ask(event.currentTarget.value);
  };
  return html`<label class="field ${isWide ? "wide" : ""}">
    <span class=${isWide ? "unseen" : ""}>${label}</span>
    <span class="input">${isWide && html`<${Icon} name="search" />`}
      <input type="search" name=${name} value=${typed} placeholder=${placeholder} autocomplete="off" spellcheck="false"
        maxlength="200" onInput=${onInput} onKeyDown=${onKeyDown} /></span>
  </label>`;
}

/** A menu for the parameter `name`; `options`: [{value, count}]. */
export function Choice({ name, value = "", label, options }) {
  const known = options.some((option) => option.value === value) || !value ? options : [{ value }, ...options];
  const choose = (event) => navigate(withQuery({ [name]: event.currentTarget.value }));
  return html`<label class="field">
    <span>${label}</span>
    <select name=${name} value=${value} onChange=${choose}>
      <option value="" selected=${!value}>any</option>
      ${known.map(
        (option) => html`<option key=${option.value} value=${option.value} selected=${option.value === value}>
          ${option.value}${option.count == null ? "" : ` (${option.count})`}</option>`,
      )}
    </select>
  </label>`;
}

/** Links of which each adds a value to the comma-separated parameter `name`, or takes it away. `options`: [[value, content]]. */
export function Toggles({ name, value = "", label, options }) {
  const chosen = value ? value.split(",") : [];
  const toggled = (one) => (chosen.includes(one) ? chosen.filter((other) => other !== one) : [...chosen, one]);
  return html`<div class="toggles" role="group" aria-label=${label}>
    ${options.map(
      ([one, content]) => html`<button key=${one} type="button" aria-pressed=${chosen.includes(one) ? "true" : "false"}
        onClick=${() => navigate(withQuery({ [name]: toggled(one).join(",") }))}>${content}</button>`,
    )}
  </div>`;
}

/** A box for a parameter that is "true" or absent. */
export function Check({ name, value, label }) {
  const set = (event) => navigate(withQuery({ [name]: event.currentTarget.checked ? "true" : null }));
  return html`<label class="check"><input type="checkbox" name=${name} checked=${value === "true"} onChange=${set} />${label}</label>`;
}

/** A filter that has no field of its own, and how to take it away. */
export function Chip({ name, label, value }) {
  if (!value) return null;
  return html`<a class="chip" href=${withQuery({ [name]: null })}>${label} <b>${value}</b><span aria-hidden="true"> ×</span><span class="unseen"> (remove this filter)</span></a>`;
}
