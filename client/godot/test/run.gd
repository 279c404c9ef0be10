# Runs the tests that need no gateway: godot --path client/godot --script test/run.gd
extends SceneTree

const Sessions = preload("sessions.gd")
const Vectors = preload("vectors.gd")


func _initialize() -> void:
	var vectors = Vectors.new()
	vectors.run()
	var sessions = Sessions.new(self)
	yield(sessions.run(), "completed")
	var wrong = vectors.wrong + sessions.wrong
	for error in wrong:
		printerr(error)
	print("passed: %d" % (vectors.passed + sessions.passed))
	quit(0 if wrong.empty() else 1)
