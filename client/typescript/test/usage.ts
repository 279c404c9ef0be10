// What a game may write. The build checks the types, and nothing runs it.
import { ClosedError, LostError, Route, Status, StatusError, connect, decodeChat, encodeChatRequest } from "@gateway/client";
import type { Session, Welcome } from "@gateway/client";

const session: Session = connect({ url: "wss://game.example/ws", WebSocket, token: async () => "T" });
const welcome: Welcome = await session.opened;
const stop: () => void = session.on("push", ({ route, payload }) => {
  const message = route === Route.chat ? decodeChat(payload) : undefined;
  if (message?.kind === "broadcast") show(message.messageId, message.senderName);
});
session.on("closed", ({ code }) => show(code satisfies number | undefined, welcome.sessionId));
// @ts-expect-error: there is no such event
session.on("open", () => {});
// @ts-expect-error: a push has no such field
session.on("push", ({ text }) => show(0n, text));
try {
  const reply: Uint8Array = await session.request(Route.game, "move", { signal: AbortSignal.timeout(5000) });
  show(reply.length, `${await session.ping()} ms`);
} catch (error) {
  if (error instanceof StatusError && error.status === Status.rejected) show(error.route, error.text);
  if (error instanceof LostError || error instanceof ClosedError) show(0, error.message);
}
const seq: number = session.send(Route.chat, encodeChatRequest({ gameId: "mmo", userId: 1, content: "hello" }));
show(seq, session.id);
stop();
session.wake();
session.close();

function show(number: bigint | number | undefined, text: string): void {
  console.log(number, text);
}
