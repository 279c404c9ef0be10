"""A policy that answers each packet with a greeting."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import policy as wit

ROUTE = {{route}}
OK, MALFORMED_PAYLOAD = 0, 2


class Policy(exports.Policy):
    def describe(self) -> wit.Manifest:
        return wit.Manifest("{{name}}", "0.1.0", bytes([ROUTE]))

    def configure(self, settings: str) -> list[str]:
        return []

    def on_packet(self, packet: wit.Packet, payload: bytes) -> list[wit.Action]:
        if not payload:
            raise Err(wit.Rejection(MALFORMED_PAYLOAD, "the payload is empty"))
        return [wit.Action_Reply(wit.Answer(OK, b"hello, " + payload))]

    def on_message(self, topic: str, payload: bytes) -> list[wit.Action]:
        return []
