# The packet that client and gateway exchange: a header of 8 bytes, then the payload. All integers are big-endian.
extends Reference

const HEADER_BYTES = 8

# Bits of the flags: a reply, a push that took the place of older ones, and an acknowledgement of the client.
const FLAG_REPLY = 1
const FLAG_REPLACES = 2
const FLAG_ACK = 4

# The routes that every gateway has. Other numbers are the routes of other plugins.
const ROUTE_CONTROL = 0
const ROUTE_CHAT = 1
const ROUTE_GAME = 2
const ROUTE_SYSTEM = 3

# The reasons for which a packet is refused. The numbers from 256 on are defined by the game.
const STATUSES = [
	"ok", "malformed packet", "malformed payload", "no route", "rejected", "unavailable", "forbidden",
	"too many requests", "internal", "payload too large",
]


static func encode(packet: Dictionary) -> PoolByteArray:
	var seq: int = packet.seq
	var status: int = packet.status
	var bytes = PoolByteArray([
		seq >> 24 & 0xff, seq >> 16 & 0xff, seq >> 8 & 0xff, seq & 0xff,
		packet.route, packet.flags, status >> 8 & 0xff, status & 0xff,
	])
	bytes.append_array(packet.payload)
	return bytes


# Decodes a message of at least 8 bytes.
static func decode(bytes: PoolByteArray) -> Dictionary:
	return {
		"seq": bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3],
		"route": bytes[4],
		"flags": bytes[5],
		"status": bytes[6] << 8 | bytes[7],
		"payload": slice(bytes, HEADER_BYTES, bytes.size()),
	}


# Returns the bytes from `from` up to `to`, without `to`. PoolByteArray.subarray refuses to return none.
static func slice(bytes: PoolByteArray, from: int, to: int) -> PoolByteArray:
	return bytes.subarray(from, to - 1) if to > from else PoolByteArray()
