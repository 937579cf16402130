// What the page is made with: Preact draws, htm is its template language (no JSX, so no build step).

import { h } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export { Component, Fragment, render } from "./vendor/preact.js";
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
export const html = htm.bind(h);
