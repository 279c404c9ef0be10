// This policy answers each packet with a greeting.
//
// The generated exports import this package, so its name and its path are fixed.
package export_gateway_policy_policy

import (
	wit "go.bytecodealliance.org/pkg/wit/types"
	policy "wit_component/gateway_policy_policy"
)

const route = {{route}}

const (
	statusOK        = 0
	statusMalformed = 2
)

func Describe() policy.Manifest {
	return policy.Manifest{Name: "{{name}}", Version: "0.1.0", Routes: []uint8{route}}
}

func Configure(settings string) wit.Result[[]string, string] {
	return wit.Ok[[]string, string](nil)
}

func OnPacket(packet policy.Packet, payload []uint8) wit.Result[[]policy.Action, policy.Rejection] {
	collect(len(payload))
	if len(payload) == 0 {
		rejection := policy.Rejection{Status: statusMalformed, Message: "the payload is empty"}
		return wit.Err[[]policy.Action, policy.Rejection](rejection)
	}
	body := append([]byte("hello, "), payload...)
	reply := policy.MakeActionReply(policy.Answer{Status: statusOK, Body: body})
	return wit.Ok[[]policy.Action, policy.Rejection]([]policy.Action{reply})
}

func OnMessage(topic string, payload []uint8) wit.Result[[]policy.Action, policy.Rejection] {
	collect(len(payload))
	return wit.Ok[[]policy.Action, policy.Rejection](nil)
}
