# The messages of the gateway and of chat: proto/gateway/proto and proto/chat/proto. Their fields are the entries of
# dictionaries, under the names of the .proto files. What is missing in a dictionary has its default value.
extends Reference

const Proto = preload("proto.gd")

# The fields of a chat request's meta that are texts.
const META = ["client_version", "protocol_version", "device_id", "session_id", "trace_id", "span_id"]

# The type of each field in a response and in a broadcast: "i" is an integer, "b" is bytes, and "-" is no field.
const RESPONSE_TYPES = "-bibii----ib"
const BROADCAST_TYPES = "-iibibii--i-"


# Returns null if the payload is no welcome.
static func decode_welcome(payload: PoolByteArray):
	var fields = Proto.read(payload)
	if fields == null or not Proto.are_texts(fields, [1, 3]) or Proto.text(fields, 1) == "":
		return null
	return {
		"session_id": Proto.text(fields, 1),
		"server_time_ms": Proto.int64(fields, 2),
		"resume_token": Proto.text(fields, 3),
		"resume_window_ms": Proto.int64(fields, 4),
		"resumed": Proto.int64(fields, 5) != 0,
		"packets_received": Proto.int64(fields, 6),
		"replies_lost": Proto.int64(fields, 7) & 0xffffffff,
	}


# Returns a dictionary with one entry, or null for an event that this client does not know.
static func decode_control(payload: PoolByteArray):
	var fields = Proto.read(payload)
	if fields == null:
		return null
	# Of a oneof, the last field counts.
	var event = null
	for pair in fields:
		if pair[0] >= 1 and pair[0] <= 3:
			event = pair
	if event == null or not event[1] is PoolByteArray:
		return null
	var inner = Proto.read(event[1])
	if inner == null:
		return null
	match event[0]:
		1:
			return {"token_expires": {"in_ms": Proto.int64(inner, 1)}}
		2:
			return {"gap": {"blind_ms": Proto.int64(inner, 1)}}
	if not Proto.are_texts(inner, [1]):
		return null
	return {"reconnect": {"url": Proto.text(inner, 1), "after_ms": Proto.int64(inner, 2)}}


# Returns the ClientControl that replaces the token of the session.
static func encode_refresh(token: String) -> PoolByteArray:
	return Proto.message_field(1, Proto.text_field(1, token))


# Returns the payload of a packet on the route of chat. `request` has the fields of a ChatRequest.
static func encode_chat_request(request: Dictionary) -> PoolByteArray:
	var base = request.get("base", {})
	var inner = Proto.text_field(1, base.get("game_id", ""))
	inner.append_array(Proto.int_field(2, base.get("user_id", 0)))
	inner.append_array(Proto.int_field(3, base.get("timestamp", 0)))
	var bytes = Proto.message_field(1, inner)
	bytes.append_array(Proto.int_field(2, request.get("receiver_id", 0)))
	bytes.append_array(Proto.int_field(3, request.get("channel_id", 0)))
	bytes.append_array(Proto.int_field(4, request.get("type", 0)))
	bytes.append_array(Proto.text_field(5, request.get("content", "")))
	bytes.append_array(Proto.bytes_field(6, request.get("extra_data", PoolByteArray())))
	if request.has("meta"):
		bytes.append_array(Proto.message_field(10, _encode_meta(request.meta)))
	return bytes


static func _encode_meta(meta: Dictionary) -> PoolByteArray:
	var bytes = PoolByteArray()
	for index in META.size():
		bytes.append_array(Proto.text_field(index + 1, meta.get(META[index], "")))
	var extra = meta.get("extra", {})
	for key in extra:
		var entry = Proto.text_field(1, key)
		entry.append_array(Proto.text_field(2, extra[key]))
		bytes.append_array(Proto.message_field(10, entry))
	return bytes


# Decodes the payload of a push on the route of chat. `kind` is "response" for the answer of a backend, and "broadcast"
# for a message of another user. Returns null for anything else.
static func decode_chat(payload: PoolByteArray):
	var fields = Proto.read(payload)
	if fields == null:
		return null
	match _kind(fields):
		"response":
			return _response(fields)
		"broadcast":
			return _broadcast(fields)
	return null


static func _response(fields: Array):
	var base = null
	if Proto.last(fields, 1) != null:
		var inner = Proto.read(Proto.bytes(fields, 1))
		if inner == null or not Proto.are_texts(inner, [1]):
			return null
		base = {"game_id": Proto.text(inner, 1), "user_id": Proto.int32(inner, 2), "timestamp": Proto.int64(inner, 3)}
	if not Proto.are_texts(fields, [3, 11]):
		return null
	return {
		"kind": "response",
		"base": base,
		"success": Proto.int64(fields, 2) != 0,
		"error_message": Proto.text(fields, 3),
		"message_id": Proto.int64(fields, 4),
		"timestamp": Proto.int64(fields, 5),
		"target_user_id": Proto.int32(fields, 10),
		"target_session_id": Proto.text(fields, 11),
	}


static func _broadcast(fields: Array):
	if not Proto.are_texts(fields, [3, 5]):
		return null
	return {
		"kind": "broadcast",
		"message_id": Proto.int64(fields, 1),
		"sender_id": Proto.int32(fields, 2),
		"sender_name": Proto.text(fields, 3),
		"channel_id": Proto.int32(fields, 4),
		"content": Proto.text(fields, 5),
		"timestamp": Proto.int64(fields, 6),
		"type": Proto.int32(fields, 7),
		"target_user_id": Proto.int32(fields, 10),
	}


# Nothing in a packet says which of the two messages it carries, so the types of the fields have to tell them apart. A
# payload that could be both is a response: a broadcast without id, time and content makes no sense.
static func _kind(fields: Array) -> String:
	var is_known = false
	var is_response = true
	var is_broadcast = true
	for pair in fields:
		var number = pair[0]
		# Fields of later versions do not matter.
		if number > 11 or number == 8 or number == 9:
			continue
		is_known = true
		var type = "i" if pair[1] is int else "b" if pair[1] is PoolByteArray else "?"
		# `success` is a boolean, and `sender_id` has the same number.
		var is_boolean = number != 2 or not pair[1] is int or pair[1] == 0 or pair[1] == 1
		is_response = is_response and RESPONSE_TYPES[number] == type and is_boolean
		is_broadcast = is_broadcast and BROADCAST_TYPES[number] == type
	if not is_known:
		return ""
	return "response" if is_response else "broadcast" if is_broadcast else ""
