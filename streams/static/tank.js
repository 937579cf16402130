// Tank and untank, after a confirmation.

import { html, useEffect, useRef, useState } from "./lib.js";
import { post } from "./api.js";

/** Nothing where this person may not. */
export function TankButton({ row, whoami }) {
  const [isOpen, setOpen] = useState(false);
  if (!whoami.may_tank) return null;
  const isTanked = row.status === "TANKED";
  return html`<button type="button" class=${isTanked ? "" : "danger"} aria-haspopup="dialog" onClick=${() => setOpen(true)}>${isTanked ? "Untank…" : "Tank…"}</button>
    ${isOpen && html`<${Confirm} regression=${row.regression} isTanked=${isTanked} onClose=${() => setOpen(false)} />`}`;
}

function Confirm({ regression, isTanked, onClose }) {
  const dialog = useRef(null);
  const [reason, setReason] = useState("");
  const [sent, setSent] = useState({ isBusy: false, problem: null });
  useEffect(() => dialog.current.showModal(), []);
  const send = async (event) => {
    event.preventDefault();
    setSent({ isBusy: true, problem: null });
    try {
      await post(isTanked ? "/untank" : "/tank", { regression, ...(!isTanked && reason.trim() && { reason: reason.trim() }) });
      dialog.current.close();
    } catch (error) {
      setSent({ isBusy: false, problem: error.message });
    }
  };
  const what = isTanked ? "Untank" : "Tank";
  return html`<dialog ref=${dialog} onClose=${onClose} aria-labelledby="tank-title">
    <form onSubmit=${send}>
      <h2 id="tank-title">${what} this regression?</h2>
      <p class="subject">${regression}</p>
      <p>${
        isTanked
          ? "It is shown in the lists again, with the status that it would have."
          : "It is hidden from the lists and never times out; its live jobs end as those of a timeout. What its farm still sends is counted as always. Untank takes it back."
      }</p>
      ${!isTanked && html`<label class="field block"><span>Reason (optional)</span>
        <textarea name="reason" rows="2" maxlength="1000" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)}></textarea></label>`}
      ${sent.problem && html`<p class="problem" role="alert">${sent.problem}</p>`}
      <div class="buttons">
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
        <button type="submit" class=${isTanked ? "primary" : "primary danger"} disabled=${sent.isBusy}>${sent.isBusy ? "Waiting for the broker…" : what}</button>
      </div>
    </form>
  </dialog>`;
}
