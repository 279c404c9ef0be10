"""The lobby: clients log in, ask for their user, write to each other, and publish on the bus."""

import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn
from uuid import UUID

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import policy as wit
from wit_world.imports import log

ROUTE = 0x10
OK, MALFORMED_PAYLOAD, REJECTED, FORBIDDEN, LOBBY = 0, 2, 4, 6, 256

# The patterns check what int() and UUID() would accept: signs, underscores, digits of other scripts, braces and more.
TOPIC = re.compile(r"[a-z0-9:_-]{1,64}")
USER = re.compile(r"[1-9][0-9]{0,9}")
SESSION = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True)
class Config:
    topic: str
    max_bytes: int
    route: int


class Policy(exports.Policy):
    # The configuration is an attribute of the class, since each call gets a new object.
    config: ClassVar[Config]

    def describe(self) -> wit.Manifest:
        return wit.Manifest("lobby", "0.1.0", bytes([ROUTE]))

    def configure(self, settings: str) -> list[str]:
        given = json.loads(settings)
        topic, max_bytes = read_config(given.get("config", {}))
        route = next(iter(given.get("routes", [])), ROUTE)
        Policy.config = Config(topic, max_bytes, route)
        log.write(log.Level.DEBUG, "lobby configured")
        return [f"{topic}:out"]

    def on_packet(self, packet: wit.Packet, payload: bytes) -> list[wit.Action]:
        text = self.decode(payload)
        if packet.user is None:
            return log_in(text)
        match text:
            case "whoami":
                session = UUID(int=packet.session.high << 64 | packet.session.low)
                return [reply(f"user {packet.user}, session {session}")]
            case "ping":
                return [wit.Action_Echo()]
            case "bye":
                return [wit.Action_Close(wit.Closing(1000, "bye"))]
            case "status":
                return [reply("lobby", LOBBY)]
            case "crash":
                # Any exception other than Err ends the instance.
                raise RuntimeError("a client asked for it")
        if text.startswith("login "):
            reject(REJECTED, "already logged in")
        return self.say(packet.user, text)

    def on_message(self, topic: str, payload: bytes) -> list[wit.Action]:
        try:
            to, text = split(payload.decode())
        except UnicodeDecodeError:
            to, text = "", ""
        if text and (user := parse_user(to)):
            return [self.deliver(wit.Target_User(user))]
        if text and SESSION.fullmatch(to):
            high, low = divmod(UUID(to).int, 1 << 64)
            return [self.deliver(wit.Target_Session(wit.SessionId(high, low)))]
        reject(MALFORMED_PAYLOAD, "a message is `USER TEXT` or `SESSION TEXT`")

    def decode(self, payload: bytes) -> str:
        if not payload:
            reject(MALFORMED_PAYLOAD, "the payload is empty")
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            reject(MALFORMED_PAYLOAD, "the payload is not UTF-8")
        if len(payload) > self.config.max_bytes:
            reject(REJECTED, f"more than {self.config.max_bytes} bytes")
        return text

    def say(self, sender: int, text: str) -> list[wit.Action]:
        """Delivers a text of the form `to USER TEXT` to one user, and publishes any other text on the bus."""
        if text.startswith("to "):
            to, words = split(text.removeprefix("to "))
            if words and (user := parse_user(to)):
                body = f"from {sender}: {words}".encode()
                return [self.deliver(wit.Target_User(user), body), reply("sent")]
        return [wit.Action_Publish(wit.Publication(self.config.topic, None))]

    def deliver(self, to: wit.Target, body: bytes | None = None) -> wit.Action:
        return wit.Action_Deliver(wit.Delivery(to, self.config.route, body))


def read_config(config: dict[str, Any]) -> tuple[str, int]:
    for key in config:
        if key not in ("topic", "max_bytes"):
            raise Err(f"config.{key}: unknown key (known: topic, max_bytes)")
    topic = config.get("topic", "lobby")
    if not isinstance(topic, str) or not TOPIC.fullmatch(topic):
        raise Err("config.topic: 1 to 64 characters of a-z 0-9 : _ - are allowed")
    max_bytes = config.get("max_bytes", 64)
    # isinstance would accept True, since bool is a subclass of int.
    if type(max_bytes) is not int or not 1 <= max_bytes <= 65536:
        raise Err("config.max_bytes: 1 to 65536 is allowed")
    return topic, max_bytes


def log_in(text: str) -> list[wit.Action]:
    user = parse_user(text.removeprefix("login ")) if text.startswith("login ") else None
    if user is None:
        reject(FORBIDDEN, "log in first")
    return [wit.Action_Bind(user), reply(f"welcome {user}")]


def split(text: str) -> tuple[str, str]:
    """Splits the text at its first space. The second part keeps all further spaces."""
    head, _, tail = text.partition(" ")
    return head, tail


def parse_user(text: str) -> int | None:
    user = int(text) if USER.fullmatch(text) else 0
    return user if 1 <= user <= 2_147_483_647 else None


def reply(text: str, status: int = OK) -> wit.Action:
    return wit.Action_Reply(wit.Answer(status, text.encode()))


def reject(status: int, message: str) -> NoReturn:
    raise Err(wit.Rejection(status, message))
