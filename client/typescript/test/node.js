// The client of the tests in Node: node node.js ORIGIN. It uses the global WebSocket if there is one, and otherwise
// that of the npm package `ws`.
import * as gateway from "@gateway/client";
import { WebSocket } from "ws";
import { obey } from "./agent.js";

await obey(process.argv[2], gateway, globalThis.WebSocket ? {} : { WebSocket });
process.exit();
