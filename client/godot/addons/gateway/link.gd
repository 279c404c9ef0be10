# One connection: the time that it may take, the heartbeats, and the reason of its end.
extends Reference

# A message, or null for a text, which no gateway sends.
signal received(message)
# The end as State has it, or null if the session has left the connection. Nothing more comes after it.
signal ended(end, why)
# A heartbeat is due.
signal beat()

# The time for the name lookup, TCP, TLS and the upgrade together, for the welcome after it, for something to come after
# a check, and for the answer to a close frame.
const CONNECT_TIMEOUT_MS = 10000
const WELCOME_TIMEOUT_MS = 5000
const CHECK_TIMEOUT_MS = 5000
const CLOSE_TIMEOUT_MS = 2000

# The close code of a client that goes on with its session over another connection.
const CUT = 4000

# The close code that stands for a close frame without one.
const NO_CODE = 1005

const LEFT = "the gateway stops, and has asked this client to reconnect"

# Whether the WebSocket is closed.
var is_gone = false
# When the welcome came, or -1.
var welcomed_at = -1
var _socket = WebSocketClient.new()
var _is_open = false
var _is_leaving = false
var _is_over = false
# The close frame of the gateway: its code and its reason, or null.
var _close_frame = null
# When `_late` is called, or -1.
var _deadline = -1
var _late = ""
var _heartbeat_ms = 0
# How many heartbeats in a row have brought nothing.
var _unanswered = 0


func _init():
	_socket.connect("connection_established", self, "_on_open")
	_socket.connect("connection_error", self, "_on_error")
	_socket.connect("connection_closed", self, "_on_closed")
	_socket.connect("server_close_request", self, "_on_close_frame")
	_socket.connect("data_received", self, "_on_data")


# Begins to connect. Messages may have this size.
func open(url: String, protocols: PoolStringArray, headers: PoolStringArray, max_message_kb: int) -> void:
	_within(CONNECT_TIMEOUT_MS, "_on_slow")
	# The last value is the number of packets that may wait.
	_socket.set_buffers(max_message_kb, 2048, max_message_kb, 2048)
	var error = _socket.connect_to_url(url, protocols, false, headers)
	if error != OK:
		_end({"kind": "unreachable"}, "the gateway cannot be reached: error %d" % error)


# Lets the connection go on. Has to be called often.
func poll() -> void:
	_socket.poll()
	if _deadline >= 0 and OS.get_ticks_msec() >= _deadline:
		call(_late)


# Whether a packet can be sent now.
func is_writable() -> bool:
	return welcomed_at >= 0 and not _is_leaving and not _is_over and _close_frame == null


# Returns whether the connection has taken the packet.
func send(packet: PoolByteArray) -> bool:
	return _socket.get_peer(1).put_packet(packet) == OK


# Takes note of the welcome. A heartbeat is due in these intervals from now on.
func welcomed(heartbeat_ms: int) -> void:
	welcomed_at = OS.get_ticks_msec()
	_heartbeat_ms = heartbeat_ms
	_within(heartbeat_ms, "_on_tick")


# Emits `beat` now, and cuts the connection if nothing comes soon.
func check() -> void:
	# Another check must not put off the end of the first one.
	if is_writable() and not _is_checking():
		_within(CHECK_TIMEOUT_MS, "_on_unchecked")
		emit_signal("beat")


func _is_checking() -> bool:
	return _late == "_on_unchecked"


# Leaves the connection, but not the session. What still arrives is received.
func leave() -> void:
	_is_leaving = true
	_within(CLOSE_TIMEOUT_MS, "_on_left")
	_socket.disconnect_from_host(CUT)


# Ends the session, after what was sent.
func close() -> void:
	_is_over = true
	_within(CLOSE_TIMEOUT_MS, "_on_gone")
	_socket.disconnect_from_host(1000)


func _on_open(_protocol: String) -> void:
	_is_open = true
	_socket.get_peer(1).set_write_mode(WebSocketPeer.WRITE_MODE_BINARY)
	_within(WELCOME_TIMEOUT_MS, "_on_no_welcome")


func _on_data() -> void:
	_unanswered = 0
	var peer = _socket.get_peer(1)
	var message = peer.get_packet()
	if not _is_over:
		if _is_checking():
			_within(_heartbeat_ms, "_on_tick")
		emit_signal("received", null if peer.was_string_packet() else message)


# Godot hides why an upgrade was refused.
func _on_error() -> void:
	is_gone = true
	_end({"kind": "unreachable"}, "the gateway cannot be reached")


func _on_close_frame(code: int, reason: String) -> void:
	_close_frame = [code, reason]


func _on_closed(_was_clean: bool) -> void:
	is_gone = true
	if _is_leaving and (_close_frame == null or _close_frame[0] in [CUT, NO_CODE]):
		_on_left()
	elif not _is_open:
		_on_error()
	elif _close_frame == null:
		_end({"kind": "lost"}, "the connection is lost")
	elif _close_frame[0] == NO_CODE:
		_end({"kind": "closed", "code": null}, "the gateway closed the connection without a code")
	else:
		var why = "the gateway closed the connection: %d %s" % _close_frame
		_end({"kind": "closed", "code": _close_frame[0]}, why.strip_edges())


# A game may stand still for a while, for example while it loads a level. So a time without a message proves nothing:
# two heartbeats without an answer do.
func _on_tick() -> void:
	if _unanswered >= 2:
		_cut({"kind": "silent"}, "the gateway has not answered the heartbeats")
		return
	_unanswered += 1
	_within(_heartbeat_ms, "_on_tick")
	emit_signal("beat")


func _on_unchecked() -> void:
	# Not "silent": a bad network says nothing about a message that is too large.
	_cut({"kind": "lost"}, "the gateway has not answered the check of the connection")


func _on_slow() -> void:
	_cut({"kind": "unreachable"}, "the gateway has not answered in time")


func _on_no_welcome() -> void:
	_cut({"kind": "no_welcome"}, "the welcome has not come in time")


func _on_gone() -> void:
	is_gone = true


func _on_left() -> void:
	_end(null, LEFT)


func _cut(end, why: String) -> void:
	_end(end, why)
	_socket.disconnect_from_host(CUT)


func _end(end, why: String) -> void:
	if not _is_over:
		_is_over = true
		_deadline = -1
		emit_signal("ended", end, why)


# Calls `late` after this time, instead of what was to be called before.
func _within(time_ms: int, late: String) -> void:
	_deadline = OS.get_ticks_msec() + time_ms
	_late = late
