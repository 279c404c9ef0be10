// This policy answers each packet with a greeting.
//
// The exported functions are those of the interfaces plugin and policy in wit/policy.wit. With the world game in the
// Makefile, write those of three more interfaces: hearing (OnMessage) for bus messages, sessions (OnConnect and
// OnDisconnect) for the beginning and the end of sessions, and timers (OnWake).
package policy

import (
	wit "go.bytecodealliance.org/pkg/wit/types"
	plugin "wit_component/gateway_policy_plugin"
	types "wit_component/gateway_policy_types"
)

const route = {{route}}

const (
	statusOK        = 0
	statusMalformed = 2
)

func Describe() plugin.Manifest {
	return plugin.Manifest{Name: "{{name}}", Version: "0.1.0", Routes: []uint8{route}, Gatekeeper: true}
}

func Configure(settings string) wit.Result[[]string, string] {
	return wit.Ok[[]string, string](nil)
}

func OnPacket(packet types.Packet, payload []uint8) wit.Result[[]types.Action, types.Rejection] {
	collect()
	if len(payload) == 0 {
		rejection := types.Rejection{Status: statusMalformed, Message: "the payload is empty"}
		return wit.Err[[]types.Action, types.Rejection](rejection)
	}
	body := append([]byte("hello, "), payload...)
	// Other actions push a message to a group (Deliver), add a session to a group (Join), set a timer (Wake) and write
	// state (Put). Get in the package "wit_component/gateway_policy_state" reads state.
	reply := types.MakeActionReply(types.Answer{Status: statusOK, Body: body})
	return wit.Ok[[]types.Action, types.Rejection]([]types.Action{reply})
}
