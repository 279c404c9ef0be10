# What comes of a request.
extends Reference

# The payload of the reply, and null. Or null, and the error: see README.md.
signal completed(payload, error)
