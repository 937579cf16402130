// The frame around the pages: head, navigation, and which page the URL means.

import { html, render, useEffect, useRef } from "./lib.js";
import { FreshnessBadge, StaleBar } from "./freshness.js";
import { Hosts } from "./hosts.js";
import { Job } from "./job.js";
import { Account, LoginForm, useWhoami } from "./login.js";
import { PageHead } from "./parts.js";
import { Regression } from "./regression.js";
import { Regressions } from "./regressions.js";
import { useLocation } from "./router.js";
import { Search } from "./search.js";

// `subject` is what a page is about: another one is another page, while a filter or another sort is not.
const PAGES = {
  "/": { page: Regressions, name: "Regressions", section: "/" },
  "/regression": { page: Regression, name: "Regression", subject: (query) => query.name, section: "/" },
  "/job": { page: Job, name: "Job", subject: (query) => query.key, section: "/" },
  "/hosts": { page: Hosts, name: "Hosts", subject: (query) => query.host, section: "/hosts" },
  "/search": { page: Search, name: "Live jobs", section: "/search" },
};
const SECTIONS = [["/", "Regressions"], ["/search", "Live jobs"], ["/hosts", "Hosts"]];

function App() {
  const { path, query } = useLocation();
  const [whoami, ask] = useWhoami();
  const known = PAGES[path];
  const subject = known?.subject?.(query) ?? "";
  usePlace(path, subject, known);
  return html`<a class="to-main" href="#main" onClick=${toMain}>Skip to the content</a>
    <header class="top">
      <a class="brand" href="/"><img src="/static/icon.svg" alt="" width="20" height="20" />livejobs</a>
      <nav aria-label="Pages of this site">${SECTIONS.map(
        ([to, label]) => html`<a key=${to} href=${to} aria-current=${known?.section === to ? "page" : null}>${label}</a>`,
      )}</nav>
      ${whoami?.may_read && html`<${FreshnessBadge} />`}
      ${whoami && html`<${Account} whoami=${whoami} ask=${ask} />`}
    </header>
    ${whoami?.may_read && html`<${StaleBar} />`}
    <main id="main" tabindex="-1">${whoami && content(known, path + subject, query, whoami, ask)}</main>`;
}

function content(known, key, query, whoami, ask) {
  if (!whoami.may_read) return html`<section class="gate"><h1 tabindex="-1">livejobs</h1><${LoginForm} onDone=${ask} /></section>`;
  if (!known) return html`<${PageHead} title="No such page" /><p><a href="/">All regressions</a></p>`;
  return html`<${known.page} key=${key} query=${query} whoami=${whoami} />`;
}

function toMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

/** The window's title; on another page the focus goes to its heading, as with a page that is loaded. */
function usePlace(path, subject, known) {
  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${(path !== "/job" && subject) || (known?.name ?? "No such page")} · livejobs`;
    if (!isFirst.current) {
      scrollTo(0, 0);
      document.querySelector("main h1")?.focus({ preventScroll: true });
    }
    isFirst.current = false;
  }, [path, subject]);
}

export function start(element) {
  element.textContent = "";
  render(html`<${App} />`, element);
}
