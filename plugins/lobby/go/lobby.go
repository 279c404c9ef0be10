// The lobby: clients log in, ask for their user, write to each other, and publish on the bus.
//
// The generated exports import this package, so its name and its path are fixed.
package export_gateway_policy_policy

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	wit "go.bytecodealliance.org/pkg/wit/types"
	log "wit_component/gateway_policy_log"
	policy "wit_component/gateway_policy_policy"
)

const defaultRoute = 0x10

const (
	statusOK        = 0
	statusMalformed = 2
	statusRejected  = 4
	statusForbidden = 6
	statusLobby     = 256
)

// The settings can be a global variable, since an instance serves one call at a time.
var lobby settings

func Describe() policy.Manifest {
	return policy.Manifest{Name: "lobby", Version: "0.1.0", Routes: []uint8{defaultRoute}}
}

func Configure(text string) wit.Result[[]string, string] {
	parsed, err := parseSettings(text)
	if err != nil {
		return wit.Err[[]string, string](err.Error())
	}
	lobby = parsed
	log.Write(log.LevelDebug, "lobby configured")
	return wit.Ok[[]string, string]([]string{lobby.topic + ":out"})
}

func OnPacket(packet policy.Packet, payload []uint8) wit.Result[[]policy.Action, policy.Rejection] {
	collect(len(payload))
	return result(decide(packet, payload))
}

func OnMessage(_ string, payload []uint8) wit.Result[[]policy.Action, policy.Rejection] {
	collect(len(payload))
	return result(forward(payload))
}

func result(actions []policy.Action, rejection *policy.Rejection) wit.Result[[]policy.Action, policy.Rejection] {
	if rejection != nil {
		return wit.Err[[]policy.Action, policy.Rejection](*rejection)
	}
	return wit.Ok[[]policy.Action, policy.Rejection](actions)
}

func decide(packet policy.Packet, payload []byte) ([]policy.Action, *policy.Rejection) {
	switch {
	case len(payload) == 0:
		return reject(statusMalformed, "the payload is empty")
	case !utf8.Valid(payload):
		return reject(statusMalformed, "the payload is not UTF-8")
	case len(payload) > lobby.maxBytes:
		return reject(statusRejected, fmt.Sprintf("more than %d bytes", lobby.maxBytes))
	}
	text := string(payload)
	if packet.User.IsNone() {
		return logIn(text)
	}
	user := packet.User.Some()
	switch text {
	case "whoami":
		return perform(reply(statusOK, fmt.Sprintf("user %d, session %s", user, formatSession(packet.Session))))
	case "ping":
		return perform(policy.MakeActionEcho())
	case "bye":
		return perform(policy.MakeActionClose(policy.Closing{Code: 1000, Reason: "bye"}))
	case "status":
		return perform(reply(statusLobby, "lobby"))
	case "crash":
		panic("a client asked for it")
	}
	if strings.HasPrefix(text, "login ") {
		return reject(statusRejected, "already logged in")
	}
	return say(user, text)
}

func logIn(text string) ([]policy.Action, *policy.Rejection) {
	name, found := strings.CutPrefix(text, "login ")
	user, ok := parseUser(name)
	if !found || !ok {
		return reject(statusForbidden, "log in first")
	}
	return perform(policy.MakeActionBind(user), reply(statusOK, fmt.Sprintf("welcome %d", user)))
}

// say delivers a text of the form "to USER TEXT" to one user, and publishes any other text on the bus.
func say(from int32, text string) ([]policy.Action, *policy.Rejection) {
	if rest, found := strings.CutPrefix(text, "to "); found {
		to, words, _ := strings.Cut(rest, " ")
		if user, ok := parseUser(to); ok && words != "" {
			body := fmt.Appendf(nil, "from %d: %s", from, words)
			return perform(deliver(policy.MakeTargetUser(user), wit.Some(body)), reply(statusOK, "sent"))
		}
	}
	return perform(policy.MakeActionPublish(policy.Publication{Topic: lobby.topic, Body: wit.None[[]uint8]()}))
}

// forward delivers a bus message, unchanged, to the user or the session that the message begins with.
func forward(message []byte) ([]policy.Action, *policy.Rejection) {
	to, text, _ := bytes.Cut(message, []byte(" "))
	if utf8.Valid(message) && len(text) > 0 {
		if user, ok := parseUser(string(to)); ok {
			return perform(deliver(policy.MakeTargetUser(user), wit.None[[]uint8]()))
		}
		if session, ok := parseSession(string(to)); ok {
			return perform(deliver(policy.MakeTargetSession(session), wit.None[[]uint8]()))
		}
	}
	return reject(statusMalformed, "a message is `USER TEXT` or `SESSION TEXT`")
}

func perform(actions ...policy.Action) ([]policy.Action, *policy.Rejection) {
	return actions, nil
}

func reject(status uint16, message string) ([]policy.Action, *policy.Rejection) {
	return nil, &policy.Rejection{Status: status, Message: message}
}

func reply(status uint16, text string) policy.Action {
	return policy.MakeActionReply(policy.Answer{Status: status, Body: []byte(text)})
}

func deliver(to policy.Target, body wit.Option[[]uint8]) policy.Action {
	return policy.MakeActionDeliver(policy.Delivery{To: to, Route: lobby.route, Body: body})
}

func parseUser(text string) (int32, bool) {
	// ParseUint rejects a sign, but accepts leading zeros.
	if strings.HasPrefix(text, "0") {
		return 0, false
	}
	user, err := strconv.ParseUint(text, 10, 31)
	return int32(user), err == nil
}

func parseSession(text string) (policy.SessionId, bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return policy.SessionId{}, false
	}
	high, err := strconv.ParseUint(text[:8]+text[9:13]+text[14:18], 16, 64)
	if err != nil {
		return policy.SessionId{}, false
	}
	low, err := strconv.ParseUint(text[19:23]+text[24:], 16, 64)
	return policy.SessionId{High: high, Low: low}, err == nil
}

func formatSession(id policy.SessionId) string {
	digits := fmt.Sprintf("%016x%016x", id.High, id.Low)
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
}
