package policy

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Turns off automatic garbage collection, since a collection traps at the wrong moment. A collection reads the clock,
// which is a call into the gateway. The instance allocates memory for a payload or an entry while the gateway passes it,
// and a call into the gateway traps during this time. So collections begin only in collect.
func init() {
	debug.SetGCPercent(-1)
	allocated[0].Name = "/gc/heap/allocs:bytes"
}

const (
	// The number of allocated bytes after which a collection begins.
	collectAfter = 4 << 20
	// One of so many calls reads the number of allocated bytes, which takes some microseconds.
	callsPerRead = 16
)

var (
	calls     int
	allocated = make([]metrics.Sample, 1)
	// The number of bytes that were allocated until the last collection.
	collected uint64
)

// collect begins a garbage collection if enough memory was allocated since the last one. Call collect at the start of
// each function that the gateway calls, except for Describe and Configure.
func collect() {
	if calls++; calls%callsPerRead != 0 {
		return
	}
	metrics.Read(allocated)
	if total := allocated[0].Value.Uint64(); total-collected > collectAfter {
		collected = total
		runtime.GC()
	}
}
