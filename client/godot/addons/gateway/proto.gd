# As much of Protocol Buffers as the messages of this client need: varints, texts and bytes.
extends Reference

const Packet = preload("packet.gd")


# Returns the bytes of an integer field. A field with the default value is left out, as proto3 does.
static func int_field(field: int, value: int) -> PoolByteArray:
	var bytes = PoolByteArray()
	if value != 0:
		bytes.append_array(_varint(field << 3))
		bytes.append_array(_varint(value))
	return bytes


static func text_field(field: int, text: String) -> PoolByteArray:
	return bytes_field(field, text.to_utf8())


static func bytes_field(field: int, value: PoolByteArray) -> PoolByteArray:
	return message_field(field, value) if value.size() > 0 else PoolByteArray()


# Returns the bytes of an embedded message, also if it is empty.
static func message_field(field: int, value: PoolByteArray) -> PoolByteArray:
	var bytes = _varint(field << 3 | 2)
	bytes.append_array(_varint(value.size()))
	bytes.append_array(value)
	return bytes


static func _varint(value: int) -> PoolByteArray:
	var bytes = PoolByteArray()
	# Negative numbers take ten bytes, as in every implementation. The mask makes the shift a logical one.
	while value < 0 or value > 0x7f:
		bytes.append(value & 0x7f | 0x80)
		value = value >> 7 & 0x01ffffffffffffff
	bytes.append(value)
	return bytes


# Reads the fields of a message: a list of pairs of a number and an int, a PoolByteArray, or null for the types that no
# message here has. Returns null if the bytes are no message.
static func read(bytes: PoolByteArray):
	var fields = []
	var at = 0
	while at < bytes.size():
		var key = _take_varint(bytes, at)
		if key == null or key[0] >> 3 <= 0:
			return null
		at = key[1]
		var value = null
		match key[0] & 7:
			0:
				var number = _take_varint(bytes, at)
				if number == null:
					return null
				value = number[0]
				at = number[1]
			1:
				at += 8
			2:
				var length = _take_varint(bytes, at)
				if length == null or length[0] < 0 or length[0] > bytes.size() - length[1]:
					return null
				at = length[1] + length[0]
				value = Packet.slice(bytes, length[1], at)
			5:
				at += 4
			_:
				# A group, which proto3 does not have.
				return null
		if at > bytes.size():
			return null
		fields.append([key[0] >> 3, value])
	return fields


# Returns the number at this place and the place after it, or null.
static func _take_varint(bytes: PoolByteArray, at: int):
	var value = 0
	for index in 10:
		if at + index >= bytes.size():
			return null
		var byte = bytes[at + index]
		value |= (byte & 0x7f) << 7 * index
		if byte < 0x80:
			return [value, at + index + 1]
	return null


# An integer of 64 bits, or 0.
static func int64(fields: Array, field: int) -> int:
	var value = last(fields, field)
	return value if value is int else 0


# An integer of 32 bits with a sign, or 0.
static func int32(fields: Array, field: int) -> int:
	var value = int64(fields, field) & 0xffffffff
	return value - 0x100000000 if value >= 0x80000000 else value


static func bytes(fields: Array, field: int) -> PoolByteArray:
	var value = last(fields, field)
	return value if value is PoolByteArray else PoolByteArray()


static func text(fields: Array, field: int) -> String:
	return bytes(fields, field).get_string_from_utf8()


# Whether the texts in these fields are UTF-8.
static func are_texts(fields: Array, numbers: Array) -> bool:
	for number in numbers:
		var value = bytes(fields, number)
		# Godot replaces or drops what is not UTF-8, and says so on the console. So this asks first.
		if not _is_utf8(value):
			return false
	return true


static func _is_utf8(bytes: PoolByteArray) -> bool:
	var at = 0
	while at < bytes.size():
		var byte = bytes[at]
		var length = 1 if byte < 0x80 else 2 if byte >> 5 == 6 else 3 if byte >> 4 == 14 else 4 if byte >> 3 == 30 else 0
		if length == 0 or at + length > bytes.size():
			return false
		var point = byte if length == 1 else byte & 0x7f >> length
		for index in range(at + 1, at + length):
			if bytes[index] >> 6 != 2:
				return false
			point = point << 6 | bytes[index] & 0x3f
		# Too long a form, half of a surrogate pair, or no character.
		if point < [0, 0, 0x80, 0x800, 0x10000][length] or point >> 11 == 0x1b or point > 0x10ffff:
			return false
		at += length
	return true


# The value of a field, or null. If the field comes several times, the last one counts.
static func last(fields: Array, field: int):
	var value = null
	for pair in fields:
		if pair[0] == field:
			value = pair[1]
	return value
