# What a client knows about its session, and what it does when a connection ends.
#
# Nothing in here does I/O, reads a clock or draws a random number. Times are parameters in milliseconds, and a delay is
# a range in which the caller draws. docs/protocol.md explains the decisions ("Reconnect and resume"), and
# client/vectors/reconnect.json lists them.
extends Reference

const Packet = preload("packet.gd")
const Sent = preload("sent.gd")

# The longest delay before the second attempt, which doubles with each attempt that follows, and before any attempt.
const BASE_MS = 500
const CAP_MS = 30000

# The time after its welcome at which a connection counts as good, so that the delays begin anew.
const LIVED_MS = 10000

# The least delay after code 1009. Nothing becomes better if the client comes back at once.
const SLOW_MS = 10000

# The longest time that a server can make the client wait.
const MAX_WAIT_MS = 3600000

# The number of connections in a row without a welcome after which the server is no gateway.
const MAX_WITHOUT_WELCOME = 5

# The number of failed attempts in a row at the URL of a Reconnect after which the client goes back to its own.
const MAX_FAILURES_ELSEWHERE = 4

# The number of resumed connections in a row that end in silence and have brought nothing but their welcome, after which
# the session is given up.
const MAX_MUTE_RESUMES = 2

# The longest resume token. A URL has to have an end.
const MAX_TOKEN_BYTES = 1024

const TOKEN_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"

# How a connection ended, or why an attempt gave none: the entry `kind` of a dictionary. CLOSED has the entry `code`,
# which is null for a close frame without one.
const CLOSED = "closed"
const LOST = "lost"
const SILENT = "silent"
const UNREACHABLE = "unreachable"
# The entries are `status` and `retry_after_ms`. Godot does not tell the HTTP status, so its refusals are UNREACHABLE.
const REFUSED = "refused"
const NO_WELCOME = "no_welcome"
const NO_GATEWAY = "no_gateway"

var sent = Sent.new()
# The URL that the user has chosen, and the URL of the next connection.
var _own
var _url
# The resume token of the last welcome, or "".
var _token = ""
# Whether there was a welcome at all, and whether the present connection has got its welcome.
var _has_begun = false
var _is_welcome = false
# The number of connections and attempts in a row of which none has lived, of those that have failed at the present URL,
# and of connections that ended without a welcome.
var _failures = 0
var _failures_here = 0
var _without_welcome = 0
# Whether the present connection has resumed the session and has brought nothing since, and the number of those in a row
# that ended so, in silence.
var _is_mute = false
var _mute_resumes = 0
# The delivery number of the last push, or 0, and the number of replies.
var _seen = 0
var _replies = 0


func _init(url: String):
	_own = _parse(url)
	_url = _own


# Whether the URL of the user is one of a WebSocket.
func is_valid() -> bool:
	return _own != null


# The URL to connect to, with what resumes the session if it can be resumed.
func url() -> String:
	if _token == "":
		return _text(_url)
	var query = "resume=%s&seen=%d&replies=%d" % [_token, _seen, _replies]
	var longer = _url.duplicate()
	longer.query = "?" + query if _url.query in ["", "?"] else _url.query + "&" + query
	return _text(longer)


# Takes note of the welcome of a connection. Returns `resumed` and `lost`, which is the number of packets that were not
# received and are not sent again. If the session goes on, also `resent` and `replies_lost`. If it is new, also `seen`, the
# number of the last push of the old one.
func welcome(welcome: Dictionary) -> Dictionary:
	# A gateway cannot resume a session that nobody has asked for.
	var resumed = welcome.resumed and _token != ""
	var token: String = welcome.resume_token
	_token = token if _is_token(token) else ""
	var had_begun = _has_begun
	_has_begun = true
	_is_welcome = true
	_failures_here = 0
	_without_welcome = 0
	_is_mute = resumed
	if resumed:
		var lost = sent.resume(welcome.packets_received)
		return {"resumed": true, "resent": sent.waiting(), "lost": lost, "replies_lost": welcome.replies_lost}
	_mute_resumes = 0
	var seen = _seen
	_seen = 0
	_replies = 0
	# The first session gets the packets that have waited for it.
	return {"resumed": false, "seen": seen, "lost": sent.restart() if had_begun else sent.resume(0)}


# Counts a packet of the gateway. Returns the number of pushes that are missing before it, or -1 if it has come before:
# then the application must not get it.
func receive(packet: Dictionary) -> int:
	_is_mute = false
	_mute_resumes = 0
	if packet.flags & Packet.FLAG_REPLY:
		_replies += 1
		return 0
	# The welcome and the pushes of the control route have no number.
	var number: int = packet.seq
	if number == 0:
		return 0
	# The numbers wrap around, so half of them are after any number (RFC 1982).
	var distance = number - _seen & 0xffffffff
	if _seen != 0 and (distance == 0 or distance >= 0x80000000):
		return -1
	# After 4294967295 comes 1.
	var missing = distance - (2 if number < _seen else 1)
	_seen = number
	return missing


# The next packet to write to the present connection, with the newest acknowledgement, or null.
func next_packet():
	var packet = sent.unwritten()
	if packet == null or _seen == 0:
		return packet
	packet = packet.duplicate()
	# The low 16 bits are enough: far fewer pushes than that wait for an acknowledgement.
	packet.flags = Packet.FLAG_ACK
	packet.status = _seen & 0xffff
	return packet


# Takes note of a Reconnect. Returns the time after which the client has to leave the connection.
func leave_after(url: String, after_ms: int) -> int:
	var next = _parse(url)
	# A URL that cannot be used is as good as none. Without TLS, everybody on the way would read the tokens.
	if next != null and not (_url.scheme == "wss" and next.scheme == "ws"):
		if next.query == "":
			next.query = _url.query
		_url = next
	return int(clamp(after_ms, 0, MAX_WAIT_MS))


# Returns the range of the delay before the next connection when the client has left because of a Reconnect.
func left(lived_ms: int) -> Array:
	_is_welcome = false
	sent.end()
	var delay = _backoff(0, lived_ms)
	# The gateway has chosen the moment. It only must not be able to make the client turn in a circle.
	return [0, 0] if lived_ms >= LIVED_MS else delay


# Decides what to do after the end of a connection or of an attempt, which has lived since its welcome. Returns "stop",
# "renew_token", which is to connect at once with a new token, and to stop without one, or the range of the delay.
func end(end: Dictionary, lived_ms: int):
	# If there has never been a gateway, the application has to know at once.
	if not _has_begun:
		return "stop"
	sent.end()
	# Probably one of the packets was too large. It would be too large again.
	if end.kind == CLOSED and end.code == 1009:
		sent.give_up()
	var is_attempt = not _is_welcome
	_is_welcome = false
	var is_refusal = end.kind in [REFUSED, NO_GATEWAY]
	if is_attempt:
		_failures_here += 1
		if not is_refusal and end.kind != UNREACHABLE:
			_without_welcome += 1
	elif _is_mute:
		# Godot's WebSocket reads nothing any more after a message that is too large for it, and tells nobody. The gateway
		# would send this message again after each resume.
		_mute_resumes = _mute_resumes + 1 if end.kind == SILENT else 0
		if _mute_resumes == MAX_MUTE_RESUMES:
			_token = ""
	var verdict = _verdict(end)
	var is_never = verdict is String and verdict == "never"
	var is_no_gateway = _without_welcome >= MAX_WITHOUT_WELCOME or is_refusal and is_never
	var is_hopeless_here = is_no_gateway or _failures_here >= MAX_FAILURES_ELSEWHERE
	if verdict is String and verdict == "renew_token":
		return verdict
	if is_never and not is_refusal:
		return "stop"
	if is_attempt and is_hopeless_here and _text(_url) != _text(_own):
		_url = _own
		_failures_here = 0
		_without_welcome = 0
		return _backoff(0, lived_ms)
	return "stop" if is_never or is_no_gateway else _backoff(verdict, lived_ms)


# Exponential backoff with full jitter, on top of the least delay that was asked for.
func _backoff(at_least_ms: int, lived_ms: int) -> Array:
	if lived_ms >= LIVED_MS:
		_failures = 0
	var ceiling = int(min(BASE_MS << int(min(_failures, 16)), CAP_MS))
	_failures += 1
	return [at_least_ms, at_least_ms + ceiling]


# What an end alone means: the time before which the client does not connect again, "renew_token", or "never".
func _verdict(end: Dictionary):
	if end.kind == NO_GATEWAY:
		return "never"
	if end.kind == REFUSED:
		var is_busy = end.status == 429 or end.status >= 500 and end.status <= 599
		return int(min(end.retry_after_ms, MAX_WAIT_MS)) if is_busy else "never"
	if end.kind != CLOSED or end.code == null:
		return 0
	if end.code == 1009:
		return SLOW_MS
	if end.code == 4001:
		return "renew_token"
	return "never" if end.code in [1000, 1002, 1003, 1007, 1008] or end.code >= 3000 and end.code <= 4999 else 0


# Whether a text can stand in a URL as it is.
func _is_token(text: String) -> bool:
	for character in text:
		if not character in TOKEN_CHARACTERS:
			return false
	return text.length() <= MAX_TOKEN_BYTES


# Returns the parts of a URL, or null if it is none of a WebSocket.
func _parse(url: String):
	for character in url:
		if ord(character) <= 0x20:
			return null
	var scheme = url.split("://")[0].to_lower()
	if not scheme in ["ws", "wss"] or not "://" in url:
		return null
	var rest = url.substr(scheme.length() + 3).split("#")[0]
	var query = rest.substr(rest.find("?")) if "?" in rest else ""
	rest = rest.split("?")[0]
	var path = rest.substr(rest.find("/")) if "/" in rest else "/"
	var authority = rest.split("/")[0]
	if authority == "" or authority.begins_with(":"):
		return null
	return {"scheme": scheme, "authority": authority, "path": path, "query": query}


func _text(url: Dictionary) -> String:
	return "%s://%s%s%s" % [url.scheme, url.authority, url.path, url.query]
