// A client that obeys a test: it asks the test's server for a command, carries it out and reports the outcome, until
// the test ends it. tests/clients/agent.rs is the other side.

/** Obeys the test at this origin. `gateway` is what the package exports, and `options` are those of each session. */
export async function obey(origin, gateway, options = {}) {
  const agent = new Agent(gateway, options);
  for (let outcome = {}; ; ) {
    const response = await fetch(`${origin}/next`, { method: "POST", body: JSON.stringify(outcome) });
    const command = await response.json();
    if (command.do === "end") return;
    try {
      outcome = (await agent[command.do](command)) ?? {};
    } catch (error) {
      outcome = described(error);
    }
  }
}

class Agent {
  #gateway;
  #options;
  /** The sessions by name, each with the log of what has happened in it. */
  #sessions = new Map();

  constructor(gateway, options) {
    this.#gateway = gateway;
    this.#options = options;
  }

  connect({ session: name, url, token, tokens, protocols, heartbeat_ms: heartbeatMs }) {
    // A list of tokens stands for a function that returns one after the other.
    const source = tokens ? async () => (tokens.length > 1 ? tokens.shift() : tokens[0]) : token;
    const session = this.#gateway.connect({ ...this.#options, url, token: source, protocols, heartbeatMs });
    const log = [];
    this.#sessions.set(name, { session, log });
    const record = (event, fields) => log.push({ event, ...fields });
    session.on("push", ({ route, payload, number }) =>
      record("push", { route, number, ...this.#content(route, payload) }),
    );
    session.on("refused", ({ seq, error }) => record("refused", { seq, ...described(error) }));
    session.on("closed", (error) => record("closed", described(error)));
    for (const event of ["welcome", "resumed", "newSession", "gap", "reconnecting", "tokenExpires"]) {
      session.on(event, (fields) => record(event, fields));
    }
  }

  #content(route, payload) {
    const chat = route === this.#gateway.Route.chat ? this.#gateway.decodeChat(payload) : undefined;
    if (!chat) return { text: new TextDecoder().decode(payload) };
    return { chat: { ...chat, messageId: `${chat.messageId}` } };
  }

  log({ session: name }) {
    const { session, log } = this.#sessions.get(name);
    return { id: session.id, isConnected: session.isConnected, log };
  }

  send({ session: name, route, text }) {
    return { seq: this.#sessions.get(name).session.send(route, text) };
  }

  chat({ session: name, request }) {
    const { Route, encodeChatRequest } = this.#gateway;
    return { seq: this.#sessions.get(name).session.send(Route.chat, encodeChatRequest(request)) };
  }

  /** Only the log says how it has ended, since the connection may break before the reply. */
  request({ session: name, route, text }) {
    const { session, log } = this.#sessions.get(name);
    session.request(route, text).then(
      (reply) => log.push({ event: "reply", to: text, text: new TextDecoder().decode(reply) }),
      (error) => log.push({ event: "reply", to: text, ...described(error) }),
    );
  }

  async ping({ session: name }) {
    return { ms: await this.#sessions.get(name).session.ping() };
  }

  refresh({ session: name, token }) {
    return this.#sessions.get(name).session.refresh(token);
  }

  wake({ session: name }) {
    this.#sessions.get(name).session.wake();
  }

  close({ session: name }) {
    this.#sessions.get(name).session.close();
  }
}

function described(error) {
  const { name, message, code, status, text } = error;
  return { error: name, message, code, status, text };
}
