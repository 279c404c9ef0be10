# The methods of a script that begin with `test_`, as tests.
extends Reference

var passed = 0
var wrong = []
var _tree
var _test = ""


# Runs the tests one after the other. Each may wait for the next frame of the game.
func run(tree: SceneTree):
	_tree = tree
	for method in get_method_list():
		if not method.name.begins_with("test_"):
			continue
		_test = method.name
		var failures = wrong.size()
		var state = call(_test)
		if state is GDScriptFunctionState:
			yield(state, "completed")
		if wrong.size() == failures:
			passed += 1
	yield(_tree, "idle_frame")


func _same(what: String, real, expected) -> void:
	if str(real) != str(expected):
		wrong.append("%s, %s: %s instead of %s" % [_test, what, real, expected])
