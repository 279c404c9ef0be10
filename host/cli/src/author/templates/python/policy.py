"""A policy that answers each packet with a greeting.

Each class is an interface of wit/policy.wit. With the world `game` in the Makefile, write three more of them: `Hearing`
for bus messages, `Sessions` for the beginning and the end of sessions, and `Timers`.
"""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.plugin import Manifest
from wit_world.imports import types as wit

ROUTE = {{route}}
OK, MALFORMED_PAYLOAD = 0, 2


class Plugin(exports.Plugin):
    def describe(self) -> Manifest:
        return Manifest("{{name}}", "0.1.0", bytes([ROUTE]), metrics=[], state_format=0, gatekeeper=True)

    def configure(self, settings: str) -> list[str]:
        return []


class Policy(exports.Policy):
    def on_packet(self, packet: wit.Packet, payload: bytes) -> list[wit.Action]:
        if not payload:
            raise Err(wit.Rejection(MALFORMED_PAYLOAD, "the payload is empty"))
        # Other actions push a message to a group (`Deliver`), add a session to a group (`Join`), set a timer (`Wake`)
        # and write state (`Put`). `wit_world.imports.state.get` reads state.
        return [wit.Action_Reply(wit.Answer(OK, b"hello, " + payload))]
