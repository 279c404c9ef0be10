package export_gateway_policy_policy

import (
	"runtime"
	"runtime/debug"
)

// A collection asks for the time. While the gateway writes a payload into the instance's memory, the instance may ask for
// nothing, or it traps; and it is then that memory is allocated, and that a collection would begin by itself. So none does,
// and it is begun where asking is allowed.
func init() {
	debug.SetGCPercent(-1)
}

const (
	collectAfter = 4 << 20
	// About what a call allocates besides its payload's copies.
	perCall = 1 << 10
)

var garbage int

func collect(payload int) {
	garbage += perCall + 3*payload
	if garbage > collectAfter {
		garbage = 0
		runtime.GC()
	}
}
