// Small pictures beside words. They add a shape to a colour; the word says it all, so they are hidden from screen readers.

import { html } from "./lib.js";

const PATHS = {
  live: html`<circle cx="8" cy="8" r="3" fill="currentColor" /><circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" stroke-width="1.5" opacity=".55" />`,
  check: html`<path d="M3.2 8.6l3.2 3.2 6.4-7" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" />`,
  cross: html`<path d="M4 4l8 8M12 4l-8 8" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" />`,
  stop: html`<path d="M5.4 1.8h5.2l3.6 3.6v5.2l-3.6 3.6H5.4l-3.6-3.6V5.4z" fill="none" stroke="currentColor" stroke-width="1.5" /><path d="M8 4.7v4" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" /><circle cx="8" cy="11.2" r="1" fill="currentColor" />`,
  ban: html`<circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" stroke-width="1.5" /><path d="M3.8 3.8l8.4 8.4" stroke="currentColor" stroke-width="1.5" />`,
  skip: html`<path d="M3 4l5 4-5 4zM9 4l4.6 4L9 12z" fill="currentColor" />`,
  warn: html`<path d="M8 2l6.6 11.6H1.4z" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" /><path d="M8 6.4v3.2" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" /><circle cx="8" cy="11.6" r=".9" fill="currentColor" />`,
  clock: html`<circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" stroke-width="1.5" /><path d="M8 4.6V8l2.4 1.6" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" />`,
  search: html`<circle cx="7" cy="7" r="4.4" fill="none" stroke="currentColor" stroke-width="1.6" /><path d="M10.4 10.4l3.4 3.4" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" />`,
  hold: html`<path d="M5.5 3.5v9M10.5 3.5v9" stroke="currentColor" stroke-width="2.2" stroke-linecap="round" />`,
};

/** One of the pictures, as high as the text beside it. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">${PATHS[name]}</svg>`;
}
