package export_gateway_policy_policy

import (
	"runtime"
	"runtime/debug"
)

// Turns off automatic garbage collection, since a collection traps at the wrong moment. A collection reads the clock,
// which is a call into the gateway. The instance allocates memory for a payload while the gateway passes the payload,
// and a call into the gateway traps during this time. So collections begin only in collect.
func init() {
	debug.SetGCPercent(-1)
}

const (
	// The number of allocated bytes after which a collection begins.
	collectAfter = 4 << 20
	// A rough number of bytes that a call allocates, not counting the copies of its payload.
	perCall = 1 << 10
)

// The estimated number of bytes that were allocated since the last collection.
var garbage int

// collect begins a garbage collection if enough memory was allocated since the last one. Call collect at the start of
// OnPacket and OnMessage, with the length of the payload in bytes.
func collect(payload int) {
	garbage += perCall + 3*payload
	if garbage > collectAfter {
		garbage = 0
		runtime.GC()
	}
}
