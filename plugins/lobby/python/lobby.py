"""The lobby: clients log in, ask for their user, write to each other, and publish on the bus."""

import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn
from uuid import UUID

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.plugin import Manifest
from wit_world.exports.sessions import Admission, Connection, Denial, Departure
from wit_world.imports import attributes, log, state
from wit_world.imports import types as wit

ROUTE = 0x10
OK, MALFORMED_PAYLOAD, REJECTED, FORBIDDEN, LOBBY = 0, 2, 4, 6, 256

EVERYBODY = 1
"""The group of all sessions."""

SAID = "said"
"""The entry that counts the messages since the last report."""

REPORT = 1
"""The timer for the report of the count. It is set by the first message after a report."""

REPORT_AFTER_MS = 10_000

# The patterns check what int() and UUID() would accept: signs, underscores, digits of other scripts, braces and more.
TOPIC = re.compile(r"[a-z0-9:_-]{1,64}")
USER = re.compile(r"[1-9][0-9]{0,18}")
SESSION = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,16}")


@dataclass(frozen=True)
class Config:
    topic: str
    max_bytes: int
    route: int


class Plugin(exports.Plugin):
    # The configuration is an attribute of the class, since each call gets a new object.
    config: ClassVar[Config]

    def describe(self) -> Manifest:
        return Manifest("lobby", "0.1.0", bytes([ROUTE]), metrics=[], state_format=0, gatekeeper=True)

    def configure(self, settings: str) -> list[str]:
        given = json.loads(settings)
        topic, max_bytes = read_config(given.get("config", {}))
        route = next(iter(given.get("routes", [])), ROUTE)
        Plugin.config = Config(topic, max_bytes, route)
        log.write(log.Level.DEBUG, "lobby configured")
        return [f"{topic}:out"]


class Policy(exports.Policy):
    def on_packet(self, packet: wit.Packet, payload: bytes) -> list[wit.Action]:
        text = decode(payload)
        if packet.user is None:
            return log_in(text)
        match text:
            case "whoami":
                session = UUID(int=packet.session.high << 64 | packet.session.low)
                return [reply(f"user {packet.user}, session {session}")]
            case "ping":
                return [wit.Action_Echo()]
            case "bye":
                return [wit.Action_End(wit.Ending(wit.Target_Sender(), wit.Closing(1000, "bye")))]
            case "status":
                return [reply("lobby", LOBBY)]
            case "crash":
                # Any exception other than Err ends the instance.
                raise RuntimeError("a client asked for it")
        if text.startswith("login "):
            reject(REJECTED, "already logged in")
        words = text.removeprefix("say ") if text.startswith("say ") else ""
        return say(packet.session, packet.user, words) if words else send(packet.user, text)


class Hearing(exports.Hearing):
    def on_message(self, topic: str, payload: bytes, now: int) -> list[wit.Action]:
        try:
            to, text = split(payload.decode())
        except UnicodeDecodeError:
            to, text = "", ""
        if text and (user := parse_user(to)):
            return [deliver(wit.Target_User(user))]
        if text and SESSION.fullmatch(to):
            high, low = divmod(UUID(to).int, 1 << 64)
            return [deliver(wit.Target_Session(wit.SessionId(high, low)))]
        reject(MALFORMED_PAYLOAD, "a message is `USER TEXT` or `SESSION TEXT`")


class Sessions(exports.Sessions):
    def on_connect(self, connection: Connection) -> Admission:
        parameters = connection.query.split("&")
        name = next((text.removeprefix("name=") for text in parameters if text.startswith("name=")), None)
        if name is not None and not NAME.fullmatch(name):
            raise Err(Denial(400, "name: 1 to 16 characters of A-Z a-z 0-9 _ - are allowed"))
        return Admission(
            user=None,
            tag=0,
            attributes=[] if name is None else [("name", name)],
            actions=[wit.Action_Join(wit.Membership(connection.session, EVERYBODY))],
        )

    def on_disconnect(self, departure: Departure) -> list[wit.Action]:
        if departure.user is None:
            return []
        return [deliver(wit.Target_Group(EVERYBODY), f"{departure.user} left")]


class Timers(exports.Timers):
    def on_wake(self, key: int, now: int) -> list[wit.Action]:
        said = messages_said()
        if said is None:
            return []
        report = deliver(wit.Target_Group(EVERYBODY), f"messages: {said}", keep=wit.Keep_Latest(REPORT))
        return [report, put(SAID, None)]


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


def decode(payload: bytes) -> str:
    if not payload:
        reject(MALFORMED_PAYLOAD, "the payload is empty")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        reject(MALFORMED_PAYLOAD, "the payload is not UTF-8")
    if len(payload) > Plugin.config.max_bytes:
        reject(REJECTED, f"more than {Plugin.config.max_bytes} bytes")
    return text


def log_in(text: str) -> list[wit.Action]:
    user = parse_user(text.removeprefix("login ")) if text.startswith("login ") else None
    if user is None:
        reject(FORBIDDEN, "log in first")
    return [wit.Action_Bind(user), reply(f"welcome {user}")]


def say(session: wit.SessionId, user: int, text: str) -> list[wit.Action]:
    """Delivers a text to everybody else, and counts it."""
    name = attributes.get(session, "name") or user
    said = messages_said()
    actions = [
        deliver(wit.Target_Group(EVERYBODY), f"{name}: {text}", except_=session),
        put(SAID, str((said or 0) + 1)),
    ]
    if said is None:
        actions.append(wit.Action_Wake(wit.Alarm(REPORT, REPORT_AFTER_MS)))
    return [*actions, reply("sent")]


def messages_said() -> int | None:
    """Returns the number of messages since the last report, or None if there are none."""
    said = state.get(SAID)
    return None if said is None else int(said)


def send(sender: int, text: str) -> list[wit.Action]:
    """Delivers a text of the form `to USER TEXT` to one user, and publishes any other text on the bus."""
    if text.startswith("to "):
        to, words = split(text.removeprefix("to "))
        if words and (user := parse_user(to)):
            return [deliver(wit.Target_User(user), f"from {sender}: {words}"), reply("sent")]
    return [wit.Action_Publish(wit.Publication(Plugin.config.topic, None))]


def split(text: str) -> tuple[str, str]:
    """Splits the text at its first space. The second part keeps all further spaces."""
    head, _, tail = text.partition(" ")
    return head, tail


def parse_user(text: str) -> int | None:
    user = int(text) if USER.fullmatch(text) else 0
    return user if 1 <= user < 1 << 63 else None


def reply(text: str, status: int = OK) -> wit.Action:
    return wit.Action_Reply(wit.Answer(status, text.encode()))


def deliver(
    to: wit.Target,
    text: str | None = None,
    except_: wit.SessionId | None = None,
    keep: wit.Keep | None = None,
) -> wit.Action:
    """Pushes a text. Without a text, the push is the payload of the call."""
    body = None if text is None else text.encode()
    return wit.Action_Deliver(wit.Delivery(to, except_, Plugin.config.route, body, keep or wit.Keep_Always()))


def put(key: str, text: str | None) -> wit.Action:
    """Writes an entry, or removes it if there is no text."""
    value = None if text is None else text.encode()
    return wit.Action_Put(wit.Entry(key, value, ttl_ms=None))


def reject(status: int, message: str) -> NoReturn:
    raise Err(wit.Rejection(status, message))
