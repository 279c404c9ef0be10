# A client that obeys a test: it asks the test's server for a command, carries it out and reports the outcome, until the
# test ends it. tests/clients/agent.rs is the other side.
extends SceneTree

const Messages = preload("../addons/gateway/messages.gd")
const Packet = preload("../addons/gateway/packet.gd")
const Session = preload("../addons/gateway/session.gd")

const ERRORS = {"status": "StatusError", "lost": "LostError", "closed": "ClosedError"}

# The sessions by name, each with the log of what has happened in it.
var _sessions = {}
var _logs = {}
var _tokens = []


func _initialize() -> void:
	_obey()


func _obey() -> void:
	var http = HTTPRequest.new()
	root.add_child(http)
	yield(self, "idle_frame")
	var outcome = {}
	while true:
		http.request(OS.get_environment("TEST_ORIGIN") + "/next", [], false, HTTPClient.METHOD_POST, JSON.print(outcome))
		var response = yield(http, "request_completed")
		var command = JSON.parse(response[3].get_string_from_utf8()).result
		if command.do == "end":
			quit()
			return
		outcome = call("_do_" + command.do, command.session, command)
		if outcome is GDScriptFunctionState:
			outcome = yield(outcome, "completed")


func _do_connect(name: String, command: Dictionary) -> Dictionary:
	var session = Session.new()
	_sessions[name] = session
	_logs[name] = []
	session.protocols = PoolStringArray(command.get("protocols", []))
	session.heartbeat_ms = int(command.get("heartbeat_ms", 25000))
	session.token = command.get("token", "")
	if command.has("tokens"):
		_tokens = command.tokens
		session.token = funcref(self, "_next_token")
	for event in ["welcome", "push", "resumed", "new_session", "gap", "reconnecting", "token_expires", "closed"]:
		session.connect(event, self, "_on_event", [name, event])
	session.connect("refused", self, "_on_refused", [name])
	root.add_child(session)
	session.begin(command.url)
	return {}


# Returns one token after the other, and then always the last one.
func _next_token() -> String:
	return _tokens.pop_front() if _tokens.size() > 1 else _tokens[0]


func _on_event(content, name: String, event: String) -> void:
	var entry = {"event": _camel(event)}
	match event:
		"push":
			entry.route = content.route
			entry.number = content.number
			var chat = Messages.decode_chat(content.payload) if content.route == Packet.ROUTE_CHAT else null
			if chat == null:
				entry.text = content.payload.get_string_from_utf8()
			else:
				entry.chat = _renamed(chat)
		"closed":
			_merge(entry, _described(content))
		"reconnecting":
			entry.why = content.why
	_logs[name].append(entry)


func _on_refused(seq: int, error: Dictionary, name: String) -> void:
	_logs[name].append(_merge({"event": "refused", "seq": seq}, _described(error)))


func _do_log(name: String, _command: Dictionary) -> Dictionary:
	var session = _sessions[name]
	return {"id": session.id, "isConnected": session.is_connected_to_gateway(), "log": _logs[name]}


func _do_send(name: String, command: Dictionary) -> Dictionary:
	var session = _sessions[name]
	var seq = session.send(int(command.route), command.text)
	return {"seq": seq} if seq >= 0 else _described(session.over)


func _do_chat(name: String, command: Dictionary) -> Dictionary:
	var request = {"base": {}}
	for field in command.request:
		var value = command.request[field]
		var wanted = field.capitalize().to_lower().replace(" ", "_")
		if field == "gameId" or field == "userId":
			request.base[wanted] = value if value is String else int(value)
		elif field == "meta":
			request.meta = {"session_id": value.sessionId, "extra": value.extra}
		else:
			request[wanted] = value if value is String else int(value)
	return {"seq": _sessions[name].chat(request)}


# Only the log says how it has ended, since the connection may break before the reply.
func _do_request(name: String, command: Dictionary) -> Dictionary:
	_log_reply(name, int(command.route), command.text)
	return {}


func _log_reply(name: String, route: int, text: String) -> void:
	var result = yield(_sessions[name].request(route, text), "completed")
	var entry = {"event": "reply", "to": text}
	if result[1] == null:
		entry.text = result[0].get_string_from_utf8()
	else:
		_merge(entry, _described(result[1]))
	_logs[name].append(entry)


func _do_ping(name: String, _command: Dictionary) -> Dictionary:
	var start = OS.get_ticks_msec()
	var result = yield(_sessions[name].request(Packet.ROUTE_SYSTEM, "ping"), "completed")
	return {"ms": OS.get_ticks_msec() - start} if result[1] == null else _described(result[1])


func _do_refresh(name: String, command: Dictionary) -> Dictionary:
	var result = yield(_sessions[name].refresh(command.token), "completed")
	return {} if result[1] == null else _described(result[1])


func _do_wake(name: String, _command: Dictionary) -> Dictionary:
	_sessions[name].wake()
	return {}


func _do_close(name: String, _command: Dictionary) -> Dictionary:
	_sessions[name].close()
	return {}


func _described(error: Dictionary) -> Dictionary:
	var described = {"error": ERRORS[error.kind], "message": error.text, "text": error.text}
	for field in ["code", "status"]:
		if error.has(field):
			described[field] = error[field]
	return described


# Returns the fields of a message of chat in the names that the test expects. JSON has no integers of 64 bits.
func _renamed(fields: Dictionary) -> Dictionary:
	var renamed = {}
	for field in fields:
		var value = fields[field]
		renamed[_camel(field)] = str(value) if field == "message_id" else _renamed(value) if value is Dictionary else value
	return renamed


func _camel(name: String) -> String:
	var camel = name.capitalize().replace(" ", "")
	return camel[0].to_lower() + camel.substr(1)


func _merge(into: Dictionary, other: Dictionary) -> Dictionary:
	for key in other:
		into[key] = other[key]
	return into
