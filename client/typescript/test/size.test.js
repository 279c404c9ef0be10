import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { gzipSync } from "node:zlib";

test("the client is smaller than 8 KB when it is compressed", () => {
  const bytes = gzipSync(readFileSync(new URL("../gateway-client.min.js", import.meta.url)), { level: 9 }).length;
  assert.ok(bytes < 8 * 1024, `${bytes} bytes`);
});

test("the client has no dependencies", () => {
  const { dependencies, peerDependencies } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url)));
  assert.deepEqual([dependencies, peerDependencies], [undefined, undefined]);
});
