// Who we are, and the form for a token where the server wants one.

import { html, useEffect, useRef, useState } from "./lib.js";
import { get, post, remove } from "./api.js";
import { reconnect, useConnection } from "./stream.js";

const NOBODY = { user: null, may_read: true, may_tank: false, login: false };

/** [whoami, ask]: what the server says of us, asked anew whenever it refuses the stream, or by `ask()`. */
export function useWhoami() {
  const [whoami, setWhoami] = useState(null);
  const { refused } = useConnection();
  const ask = () => get("/whoami").then(setWhoami, () => setWhoami((before) => before ?? NOBODY));
  useEffect(() => void ask(), [refused]);
  return [whoami, ask];
}

/** In the page's head: who we are, and the way to log in or out where tokens are taken. */
export function Account({ whoami, ask }) {
  const [isOpen, setOpen] = useState(false);
  const { user, may_read: mayRead, may_tank: mayTank, login } = whoami;
  if (!mayRead) return null; // the form is the page
  const logOut = () => remove("/session").then(ask, ask);
  const hasToken = login && !user;
  const couldDoMore = login && user && !mayTank;
  return html`<span class="account">${user}
    ${hasToken && html`<button type="button" class="quiet small" onClick=${logOut}>Log out</button>`}
    ${couldDoMore && html` <button type="button" class="quiet small" aria-haspopup="dialog" onClick=${() => setOpen(true)}>Log in</button>`}
    ${isOpen && html`<${LoginDialog} ask=${ask} onClose=${() => setOpen(false)} />`}
  </span>`;
}

function LoginDialog({ ask, onClose }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${onClose} aria-labelledby="login-title">
    <${LoginForm} onDone=${() => { dialog.current.close(); ask(); }} onCancel=${() => dialog.current.close()} />
  </dialog>`;
}

/** The form; `onDone` is called when the token was right. */
export function LoginForm({ onDone, onCancel }) {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState(null);
  const send = async (event) => {
    event.preventDefault();
    try {
      await post("/session", { token: token.trim() });
      reconnect();
      onDone();
    } catch (error) {
      setProblem(error.status === 403 ? "This token is not right." : error.message);
    }
  };
  return html`<form class="login" onSubmit=${send}>
    <h2 id="login-title">Log in</h2>
    <label class="field block"><span>Token</span>
      <input type="password" name="token" autocomplete="current-password" required value=${token} onInput=${(event) => setToken(event.currentTarget.value)} /></label>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="buttons">
      ${onCancel && html`<button type="button" onClick=${onCancel}>Cancel</button>`}
      <button type="submit" class="primary">Log in</button>
    </div>
  </form>`;
}
