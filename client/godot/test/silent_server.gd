# A server that sends its welcome on each connection, then what else the test wants, and that never answers.
extends Reference

const Packet = preload("../addons/gateway/packet.gd")
const Proto = preload("../addons/gateway/proto.gd")

var url = ""
# The connections, and the heads of their requests.
var peers = []
var heads = []
# The payload of the push that follows each welcome, or null.
var push = null
var _server = TCP_Server.new()


func _init():
	randomize()
	var port = 20000 + randi() % 10000
	# Godot does not tell which port it has chosen for port 0.
	while _server.listen(port, "127.0.0.1") != OK:
		port += 1
	url = "ws://127.0.0.1:%d/ws" % port


# Whether the client has closed the connection with this index.
func is_closed(index: int) -> bool:
	return not peers[index].is_connected_to_host()


# Lets the connections go on. Has to be called often.
func poll() -> void:
	if _server.is_connection_available():
		peers.append(_server.take_connection())
		heads.append("")
	for index in peers.size():
		_read(index)


func _read(index: int) -> void:
	var peer = peers[index]
	# The status also finds out whether the client has closed the connection.
	if peer.get_status() != StreamPeerTCP.STATUS_CONNECTED or peer.get_available_bytes() == 0:
		return
	var text = peer.get_data(peer.get_available_bytes())[1].get_string_from_ascii()
	if "\r\n\r\n" in heads[index]:
		return
	heads[index] += text
	if "\r\n\r\n" in heads[index]:
		_welcome(peer, heads[index])


func _welcome(peer: StreamPeerTCP, head: String) -> void:
	var key = head.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
	var sha1 = HashingContext.new()
	sha1.start(HashingContext.HASH_SHA1)
	sha1.update((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").to_ascii())
	var accept = Marshalls.raw_to_base64(sha1.finish())
	var answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	peer.put_data((answer + "Sec-WebSocket-Accept: %s\r\n\r\n" % accept).to_ascii())
	var welcome = Proto.text_field(1, "s")
	welcome.append_array(Proto.text_field(3, "t"))
	welcome.append_array(Proto.int_field(5, 1 if "resume=" in head else 0))
	send(peer, {"seq": 0, "route": Packet.ROUTE_SYSTEM, "flags": 0, "status": 0, "payload": welcome})
	if push != null:
		send(peer, {"seq": 1, "route": 7, "flags": 0, "status": 0, "payload": push})


# Sends a packet to a client.
func send(peer: StreamPeerTCP, packet: Dictionary) -> void:
	var message = Packet.encode(packet)
	var size = message.size()
	var frame = PoolByteArray([0x82, size] if size < 126 else [0x82, 126, size >> 8, size & 0xff])
	frame.append_array(message)
	peer.put_data(frame)
