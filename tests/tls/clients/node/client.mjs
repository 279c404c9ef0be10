// A client with the npm package `ws`: node client.mjs URL [AUTHORITY]
//
// Trusts only the certificate authority in the PEM file AUTHORITY, or else the authorities that come with Node. Prints
// the header of the welcome, the reply to a heartbeat, and the close code, each on a line. Exits with 1 and the reason
// if the connection fails.
import { readFileSync } from "node:fs";
import { WebSocket } from "ws";

const [url, authority] = process.argv.slice(2);
const heartbeat = Buffer.from("0000000103000000" + "62656174", "hex");

const socket = new WebSocket(url, authority ? { ca: readFileSync(authority) } : {});
socket.on("error", (error) => {
  console.error(error.code ?? error.message);
  process.exit(1);
});
socket.once("message", (welcome) => {
  console.log("welcome", welcome.subarray(0, 8).toString("hex"));
  socket.once("message", (reply) => {
    console.log("reply", reply.toString("hex"));
    socket.close(1000);
  });
  socket.send(heartbeat);
});
socket.on("close", (code) => console.log("closed", code));
