// The connection of the playground: what goes over it, and why there is none.

import { ask, isOperator, metricsText } from "./api.js";
import { connect } from "./client/index.ts";
import { Sample } from "./metrics.js";
import { HANDSHAKES } from "./reasons.js";

const REFUSED = "gateway_handshakes_refused_total";
const RESUME_PARAMETERS = ["resume", "seen", "replies"];

/** What mends the most frequent reasons of a refusal. */
const REMEDIES = {
  origin: () =>
    `server.allowed_origins in gateway.yaml does not list this page. Add "${location.origin}" to the list, and restart the gateway.`,
  denied: () =>
    "it takes only players with a valid JSON Web Token (the section auth in gateway.yaml). Enter one above.",
  tls_failed: () => "the TLS handshake failed. The browser has to trust the certificate of server.tls.",
  tls_required: () => "it speaks TLS. Use wss:// instead of ws://.",
  not_http: () => "it speaks no TLS. Use ws:// instead of wss://.",
  not_found: () => "the path of a gateway is /ws.",
};

/** Returns the URL of the gateway that serves this page, as far as the page may know. */
export async function ownUrl() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const fallback = `${scheme}://${location.hostname}:8080/ws`;
  try {
    if (!(await isOperator())) return fallback;
    const { websocket } = await ask("/api/gateway");
    const [, host, port] = /^(.*):(\d+)$/.exec(websocket.address);
    const isAny = host === "0.0.0.0" || host === "[::]" || host.startsWith("127.");
    return `${websocket.tls ? "wss" : scheme}://${isAny ? location.hostname : host}:${port}${websocket.path}`;
  } catch {
    return fallback;
  }
}

/**
 * Begins a session. `tap` gets the bytes of each packet with its direction. Returns the session, and what cuts its
 * connection as a network would.
 */
export function begin({ url, token, resumes, tap }) {
  let current;
  class Tapped extends WebSocket {
    constructor(url, protocols) {
      const target = new URL(url);
      if (!resumes()) for (const name of RESUME_PARAMETERS) target.searchParams.delete(name);
      super(target, protocols);
      current = this;
      this.addEventListener("message", ({ data }) => data instanceof ArrayBuffer && tap("in", new Uint8Array(data)));
    }

    send(packet) {
      tap("out", packet);
      super.send(packet);
    }
  }
  const session = connect({ url, token: token || undefined, WebSocket: Tapped });
  const cut = () => {
    // The client sees a connection that breaks. The code tells the gateway that the client comes back.
    current.dispatchEvent(new CloseEvent("close", { code: 1006 }));
    current.close(4000);
  };
  return { session, cut };
}

/** Returns how often the gateway has refused a handshake by reason, if this page may know that. */
export async function refusals() {
  try {
    return (await isOperator()) ? new Sample(await metricsText(), 0).by(REFUSED, "reason") : null;
  } catch {
    return null;
  }
}

/**
 * Says in plain words why a connection failed. A browser hides the reason from pages, but the gateway counts it. `before`
 * are the refusals before the attempt.
 */
export async function explain(url, before) {
  const after = before && (await refusals());
  const reason = after && [...after].find(([name, total]) => total > (before.get(name) ?? 0))?.[0];
  if (reason) return `The gateway refused the connection: ${REMEDIES[reason]?.() ?? `${HANDSHAKES[reason]}.`}`;
  if (after) {
    return `Nothing answers at ${url}, or another server does: this gateway has seen no connection. Compare the address with server.host and server.port in gateway.yaml.`;
  }
  return (
    `There is no connection to ${url}, and browsers hide the reason. Either no gateway listens there; or it refuses web pages of ` +
    `${location.origin} (add this to server.allowed_origins in gateway.yaml); or it wants a token. Sign in on the dashboard, and this page can say which.`
  );
}
