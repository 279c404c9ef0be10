# Runs the cases of client/vectors against the state and the messages.
extends Reference

const Messages = preload("../addons/gateway/messages.gd")
const Packet = preload("../addons/gateway/packet.gd")
const State = preload("../addons/gateway/state.gd")

const CHECKED = ["then", "delay_ms", "url", "outcome", "delivered", "ack", "leave_after_ms"]

var passed = 0
var wrong = []


func run() -> void:
	for case in _cases("reconnect.json"):
		_count(case.name, _reconnect(case))
	for case in _cases("messages.json"):
		_count(case.name, _message(case))


func _count(name: String, errors: Array) -> void:
	if errors.empty():
		passed += 1
	for error in errors:
		wrong.append("%s: %s" % [name, error])


func _cases(name: String) -> Array:
	var file = File.new()
	# The vectors are outside of the project.
	if file.open(ProjectSettings.globalize_path("res://").plus_file("../vectors").plus_file(name), File.READ) != OK:
		wrong.append("%s cannot be read" % name)
		return []
	return JSON.parse(file.get_as_text()).result.cases


func _reconnect(case: Dictionary) -> Array:
	var state = State.new(case.url)
	var errors = []
	for index in case.steps.size():
		var step = case.steps[index]
		var effect = _happen(state, step.event, int(step.get("lived_ms", 0)))
		if effect.has("failure"):
			errors.append("step %d: %s" % [index + 1, effect.failure])
		effect.url = state.url()
		if step.has("ack"):
			state.sent.push(1, PoolByteArray())
			var packet = state.next_packet()
			state.sent.wrote()
			effect.ack = packet.status if packet.flags == Packet.FLAG_ACK else null
		for what in step:
			if what in ["event", "lived_ms"]:
				continue
			if not what in CHECKED or not _same(effect.get(what), step[what]):
				errors.append("step %d, %s: %s instead of %s" % [index + 1, what, effect.get(what), step[what]])
	return errors


# Whether two values are the same. Numbers in JSON are floating-point numbers.
func _same(real, expected) -> bool:
	return JSON.print(real, "", true) == JSON.print(expected, "", true)


func _happen(state, event, lived_ms: int) -> Dictionary:
	var kind = event if event is String else event.keys()[0]
	var value = null if event is String else event[kind]
	match kind:
		"welcome":
			var welcome = {"resume_token": "", "resumed": false, "packets_received": 0, "replies_lost": 0}
			for field in value:
				welcome[field] = int(value[field]) if value[field] is float else value[field]
			var outcome = state.welcome(welcome)
			var resumed = outcome.resumed
			outcome.erase("resumed")
			return {"outcome": {"resumed" if resumed else "new": outcome}}
		"push":
			return {"delivered": state.receive({"seq": int(value), "flags": 0}) >= 0}
		"reply":
			return {"delivered": state.receive({"seq": 1, "flags": Packet.FLAG_REPLY}) >= 0}
		"send":
			for _index in int(value):
				state.sent.push(1, PoolByteArray())
			return {}
		"written":
			for _index in int(value):
				if state.next_packet() == null:
					return {"failure": "no packet waits"}
				state.sent.wrote()
			return {}
		"reconnect":
			return {"leave_after_ms": state.leave_after(value.url, int(value.after_ms))}
		"left":
			return _decided(state.left(lived_ms))
		"closed":
			return _decided(state.end({"kind": kind, "code": null if value == null else int(value)}, lived_ms))
		"refused":
			var retry_after_ms = 1000 * int(value.get("retry_after_s", 0))
			var end = {"kind": kind, "status": int(value.status), "retry_after_ms": retry_after_ms}
			return _decided(state.end(end, lived_ms))
	return _decided(state.end({"kind": kind}, lived_ms))


func _decided(decision) -> Dictionary:
	return {"then": decision} if decision is String else {"then": "reconnect", "delay_ms": decision}


func _message(case: Dictionary) -> Array:
	var bytes = _bytes(case.bytes)
	var fields = case.get("fields", {})
	var real
	match case.message:
		"gateway.Welcome":
			real = Messages.decode_welcome(bytes)
		"gateway.Control":
			real = Messages.decode_control(bytes)
		"gateway.ClientControl":
			return _encoded(Messages.encode_refresh(fields.refresh.token), bytes)
		"chat.ChatRequest":
			return _encoded(Messages.encode_chat_request(_typed(fields)), bytes)
		null:
			return [] if Messages.decode_chat(bytes) == null else ["it is taken for a message of chat"]
		_:
			real = Messages.decode_chat(bytes)
			var kind = "response" if case.message == "chat.ChatResponse" else "broadcast"
			if real == null or real.kind != kind:
				return ["it is taken for %s" % real]
			real.erase("kind")
	return _equal(real, fields)


func _encoded(real: PoolByteArray, bytes: PoolByteArray) -> Array:
	return [] if real == bytes else ["%s instead of %s" % [real.hex_encode(), bytes.hex_encode()]]


# Compares the fields that a case has, and asserts that the others have their default values.
func _equal(real, fields) -> Array:
	if not real is Dictionary:
		return ["it is %s" % [real]]
	var errors = []
	for field in real:
		if not field in fields:
			if real[field] is Dictionary:
				errors += _equal(real[field], {})
			elif real[field]:
				errors.append("%s is %s" % [field, real[field]])
		elif real[field] is Dictionary:
			errors += _equal(real[field], fields[field])
		elif str(real[field]) != str(fields[field]):
			errors.append("%s is %s instead of %s" % [field, real[field], fields[field]])
	for field in fields:
		if not field in real:
			errors.append("%s is missing" % field)
	return errors


# Returns the fields of a request in the types of this client.
func _typed(fields: Dictionary) -> Dictionary:
	var typed = {}
	for field in fields:
		var value = fields[field]
		if field == "extra_data":
			typed[field] = _bytes(value)
		elif value is float or field == "timestamp":
			typed[field] = int(value)
		else:
			typed[field] = _typed(value) if value is Dictionary and field != "extra" else value
	return typed


func _bytes(hex: String) -> PoolByteArray:
	var bytes = PoolByteArray()
	for index in hex.length() / 2:
		bytes.append(("0x" + hex.substr(2 * index, 2)).hex_to_int())
	return bytes
