# A session with a gateway. It survives its connections: if one breaks, the session goes on over another one. README.md
# explains how it is used. The node has to be in the tree of the scene.
extends Node

# A connection has got its welcome: the first one, and each that follows a break.
signal welcome(welcome)
# A message that the client did not ask for: `route`, `payload`, `number` and `replaced`.
signal push(push)
# The session goes on over a new connection: `away_ms`, `resent`, `lost` and `replies_lost`.
signal resumed(info)
# The session could not be kept, and a new one has begun: `away_ms`, `lost`, and `seen`, the last push of the old one. Fetch
# the state of your game again.
signal new_session(info)
# Messages were lost, and do not come again: so many `pushes`, or an unknown number in `blind_ms`.
signal gap(info)
# There is no connection. The next attempt begins after `delay_ms`. `why` says what has happened.
signal reconnecting(info)
# The gateway has refused a packet of `send`, which has returned this seq.
signal refused(seq, error)
# The token expires. Call `refresh`, unless `token` is a FuncRef.
signal token_expires(in_ms)
# The session is over. Nothing follows.
signal closed(error)

const Link = preload("link.gd")
const Messages = preload("messages.gd")
const Packet = preload("packet.gd")
const Reply = preload("reply.gd")
const State = preload("state.gd")
const Upgrade = preload("upgrade.gd")

# The most packets of which is remembered that nobody waits for their replies.
const MAX_UNWANTED = 256

# The token: a String, or a FuncRef of a function that returns the newest one.
var token = ""
# The subprotocols to offer.
var protocols = PoolStringArray()
# The time between two heartbeats in milliseconds.
var heartbeat_ms = 25000
# The largest message in KiB, of the gateway and of this client. Godot reserves this memory twice for each connection. A
# session that gets a larger push is lost.
var max_message_kb = 1024
# The id of the session, which is empty before the first welcome. It changes when a new session begins.
var id = ""
# The error of a session that is over, or null.
var over = null
var _state = null
var _link = null
# The connections of sessions that were closed, until they are gone.
var _closing = []
# The replies that have not come yet, by the seq of their packets.
var _pending = {}
# The seqs of packets whose replies nobody waits for, the oldest first. Their refusals are no signals.
var _unwanted = []
# The seqs of packets that only find out whether older replies were lost.
var _barriers = []
var _used_token = ""
# The moment of the next attempt, and the moment at which the client leaves its connection, or -1.
var _connects_at = -1
var _leaves_at = -1
# The moment before which the next attempt must not begin.
var _not_before = 0
var _lost_at = 0


func _init():
	# A game that is paused stays in its session.
	pause_mode = PAUSE_MODE_PROCESS


# Begins the session with the gateway at this URL. Call it once.
func begin(url: String) -> void:
	randomize()
	_state = State.new(url)
	if _state.is_valid():
		_connect()
	else:
		call_deferred("_close", "the URL %s does not have the form ws://HOST:PORT/ws" % url, null)


# Whether there is a connection now.
func is_connected_to_gateway() -> bool:
	return _link != null and _link.welcomed_at >= 0


# Sends a packet, and returns its seq, or -1 if the session is over or the packet is larger than `max_message_kb`.
# `payload` is a PoolByteArray, or a String that is sent as UTF-8. Without a connection, the packet waits for the next one
# of this session.
func send(route: int, payload) -> int:
	var bytes: PoolByteArray = payload.to_utf8() if payload is String else payload
	# Godot might never take it, and everything behind it would wait.
	if over != null or Packet.HEADER_BYTES + bytes.size() > max_message_kb * 1024:
		return -1
	var seq = _state.sent.push(route, bytes)
	_write()
	return seq


# Sends a packet. Its result comes with the signal `completed` of what is returned:
#     var result = yield(session.request(9, "hi"), "completed")
# result[0] is the payload of the reply, or null, and result[1] is the error, or null.
func request(route: int, payload) -> Reply:
	var reply = Reply.new()
	var seq = send(route, payload)
	if seq < 0:
		var error = _error("too_large", "the packet has more than max_message_kb, %d KiB" % max_message_kb)
		_fail_later(reply, error if over == null else over)
	else:
		_pending[seq] = reply
	return reply


# Replaces the token of the session by a newer one of the same user. The result comes as that of `request`.
func refresh(newer: String) -> Reply:
	var reply = request(Packet.ROUTE_CONTROL, Messages.encode_refresh(newer))
	reply.connect("completed", self, "_on_refreshed", [newer])
	return reply


# Sends a chat request, and returns its seq. The answers of the backend are pushes on the route of chat.
func chat(fields: Dictionary) -> int:
	return send(Packet.ROUTE_CHAT, Messages.encode_chat_request(fields))


# Says that the network may have changed, or that the player is back. While the session waits for its next attempt, it
# connects at once, but never earlier than the gateway has asked for. A connection has to prove that it lives: if nothing
# comes within 5 seconds, it is cut, and the session goes on over another one.
func wake() -> void:
	if _connects_at >= 0:
		_connects_at = _not_before
	elif _link != null:
		_link.check()


# Ends the session, after the packets that were sent over the present connection.
func close() -> void:
	if _link != null:
		_link.close()
		_closing.append(_link)
	_close("the application has closed the session", 1000)


func _process(_delta: float) -> void:
	var now = OS.get_ticks_msec()
	for link in _closing.duplicate():
		link.poll()
		if link.is_gone:
			_closing.erase(link)
	if _link != null:
		_write()
		_link.poll()
	if _leaves_at >= 0 and now >= _leaves_at and _link != null:
		_leaves_at = -1
		_link.leave()
	if _connects_at >= 0 and now >= _connects_at:
		_connects_at = -1
		_connect()


func _connect() -> void:
	_used_token = _newest_token()
	# The function may have closed the session.
	if over != null:
		return
	_link = _new_link()
	# The link holds what is bound to its signals. If it held itself, nothing would ever free it and its socket.
	var link_id = _link.get_instance_id()
	_link.connect("received", self, "_on_received", [link_id])
	_link.connect("ended", self, "_on_ended", [link_id])
	_link.connect("beat", self, "_on_beat")
	var upgrade = Upgrade.with_token(_state.url(), protocols, _used_token, not OS.has_feature("HTML5"))
	_link.open(upgrade[0], upgrade[1], upgrade[2], max_message_kb)


# The tests replace it.
func _new_link():
	return Link.new()


func _newest_token() -> String:
	return token.call_func() if token is FuncRef else token


# Whether this is the present connection, and not one that the session has given up.
func _is_present(link_id: int) -> bool:
	return _link != null and _link.get_instance_id() == link_id


func _on_received(message, link_id: int) -> void:
	if not _is_present(link_id):
		return
	if _link.welcomed_at < 0:
		_begin_connection(message)
		return
	if message == null or message.size() < Packet.HEADER_BYTES:
		return
	var packet = Packet.decode(message)
	var missing = _state.receive(packet)
	if missing < 0:
		return
	if packet.flags & Packet.FLAG_REPLY:
		_on_reply(packet)
	elif packet.route == Packet.ROUTE_CONTROL:
		_on_control(Messages.decode_control(packet.payload))
	else:
		if missing > 0:
			emit_signal("gap", {"pushes": missing, "blind_ms": 0})
			if over != null:
				return
		var replaced = packet.flags & Packet.FLAG_REPLACES != 0
		var push = {"route": packet.route, "payload": packet.payload, "number": packet.seq, "replaced": replaced}
		emit_signal("push", push)


# Begins or goes on with the session, as the first message of a connection says.
func _begin_connection(message) -> void:
	var welcome = _welcome_of(message)
	if welcome == null:
		_link.close()
		var why = "the first message is not the welcome: this is no gateway"
		_on_ended({"kind": State.NO_GATEWAY}, why, _link.get_instance_id())
		return
	var is_first = id == ""
	id = welcome.session_id
	_link.welcomed(heartbeat_ms)
	var outcome = _state.welcome(welcome)
	if outcome.resumed or is_first:
		var lost = _error("lost", "the gateway has not received the packet, and it is not sent again")
		_fail_before(_state.sent.oldest(), outcome.lost, lost)
	else:
		_fail_all(_error("lost", "a new session has begun, which does not get the reply"))
	if outcome.resumed and outcome.replies_lost > 0:
		_find_lost_replies()
	emit_signal("welcome", welcome)
	if over != null:
		return
	var away_ms = OS.get_ticks_msec() - _lost_at
	if outcome.resumed:
		outcome.erase("resumed")
		outcome.away_ms = away_ms
		emit_signal("resumed", outcome)
	elif not is_first:
		emit_signal("new_session", {"away_ms": away_ms, "seen": outcome.seen, "lost": outcome.lost})
	_write()


func _welcome_of(message):
	if message == null or message.size() < Packet.HEADER_BYTES:
		return null
	var packet = Packet.decode(message)
	var is_push = packet.seq == 0 and packet.status == 0 and not packet.flags & Packet.FLAG_REPLY
	return Messages.decode_welcome(packet.payload) if is_push and packet.route == Packet.ROUTE_SYSTEM else null


func _on_reply(packet: Dictionary) -> void:
	if packet.seq in _barriers:
		_barriers.erase(packet.seq)
		_fail_before(packet.seq, 0x80000000, _error("lost", "the reply was lost with the connection"))
	var error = null
	if packet.status != 0:
		error = _error("status", packet.payload.get_string_from_utf8())
		error.route = packet.route
		error.status = packet.status
	var is_unwanted = packet.seq in _unwanted
	_unwanted.erase(packet.seq)
	if _pending.has(packet.seq):
		var reply = _pending[packet.seq]
		_pending.erase(packet.seq)
		reply.emit_signal("completed", packet.payload if error == null else null, error)
	elif error != null and not is_unwanted:
		emit_signal("refused", packet.seq, error)


func _on_refreshed(_payload, error, newer: String) -> void:
	if error == null:
		_used_token = newer
		if token is String:
			token = newer


func _on_control(control) -> void:
	if control == null:
		return
	if control.has("gap"):
		emit_signal("gap", {"pushes": 0, "blind_ms": control.gap.blind_ms})
	elif control.has("reconnect"):
		_leaves_at = OS.get_ticks_msec() + _state.leave_after(control.reconnect.url, control.reconnect.after_ms)
	else:
		emit_signal("token_expires", control.token_expires.in_ms)
		if token is FuncRef:
			# If the gateway refuses it, the session keeps its old token until that expires.
			refresh(_newest_token())


func _on_beat() -> void:
	_forget(send(Packet.ROUTE_SYSTEM, "beat"))


# Finds the requests whose replies were lost with the connection: those without a reply when a later packet is answered.
# Only a refusal because of the bus may come later still, and nobody waits for it then.
func _find_lost_replies() -> void:
	var seq = send(Packet.ROUTE_SYSTEM, "beat")
	_forget(seq)
	_barriers.append(seq)


# Takes note that nobody waits for the reply to this packet.
func _forget(seq: int) -> void:
	_unwanted.append(seq)
	# Many packets never get a reply.
	if _unwanted.size() > MAX_UNWANTED:
		_unwanted.pop_front()


func _on_ended(end, why: String, link_id: int) -> void:
	if not _is_present(link_id):
		return
	var lived_ms = 0
	if _link.welcomed_at >= 0:
		_lost_at = OS.get_ticks_msec()
		lived_ms = _lost_at - _link.welcomed_at
	_link = null
	_leaves_at = -1
	if end == null:
		_wait(_state.left(lived_ms), why)
		return
	var code = end.get("code")
	var decision = _state.end(end, lived_ms)
	if not decision is String:
		_wait(decision, why)
		return
	var newer = _newest_token() if decision == "renew_token" else ""
	if newer == "" or newer == _used_token:
		_close(why, code)
	# The function may have closed the session.
	elif over == null:
		_wait([0, 0], why)


func _wait(delay: Array, why: String) -> void:
	var delay_ms = int(rand_range(delay[0], delay[1]))
	_not_before = OS.get_ticks_msec() + delay[0]
	_connects_at = OS.get_ticks_msec() + delay_ms
	emit_signal("reconnecting", {"why": why, "delay_ms": delay_ms})


func _write() -> void:
	while _link != null and _link.is_writable():
		var packet = _state.next_packet()
		# If the connection does not take it now, it is tried again with the next frame of the game.
		if packet == null or not _link.send(Packet.encode(packet)):
			return
		_state.sent.wrote()


# Fails the requests among the last `count` packets before this seq.
func _fail_before(seq: int, count: int, error: Dictionary) -> void:
	for other in _pending.keys():
		if seq - other - 1 & 0xffffffff < count:
			_fail(other, error)
			_forget(other)


func _fail_all(error: Dictionary) -> void:
	for seq in _pending.keys():
		_fail(seq, error)
	_barriers = []
	_unwanted = []


func _fail(seq: int, error: Dictionary) -> void:
	var reply = _pending[seq]
	_pending.erase(seq)
	_fail_later(reply, error)


# Fails a request after whoever has made it had the time to wait for it.
func _fail_later(reply: Reply, error: Dictionary) -> void:
	# The call keeps the reply alive, which nobody else may hold.
	call_deferred("_fail_now", reply, error)


func _fail_now(reply: Reply, error: Dictionary) -> void:
	reply.emit_signal("completed", null, error)


func _close(why: String, code) -> void:
	if over != null:
		return
	over = _error("closed", why)
	over.code = code
	_link = null
	_connects_at = -1
	_leaves_at = -1
	_fail_all(over)
	emit_signal("closed", over)


# `kind` is "status", "lost", "too_large" or "closed".
func _error(kind: String, text: String) -> Dictionary:
	return {"kind": kind, "text": text}
