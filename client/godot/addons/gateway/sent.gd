# The packets of a session that were sent last. They are kept, since the gateway may not have received them. Each has a
# number, which is its count in the session from 1 on.
extends Reference

const Packet = preload("packet.gd")

# The most packets and bytes that are kept to be sent again. The last packet is always kept, and so are all that wait for a
# connection that lives: it is only slow.
const MAX_PACKETS = 256
const MAX_BYTES = 65536

# The largest count of packets that a gateway can claim. Sums with it do not overflow.
const MAX_RECEIVED = 1 << 52

var _packets = []
var _bytes = 0
# The seq of the last packet. The seqs go on in a new session.
var _seq = 0
# The number of the last packet, and of the last one that was written to the present connection.
var _last = 0
var _written = 0
# The number up to which no packet is sent again.
var _given_up = 0
# Whether the present connection takes packets.
var _is_live = false


# Adds a packet, which waits to be written, and returns its seq.
func push(route: int, payload: PoolByteArray) -> int:
	_seq = _seq + 1 & 0xffffffff
	_packets.append({"seq": _seq, "route": route, "flags": 0, "status": 0, "payload": payload})
	_bytes += Packet.HEADER_BYTES + payload.size()
	_last += 1
	_trim()
	return _seq


# The next packet to write, or null.
func unwritten():
	var index = int(max(0, _written - _forgotten()))
	return _packets[index] if index < _packets.size() else null


# The seq of the oldest packet that is kept, or of the next one. The seqs have no gaps.
func oldest() -> int:
	return _seq - _packets.size() + 1 & 0xffffffff


# The number of packets that wait to be written.
func waiting() -> int:
	return _last - int(max(_written, _forgotten()))


# Takes note that the next packet was written.
func wrote() -> void:
	_written = int(max(_written, _forgotten())) + 1
	_trim()


# Takes note of the end of the connection. The packets that still wait count to those that are kept.
func end() -> void:
	_is_live = false
	_trim()


# Decides that the packets that were written so far are never sent again.
func give_up() -> void:
	_given_up = _written


# Goes on after a resume, if the gateway has received the packets up to this number. The later ones wait to be written
# again, and are numbered as the gateway counts them. Returns the number of packets that are lost.
func resume(packets_received: int) -> int:
	# A count of more than 63 bits is negative here.
	var received = MAX_RECEIVED if packets_received < 0 else int(min(packets_received, MAX_RECEIVED))
	var forgotten = _forgotten()
	var lost = int(max(0, max(forgotten, _given_up) - received))
	var gone = int(max(received, _given_up)) - forgotten
	for _index in int(clamp(gone, 0, _packets.size())):
		_pop()
	_written = received
	_last = received + _packets.size()
	_given_up = 0
	_is_live = true
	return lost


# Begins a new session, which gets none of the packets. Returns the number of those that were not written.
func restart() -> int:
	var lost = int(max(0, _last - _written))
	_packets = []
	_bytes = 0
	_last = 0
	_written = 0
	_given_up = 0
	_is_live = true
	return lost


# The number of the last packet that is no longer kept.
func _forgotten() -> int:
	return _last - _packets.size()


# Forgets the oldest packets if there are too many.
func _trim() -> void:
	while _packets.size() > MAX_PACKETS or _bytes > MAX_BYTES and _packets.size() > 1:
		# A packet that is forgotten unwritten has a number, but the gateway does not count it. The next welcome tells.
		if _is_live and _forgotten() >= _written:
			return
		_pop()


func _pop() -> void:
	_bytes -= Packet.HEADER_BYTES + _packets.pop_front().payload.size()
