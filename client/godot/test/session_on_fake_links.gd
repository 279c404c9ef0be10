# A session whose connections the test plays.
extends "../addons/gateway/session.gd"

const FakeLink = preload("fake_link.gd")

var links = []
# The names of the signals, and the results of requests by their names.
var events = []
var results = {}


func _init():
	for event in ["welcome", "push", "resumed", "new_session", "gap", "reconnecting", "token_expires", "closed"]:
		connect(event, self, "_record", [event])
	connect("refused", self, "_record_refusal")


func _new_link():
	links.append(FakeLink.new())
	return links.back()


func _record(_content, event: String) -> void:
	events.append(event)


func _record_refusal(seq: int, error: Dictionary) -> void:
	events.append("refused %d: %d %s" % [seq, error.status, error.text])


# Sends a request. Its result is the text of the reply, or the kind of the error.
func ask(name: String) -> void:
	request(9, name).connect("completed", self, "_record_result", [name])


func _record_result(payload, error, name: String) -> void:
	results[name] = payload.get_string_from_utf8() if error == null else error.kind


# Returns a token, which comes too late.
func close_for_token() -> String:
	close()
	return "late"


# Breaks the connection, and connects again without a delay. Returns the new connection.
func back(kind := "lost", code = null):
	links.back().end(kind, code)
	_connects_at = 0
	_process(0)
	return links.back()
