// The client of the gateway for browsers and Node. README.md explains how it is used.

export { connect, Session } from "./session.ts";
export type { ConnectOptions, Push, RequestOptions, SessionEvents, TokenSource } from "./session.ts";
export type { Socket, SocketConstructor } from "./link.ts";
export type { Welcome } from "./messages.ts";
export { Route, Status } from "./packet.ts";
export { ClosedError, LostError, StatusError } from "./errors.ts";
export { MessageType, decodeChat, encodeChatRequest } from "./chat.ts";
export type { ChatRequest, ChatResponse, MessageBase, MessageBroadcast, MessageMeta } from "./chat.ts";
