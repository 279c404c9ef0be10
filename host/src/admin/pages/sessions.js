// Finds the sessions of a user, or one session, and ends them on whichever gateway they are.

import { ApiError, ask } from "./api.js";
import { ago, byId, bytes, count, el, plural, setText } from "./dom.js";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const COLUMNS = ["Session", "User", "Address", "Since", "State", "Waiting", ""];

export function startSessions() {
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    find(byId("wanted").value.trim());
  });
  byId("keep").addEventListener("click", () => byId("ending").close());
  // A link such as /#session=UUID looks the session up.
  const linked = new URLSearchParams(location.hash.slice(1));
  const wanted = linked.get("session") ?? linked.get("user");
  if (wanted) {
    byId("wanted").value = wanted;
    find(wanted);
  }
}

async function find(wanted) {
  const isSession = UUID.test(wanted);
  if (!isSession && !/^[1-9]\d*$/.test(wanted)) {
    return show(
      el(
        "p",
        { class: "field-error" },
        "Enter the id of a user, which is an integer from 1 on, or the UUID of a session.",
      ),
    );
  }
  try {
    const query = isSession ? `session=${wanted}` : `user=${wanted}`;
    showFound(wanted, isSession, await ask(`/api/sessions?${query}`));
  } catch (error) {
    show(el("p", { class: "field-error" }, `The sessions cannot be listed: ${error.message}.`));
  }
}

function show(...nodes) {
  byId("found").replaceChildren(...nodes);
}

function showFound(wanted, isSession, { sessions, total }) {
  const path = isSession ? `/api/sessions/${wanted}/close` : `/api/users/${wanted}/close`;
  const whom = isSession ? "the session" : `all sessions of user ${wanted}`;
  const button = el(
    "button",
    { class: "danger", click: () => confirm(path, whom, wanted) },
    isSession ? "End the session" : "End all sessions of the user",
  );
  const head = el("div", { class: "found-head" });
  if (total === 0) {
    const text = isSession ? "This session is not on this gateway." : `User ${wanted} has no session on this gateway.`;
    head.append(el("p", {}, `${text} If it is on another one of the same Redis, you can still end it.`), button);
    return show(head);
  }
  const shown = total > sessions.length ? ` The first ${count(sessions.length)} are shown.` : "";
  const found = isSession
    ? "The session is on this gateway."
    : `${plural(total, "session")} of user ${wanted} on this gateway.${shown}`;
  head.append(el("p", {}, found), button);
  const heads = COLUMNS.map((name) =>
    el("th", { role: "columnheader", scope: "col" }, name || el("span", { class: "unseen" }, "End")),
  );
  const table = el(
    "table",
    { class: "sessions", role: "table", "aria-label": "Sessions" },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
    el("tbody", { role: "rowgroup" }, ...sessions.map((session) => row(session, wanted))),
  );
  show(head, table);
}

function row(session, wanted) {
  const end = () => confirm(`/api/sessions/${session.id}/close`, `session ${session.id}`, wanted);
  const cells = [
    el("code", {}, session.id),
    // The number `user` loses its last digits in a script if it is above 2^53.
    session.user_id ?? "none",
    session.remote,
    ago(session.connected_at_ms),
    el("span", { class: "pill", "data-status": session.away ? "warn" : "ok" }, session.away ? "away" : "connected"),
    `${count(session.queued_messages)} · ${bytes(session.queued_bytes)}`,
    el("button", { class: "danger small", click: end, "aria-label": `End session ${session.id}` }, "End"),
  ];
  return el(
    "tr",
    { role: "row" },
    ...cells.map((cell, i) => el("td", { role: "cell", "data-label": COLUMNS[i] }, cell)),
  );
}

/** Asks the operator for the code and the reason, and ends what the path names. */
function confirm(path, whom, wanted) {
  const dialog = byId("ending");
  setText(byId("ending-text"), `This ends ${whom}, on whichever gateway. Messages that wait are sent first.`);
  setText(byId("ending-error"), "");
  dialog.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    byId("end").disabled = true;
    try {
      const body = { code: Number(byId("code").value), reason: byId("reason").value };
      // Without the bus, the sessions here have ended as well, and the answer says why the others have not.
      const { closed, published, error } = await ask(path, { body, also: [503] });
      if (closed === undefined) throw new ApiError(503, error ?? "the answer is not complete");
      dialog.close();
      await find(wanted);
      const here = `${plural(closed, "session")} ended on this gateway. `;
      const others = published
        ? "The other gateways were told."
        : `The other gateways may not know (${error}): try again.`;
      byId("found").prepend(el("p", { class: `notice ${published ? "ok" : "bad"}` }, here + others));
    } catch (error) {
      // Without an answer, and with one that a proxy may have given, the order may have been carried out.
      const isRefused = error.status >= 400 && error.status < 500;
      const outcome = isRefused ? "Nothing was ended" : "It is not known whether anything was ended";
      setText(byId("ending-error"), `${outcome}: ${error.message}.`);
    } finally {
      byId("end").disabled = false;
    }
  };
  dialog.showModal();
}
