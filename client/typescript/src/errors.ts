// What can go wrong with a request.

import { Status } from "./packet.ts";

/** The gateway or a plugin has refused the packet. The session goes on. */
export class StatusError extends Error {
  override readonly name = "StatusError";
  readonly route: number;
  /** One of `Status`, or a number from 256 on that the game defines. */
  readonly status: number;
  /** The reason, in the words of the gateway or the plugin. */
  readonly text: string;

  constructor(route: number, status: number, text: string) {
    super(`status ${status} ${statusName(status)} on route ${route}: ${text}`);
    this.route = route;
    this.status = status;
    this.text = text;
  }
}

/**
 * There was no reply after a break of the connection. Either the gateway has never received the packet, or the reply was
 * lost, or it comes so late that nobody waits for it any more. The session goes on, or a new one has begun.
 */
export class LostError extends Error {
  override readonly name = "LostError";
}

/** The session is over, and the client does not come back by itself. */
export class ClosedError extends Error {
  override readonly name = "ClosedError";
  /** The close code of the gateway, 1000 if the application has closed the session, or `undefined` without a code. */
  readonly code: number | undefined;

  constructor(message: string, code?: number) {
    super(message);
    this.code = code;
  }
}

function statusName(status: number): string {
  const name = Object.entries(Status).find(([, number]) => number === status)?.[0];
  return name ? name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`) : "(the game's own)";
}
