# A connection that the test plays.
extends Reference

const Packet = preload("../addons/gateway/packet.gd")
const Proto = preload("../addons/gateway/proto.gd")

signal received(message)
signal ended(end, why)
signal beat()

var is_gone = false
var welcomed_at = -1
var url = ""
var protocols = []
var headers = []
# The packets that were sent, and what else has happened.
var sent = []
var has_left = false
var is_closed = false
var checks = 0
# Whether the network takes packets.
var is_stuck = false


func open(to: String, offered: PoolStringArray, with: PoolStringArray, _max_message_kb: int) -> void:
	url = to
	protocols = Array(offered)
	headers = Array(with)


func poll() -> void:
	pass


func is_writable() -> bool:
	return welcomed_at >= 0 and not has_left


func send(packet: PoolByteArray) -> bool:
	if is_stuck:
		return false
	sent.append(Packet.decode(packet))
	return true


func welcomed(_heartbeat_ms: int) -> void:
	welcomed_at = OS.get_ticks_msec()


func check() -> void:
	checks += 1


func leave() -> void:
	has_left = true


func close() -> void:
	is_closed = true


# What the network does.


func receive(seq: int, route: int, flags := 0, status := 0, payload := PoolByteArray()) -> void:
	var packet = {"seq": seq, "route": route, "flags": flags, "status": status, "payload": payload}
	emit_signal("received", Packet.encode(packet))


func welcome(id: String, resumed := false, packets_received := 0, replies_lost := 0) -> void:
	var payload = Proto.text_field(1, id)
	payload.append_array(Proto.text_field(3, "t"))
	payload.append_array(Proto.int_field(5, 1 if resumed else 0))
	payload.append_array(Proto.int_field(6, packets_received))
	payload.append_array(Proto.int_field(7, replies_lost))
	receive(0, 3, 0, 0, payload)


func end(kind: String, code = null) -> void:
	emit_signal("ended", {"kind": kind, "code": code}, "why %s" % code)
