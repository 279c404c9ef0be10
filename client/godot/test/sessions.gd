# Tests of the session on connections that the test plays.
extends "suite.gd"

const Proto = preload("../addons/gateway/proto.gd")
const Session = preload("session_on_fake_links.gd")
const State = preload("../addons/gateway/state.gd")
const Upgrade = preload("../addons/gateway/upgrade.gd")

var _tokens = []


func _session(token = "") -> Session:
	var session = Session.new()
	session.token = token
	_tree.root.add_child(session)
	session.begin("ws://a/ws")
	return session


func _begun(token = "") -> Session:
	var session = _session(token)
	session.links[0].welcome("s")
	return session


func _seqs(link) -> Array:
	var seqs = []
	for packet in link.sent:
		seqs.append(packet.seq)
	return seqs


func _control(field: int, inner: PoolByteArray) -> PoolByteArray:
	return Proto.message_field(field, inner)


func test_packets_before_the_welcome_wait_for_it_and_a_reply_finds_its_request():
	var session = _session()
	session.ask("a")
	_same("sent", _seqs(session.links[0]), [])
	session.links[0].welcome("s1")
	_same("sent", _seqs(session.links[0]), [1])
	session.links[0].receive(1, 9, 1, 0, "A".to_utf8())
	_same("results", session.results, {"a": "A"})
	_same("id", session.id, "s1")


func test_refusals():
	var session = _begun()
	session.ask("a")
	session.links[0].receive(1, 9, 1, 3, "no".to_utf8())
	_same("results", session.results, {"a": "status"})
	session.links[0].receive(session.send(1, "?"), 1, 1, 300, "not now".to_utf8())
	_same("events", session.events, ["welcome", "refused 2: 300 not now"])


func test_pushes_come_once_and_gaps_are_told_and_what_follows_acknowledges():
	var session = _begun()
	for number in [1, 2, 2, 5]:
		session.links[0].receive(number, 7)
	_same("events", session.events, ["welcome", "push", "push", "gap", "push"])
	session.send(7, "")
	var packet = session.links[0].sent[0]
	_same("acknowledgement", [packet.flags, packet.status], [4, 5])


func test_a_session_that_is_cut_sends_again_what_was_not_received():
	var session = _begun()
	session.links[0].receive(1, 7)
	for name in ["a", "b"]:
		session.ask(name)
	session.links[0].receive(1, 9, 1, 0, "A".to_utf8())
	var second = session.back()
	_same("url", second.url, "ws://a/ws?resume=t&seen=1&replies=1")
	session.ask("c")
	second.welcome("s", true, 1)
	_same("sent", _seqs(second), [2, 3])
	second.receive(2, 9, 1, 0, "B".to_utf8())
	second.receive(3, 9, 1, 0, "C".to_utf8())
	_same("results", session.results, {"a": "A", "b": "B", "c": "C"})
	_same("events", session.events, ["welcome", "push", "reconnecting", "welcome", "resumed"])


func test_a_new_session_fails_the_requests_of_the_old_one():
	var session = _begun()
	session.ask("a")
	var second = session.back("closed", 1001)
	session.ask("b")
	second.welcome("new")
	yield(_tree, "idle_frame")
	_same("results", session.results, {"a": "lost", "b": "lost"})
	_same("events", session.events, ["welcome", "reconnecting", "welcome", "new_session"])
	_same("sent", _seqs(second), [])


func test_packets_that_are_no_longer_kept_fail_their_requests():
	var session = _begun()
	var second = session.back()
	for index in 258:
		session.ask(str(index))
	second.welcome("s", true)
	yield(_tree, "idle_frame")
	_same("results", session.results, {"0": "lost", "1": "lost"})
	_same("sent", second.sent.size(), 256)


func test_packets_wait_for_a_connection_that_takes_none_and_are_sent_once():
	var session = _begun()
	var first = session.links[0]
	first.is_stuck = true
	for index in 300:
		session.ask(str(index))
	first.is_stuck = false
	session._process(0)
	_same("sent", first.sent.size(), 300)
	for seq in range(1, 301):
		first.receive(seq, 9, 1)
	_same("results", session.results.size(), 300)
	var second = session.back()
	second.welcome("s", true, 300)
	_same("sent again", second.sent, [])


func test_packets_that_are_too_large_are_refused():
	var session = _begun()
	var payload = PoolByteArray()
	payload.resize(1024 * 1024 - 8)
	_same("seq", session.send(9, payload), 1)
	payload.append(0)
	_same("refused", session.send(9, payload), -1)
	session.ask("b")
	var reply = session.request(9, payload)
	reply.connect("completed", session, "_record_result", ["large"])
	yield(_tree, "idle_frame")
	_same("results", session.results, {"large": "too_large"})
	_same("sent", _seqs(session.links[0]), [1, 2])


func test_replies_that_the_gateway_has_lost_fail_their_requests_and_only_these():
	var session = _begun()
	for name in ["a", "b"]:
		session.ask(name)
	var second = session.back()
	second.welcome("s", true, 2, 1)
	session.ask("c")
	second.receive(2, 9, 1, 0, "B".to_utf8())
	second.receive(3, 3, 1, 0)
	second.receive(4, 9, 1, 0, "C".to_utf8())
	yield(_tree, "idle_frame")
	_same("a", session.results.get("a"), "lost")
	_same("results", [session.results.get("b"), session.results.get("c")], ["B", "C"])


func test_a_refusal_that_comes_after_its_request_counted_as_lost_is_nobodys():
	var session = _begun()
	for name in ["a", "b"]:
		session.ask(name)
	var second = session.back()
	second.welcome("s", true, 2, 1)
	second.receive(3, 3, 1)
	yield(_tree, "idle_frame")
	second.receive(2, 9, 1, 5, "late".to_utf8())
	_same("results", session.results, {"a": "lost", "b": "lost"})
	_same("events", session.events, ["welcome", "reconnecting", "welcome", "resumed"])
	for _index in 300:
		session._on_beat()
	_same("bound", session._unwanted.size(), 256)


func test_a_code_that_does_not_come_back_ends_everything():
	var session = _begun()
	session.ask("a")
	session.links[0].end("closed", 4009)
	session.ask("b")
	yield(_tree, "idle_frame")
	_same("results", session.results, {"a": "closed", "b": "closed"})
	_same("events", session.events, ["welcome", "closed"])
	_same("over", [session.over.kind, session.over.code, session.send(9, "")], ["closed", 4009, -1])


func test_a_Reconnect_is_obeyed_when_its_time_has_come():
	var session = _begun()
	var reconnect = Proto.text_field(1, "ws://b/ws")
	session.links[0].receive(0, 0, 0, 0, _control(3, reconnect))
	_same("before", session.links[0].has_left, false)
	session._process(0)
	_same("after", session.links[0].has_left, true)
	session.links[0].emit_signal("ended", null, "left")
	_same("events", session.events, ["welcome", "reconnecting"])
	session._connects_at = 0
	session._process(0)
	_same("url", session.links[1].url, "ws://b/ws?resume=t&seen=0&replies=0")


func test_a_token_is_renewed_by_the_function():
	_tokens = ["T1", "T2", "T3", "T3"]
	var session = _begun(funcref(self, "_next_token"))
	_same("headers", session.links[0].headers, ["Authorization: Bearer T1"])
	session.links[0].receive(0, 0, 0, 0, _control(1, Proto.int_field(1, 30000)))
	_same("sent", session.links[0].sent[0].payload.hex_encode(), "0a040a025432")
	session.links[0].receive(1, 0, 1)
	var second = session.back("closed", 4001)
	_same("headers", second.headers, ["Authorization: Bearer T3"])


func _next_token() -> String:
	return _tokens.pop_front()


func test_a_token_is_a_header_or_what_a_page_can_send():
	var none = PoolStringArray()
	var game = PoolStringArray(["game.v1"])
	var bearer = ["Authorization: Bearer T.0"]
	_same("engine", Upgrade.with_token("ws://a/ws", game, "T.0", true), ["ws://a/ws", game, bearer])
	_same("page", Upgrade.with_token("ws://a/ws", game, "T.0", false), ["ws://a/ws", ["game.v1", "bearer.T.0"], none])
	_same("alone", Upgrade.with_token("ws://a/ws", none, "T.0", false), ["ws://a/ws?token=T.0", none, none])
	for case in [["ws://a/ws?", "ws://a/ws?token=T%3d"], ["ws://a/ws?x=1", "ws://a/ws?x=1&token=T%3d"]]:
		_same(case[0], Upgrade.with_token(case[0], none, "T=", false), [case[1], none, none])
	for has_headers in [true, false]:
		_same("no token", Upgrade.with_token("ws://a/ws", game, "", has_headers), ["ws://a/ws", game, none])
	_same("unchanged", game, ["game.v1"])


func test_a_session_that_is_closed_by_its_function_of_tokens_says_nothing_more():
	_tokens = ["T1"]
	var session = _begun(funcref(self, "_next_token"))
	session.token = funcref(session, "close_for_token")
	session.links[0].end("closed", 4001)
	_same("events", session.events, ["welcome", "closed"])
	_tokens = ["T1"]
	var other = _begun(funcref(self, "_next_token"))
	other.token = funcref(other, "close_for_token")
	var last = other.back()
	_same("connections", [other.links.size(), last.url], [1, "ws://a/ws"])
	_same("events", other.events, ["welcome", "reconnecting", "closed"])


func test_a_session_that_is_woken_up_while_it_waits_connects_at_once():
	var session = _begun()
	session.links[0].end("lost")
	session.wake()
	session._process(0)
	_same("connections", session.links.size(), 2)
	# There is an attempt already.
	session.wake()
	session._process(0)
	_same("connections", session.links.size(), 2)
	session.links[1].welcome("s", true)
	_same("events", session.events, ["welcome", "reconnecting", "welcome", "resumed"])


func test_a_session_that_is_woken_up_does_not_connect_earlier_than_the_gateway_has_asked_for():
	var session = _begun()
	var before = OS.get_ticks_msec()
	session.links[0].end("closed", 1009)
	session.wake()
	_same("least", session._connects_at >= before + 10000, true)
	_same("most", session._connects_at <= OS.get_ticks_msec() + 10000, true)


func test_a_session_that_is_woken_up_checks_its_connection_unless_it_is_over():
	var session = _begun()
	session.wake()
	_same("checks", session.links[0].checks, 1)
	session.close()
	session.wake()
	session._process(0)
	_same("over", [session.links[0].checks, session.links.size()], [1, 1])


func test_a_session_goes_on_while_the_game_is_paused():
	var session = _begun()
	session.links[0].end("lost")
	session.wake()
	_tree.paused = true
	# The nodes are processed between two of these.
	for _index in 2:
		yield(_tree, "idle_frame")
	_tree.paused = false
	_same("connections", session.links.size(), 2)


func test_a_session_is_given_up_after_two_resumes_that_brought_nothing():
	var session = _begun()
	session.back("silent").welcome("s", true)
	session.back("silent").welcome("s", true)
	# A connection that has brought something was good, and another end has another reason.
	session.links.back().receive(1, 7)
	session.back("silent").welcome("s", true)
	session.back("silent").welcome("s", true)
	session.back("lost").welcome("s", true)
	session.back("silent")
	# An attempt without an answer says nothing.
	session.back("unreachable").welcome("s", true)
	_same("resumes", "resume=" in session.links.back().url, true)
	var last = session.back("silent")
	_same("url", last.url, "ws://a/ws")
	last.welcome("new")
	_same("event", session.events.back(), "new_session")
	# The new session can be resumed.
	_same("resumes", "resume=" in session.back("silent").url, true)


func test_without_a_new_token_the_session_is_over_when_its_token_has_expired():
	var session = _begun("T")
	session.links[0].end("closed", 4001)
	_same("over", session.over.code, 4001)


func test_a_session_that_is_closed_by_a_listener_says_nothing_more():
	var session = _begun()
	var second = session.back()
	session.connect("welcome", self, "_close_it", [session])
	second.welcome("s", true, 0, 1)
	# Godot calls the listeners of one signal in any order.
	_same("resumed", ["resumed" in session.events, "closed" in session.events], [false, true])
	_same("closed", second.is_closed, true)
	var other = _begun()
	other.connect("gap", self, "_close_it", [other])
	other.links[0].receive(3, 7)
	_same("push", ["push" in other.events, "closed" in other.events], [false, true])


func _close_it(_event, session: Session) -> void:
	session.close()


func test_a_first_connection_that_fails_and_a_server_that_is_no_gateway_end_the_session():
	var unreachable = _session()
	unreachable.links[0].end("unreachable")
	_same("events", unreachable.events, ["closed"])
	var stranger = _session()
	stranger.links[0].emit_signal("received", null)
	_same("events", stranger.events, ["closed"])
	_same("closed", stranger.links[0].is_closed, true)


func test_the_size_of_a_gap_is_right_where_the_numbers_begin_anew():
	var state = State.new("ws://a/ws")
	var missing = []
	for number in [4294967294, 4294967295, 1, 3, 3]:
		missing.append(state.receive({"seq": number, "flags": 0}))
	_same("missing", missing, [4294967293, 0, 0, 1, -1])


func test_a_token_of_a_gateway_does_not_make_the_url_endless():
	for length in [1024, 1025]:
		var state = State.new("ws://a/ws")
		var token = "t".repeat(length)
		state.welcome({"resume_token": token, "resumed": false, "packets_received": 0, "replies_lost": 0})
		_same(str(length), "resume" in state.url(), length == 1024)
