# Runs the tests that need no gateway: godot --path client/godot --script test/run.gd
extends SceneTree

const Links = preload("links.gd")
const Sessions = preload("sessions.gd")
const Vectors = preload("vectors.gd")


func _initialize() -> void:
	var vectors = Vectors.new()
	vectors.run()
	var sessions = Sessions.new()
	yield(sessions.run(self), "completed")
	var links = Links.new()
	yield(links.run(self), "completed")
	var wrong = vectors.wrong + sessions.wrong + links.wrong
	for error in wrong:
		printerr(error)
	print("passed: %d" % (vectors.passed + sessions.passed + links.passed))
	quit(0 if wrong.empty() else 1)
