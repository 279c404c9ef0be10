# Tests of the session on real connections.
extends "suite.gd"

const Server = preload("silent_server.gd")
const Session = preload("../addons/gateway/session.gd")

# The most time that something may take.
const PATIENCE_MS = 20000

var _server
var _session
# The names of the signals, and why the last connection ended.
var _events = []
var _why = ""


# Makes a server, and a session that has not begun.
func _prepare(heartbeat_ms := 25000) -> void:
	_server = Server.new()
	_session = Session.new()
	_session.heartbeat_ms = heartbeat_ms
	_events = []
	for event in ["welcome", "push", "resumed", "new_session", "reconnecting", "closed"]:
		_session.connect(event, self, "_record", [event])
	_tree.root.add_child(_session)


func _record(content, event: String) -> void:
	_events.append(event)
	if event == "reconnecting":
		_why = content.why


# Waits until this event has happened.
func _happens(event: String):
	var deadline = OS.get_ticks_msec() + PATIENCE_MS
	while not event in _events:
		yield(_tree, "idle_frame")
		_server.poll()
		if OS.get_ticks_msec() > deadline:
			wrong.append("%s: %s has not happened: %s" % [_test, event, _events])
			return
	yield(_tree, "idle_frame")


# Waits until the client has closed its connection with this index.
func _closes(index: int):
	var deadline = OS.get_ticks_msec() + PATIENCE_MS
	while not _server.is_closed(index):
		yield(_tree, "idle_frame")
		_server.poll()
		if OS.get_ticks_msec() > deadline:
			wrong.append("%s: the connection is still open" % _test)
			return
	yield(_tree, "idle_frame")


func test_a_connection_that_was_cut_is_closed_and_forgotten():
	_prepare(20)
	_session.begin(_server.url)
	var first = weakref(_session._link)
	yield(_happens("reconnecting"), "completed")
	_same("link", first.get_ref(), null)
	yield(_closes(0), "completed")
	_session.free()


func test_a_connection_that_was_closed_is_forgotten():
	_prepare()
	_session.begin(_server.url)
	yield(_happens("welcome"), "completed")
	var link = weakref(_session._link)
	_session.close()
	_same("before", link.get_ref() == null, false)
	_server.peers[0].disconnect_from_host()
	while not _session._closing.empty():
		yield(_tree, "idle_frame")
	_same("after", link.get_ref(), null)
	_session.free()


func test_a_connection_that_does_not_answer_a_check_is_cut():
	_prepare()
	_session.begin(_server.url)
	yield(_happens("welcome"), "completed")
	var link = _session._link
	var before = OS.get_ticks_msec()
	_session.wake()
	var deadline = link._deadline
	_same("least", deadline >= before + 5000, true)
	_same("most", deadline <= OS.get_ticks_msec() + 5000, true)
	yield(_tree.create_timer(0.05), "timeout")
	_session.wake()
	_same("not put off", link._deadline, deadline)
	# This is the only packet of the client.
	_same("sent", _session._state.sent._last, 1)
	link._deadline = 0
	yield(_happens("reconnecting"), "completed")
	_same("why", _why, "the gateway has not answered the check of the connection")
	_session.free()


func test_a_connection_that_brings_something_after_a_check_lives_on():
	_prepare()
	_session.begin(_server.url)
	yield(_happens("welcome"), "completed")
	_session.wake()
	_server.send(_server.peers[0], {"seq": 1, "route": 7, "flags": 0, "status": 0, "payload": PoolByteArray()})
	yield(_happens("push"), "completed")
	_same("heartbeat", _session._link._deadline > OS.get_ticks_msec() + 20000, true)
	# A connection that the session leaves is not checked.
	_session._link.leave()
	var deadline = _session._link._deadline
	_session.wake()
	_same("leaves", [_session._link._deadline, _session._state.sent._last], [deadline, 1])
	_session.free()


# Godot's WebSocket reads nothing any more after a message that is too large, and tells nobody.
func test_a_push_that_is_too_large_does_not_come_again_for_ever():
	_prepare(20)
	var push = PoolByteArray()
	push.resize(2048)
	_server.push = push
	_session.max_message_kb = 1
	_session.connect("reconnecting", self, "_hurry", [], CONNECT_DEFERRED)
	_session.begin(_server.url)
	yield(_happens("new_session"), "completed")
	_same("resumed", [_events.count("resumed"), _events.count("push")], [2, 0])
	_session.free()


# Connects without a delay.
func _hurry(_info) -> void:
	_session.wake()
