// The chat: requests to the backend of a game, its answers, and the messages of other users.

import { MessageType, Route, decodeChat, encodeChatRequest } from "./client/index.ts";
import { byId, clock, el, setText } from "./dom.js";

const MOST = 100;

/** Makes the chat. `enter` returns the session of the page, and connects first if there is none. */
export function startChat(enter) {
  const lines = byId("chat-lines");
  const sent = new Map();
  let joined = false;
  byId("chat-user").value = 1 + Math.floor(Math.random() * 999);

  function say(who, text, status = "") {
    const line = el(
      "li",
      { "data-status": status },
      el("span", { class: "who" }, who),
      el("span", {}, text),
      el("time", {}, clock(Date.now())),
    );
    lines.append(line);
    while (lines.childElementCount > MOST) lines.firstChild.remove();
    byId("chat-empty").hidden = true;
    lines.scrollTop = lines.scrollHeight;
  }

  function setJoined(value) {
    joined = value;
    setText(byId("chat-send"), joined ? "Send" : "Join");
  }

  byId("chat").addEventListener("submit", async (event) => {
    event.preventDefault();
    const [game, user, to] = [byId("chat-game").value, Number(byId("chat-user").value), Number(byId("chat-to").value)];
    const text = byId("chat-text").value;
    let session;
    try {
      session = await enter();
    } catch {
      // The card of the connection says why.
      return;
    }
    const content = text || "joined";
    const seq = session.send(
      Route.chat,
      encodeChatRequest({
        gameId: game,
        userId: user,
        timestamp: Date.now(),
        receiverId: to,
        type: MessageType.text,
        content,
        meta: { sessionId: session.id },
      }),
    );
    sent.set(seq, text);
    if (text) say(to ? `you to ${to}` : "you", text, "mine");
    byId("chat-text").value = "";
    byId("chat-text").focus();
  });

  return {
    received(payload) {
      const message = decodeChat(payload);
      if (!message) return say("?", "a push on route 1 that is no message of chat", "bad");
      if (message.kind === "broadcast") {
        if (!byId("chat-to").value) byId("chat-to").value = message.senderId;
        return say(message.senderName || `user ${message.senderId}`, message.content, "theirs");
      }
      if (!message.success) return say("backend", message.errorMessage || "the backend refused the request", "bad");
      if (!joined)
        say(
          "gateway",
          `This session belongs to user ${message.targetUserId} now. Others can write to this number.`,
          "info",
        );
      setJoined(true);
    },
    refused({ seq, error }) {
      if (!sent.delete(seq)) return;
      say("refused", error.message, "bad");
    },
    renewed() {
      setJoined(false);
      sent.clear();
    },
  };
}
