// The lobby: clients log in, ask for their user, write to each other, and publish on the bus.
//
// The bindings call the exported functions of this package.
package policy

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	wit "go.bytecodealliance.org/pkg/wit/types"
	attributes "wit_component/gateway_policy_attributes"
	log "wit_component/gateway_policy_log"
	plugin "wit_component/gateway_policy_plugin"
	sessions "wit_component/gateway_policy_sessions"
	state "wit_component/gateway_policy_state"
	types "wit_component/gateway_policy_types"
)

const defaultRoute = 0x10

// The group of all sessions.
const everybody = 1

// The entry that counts the messages since the last report.
const saidKey = "said"

const (
	// The timer for the report of the count. It is set by the first message after a report.
	reportTimer   = 1
	reportAfterMs = 10_000
)

const (
	statusOK        = 0
	statusMalformed = 2
	statusRejected  = 4
	statusForbidden = 6
	statusLobby     = 256
)

// The settings can be a global variable, since an instance serves one call at a time.
var lobby settings

func Describe() plugin.Manifest {
	return plugin.Manifest{Name: "lobby", Version: "0.1.0", Routes: []uint8{defaultRoute}, Gatekeeper: true}
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

func OnPacket(packet types.Packet, payload []uint8) wit.Result[[]types.Action, types.Rejection] {
	collect()
	return result(decide(packet, payload))
}

func OnMessage(_ string, payload []uint8, _ uint64) wit.Result[[]types.Action, types.Rejection] {
	collect()
	return result(forward(payload))
}

func OnConnect(connection sessions.Connection) wit.Result[sessions.Admission, sessions.Denial] {
	collect()
	join := types.MakeActionJoin(types.Membership{Session: connection.Session, Group: everybody})
	admission := sessions.Admission{Actions: []types.Action{join}}
	if name, found := findName(connection.Query); found {
		if !isName(name) {
			message := "name: 1 to 16 characters of A-Z a-z 0-9 _ - are allowed"
			return wit.Err[sessions.Admission, sessions.Denial](sessions.Denial{Status: 400, Message: message})
		}
		admission.Attributes = []wit.Tuple2[string, string]{{F0: "name", F1: name}}
	}
	return wit.Ok[sessions.Admission, sessions.Denial](admission)
}

func OnDisconnect(departure sessions.Departure) []types.Action {
	collect()
	if departure.User.IsNone() {
		return nil
	}
	return []types.Action{types.MakeActionDeliver(toEverybody(fmt.Sprintf("%d left", departure.User.Some())))}
}

func OnWake(_ uint64, _ uint64) []types.Action {
	collect()
	said, found := readSaid()
	if !found {
		return nil
	}
	report := toEverybody(fmt.Sprintf("messages: %d", said))
	report.Keep = types.MakeKeepLatest(reportTimer)
	return []types.Action{types.MakeActionDeliver(report), putSaid(wit.None[[]uint8]())}
}

func result(actions []types.Action, rejection *types.Rejection) wit.Result[[]types.Action, types.Rejection] {
	if rejection != nil {
		return wit.Err[[]types.Action, types.Rejection](*rejection)
	}
	return wit.Ok[[]types.Action, types.Rejection](actions)
}

func decide(packet types.Packet, payload []byte) ([]types.Action, *types.Rejection) {
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
		return perform(types.MakeActionEcho())
	case "bye":
		closing := types.Closing{Code: 1000, Reason: "bye"}
		return perform(types.MakeActionEnd(types.Ending{Whom: types.MakeTargetSender(), Closing: closing}))
	case "status":
		return perform(reply(statusLobby, "lobby"))
	case "crash":
		panic("a client asked for it")
	}
	if strings.HasPrefix(text, "login ") {
		return reject(statusRejected, "already logged in")
	}
	if words, found := strings.CutPrefix(text, "say "); found && words != "" {
		return say(packet, words)
	}
	return send(user, text)
}

func logIn(text string) ([]types.Action, *types.Rejection) {
	name, found := strings.CutPrefix(text, "login ")
	user, ok := parseUser(name)
	if !found || !ok {
		return reject(statusForbidden, "log in first")
	}
	return perform(types.MakeActionBind(user), reply(statusOK, fmt.Sprintf("welcome %d", user)))
}

// say delivers a text to everybody else, and counts it.
func say(packet types.Packet, text string) ([]types.Action, *types.Rejection) {
	name := attributes.Get(packet.Session, "name").SomeOr(strconv.FormatInt(packet.User.Some(), 10))
	message := toEverybody(name + ": " + text)
	message.Except = wit.Some(packet.Session)
	said, found := readSaid()
	actions := []types.Action{
		types.MakeActionDeliver(message),
		putSaid(wit.Some(strconv.AppendUint(nil, said+1, 10))),
	}
	if !found {
		alarm := types.Alarm{Key: reportTimer, AfterMs: wit.Some[uint64](reportAfterMs)}
		actions = append(actions, types.MakeActionWake(alarm))
	}
	return perform(append(actions, reply(statusOK, "sent"))...)
}

// readSaid returns the number of messages since the last report, and whether there are any.
func readSaid() (uint64, bool) {
	value := state.Get(saidKey)
	if value.IsNone() {
		return 0, false
	}
	said, err := strconv.ParseUint(string(value.Some()), 10, 64)
	return said, err == nil
}

func putSaid(value wit.Option[[]uint8]) types.Action {
	return types.MakeActionPut(types.Entry{Key: saidKey, Value: value})
}

// send delivers a text of the form "to USER TEXT" to one user, and publishes any other text on the bus.
func send(from int64, text string) ([]types.Action, *types.Rejection) {
	if rest, found := strings.CutPrefix(text, "to "); found {
		to, words, _ := strings.Cut(rest, " ")
		if user, ok := parseUser(to); ok && words != "" {
			body := fmt.Appendf(nil, "from %d: %s", from, words)
			return perform(deliver(types.MakeTargetUser(user), wit.Some(body)), reply(statusOK, "sent"))
		}
	}
	return perform(types.MakeActionPublish(types.Publication{Topic: lobby.topic}))
}

// forward delivers a bus message, unchanged, to the user or the session that the message begins with.
func forward(message []byte) ([]types.Action, *types.Rejection) {
	to, text, _ := bytes.Cut(message, []byte(" "))
	if utf8.Valid(message) && len(text) > 0 {
		if user, ok := parseUser(string(to)); ok {
			return perform(deliver(types.MakeTargetUser(user), wit.None[[]uint8]()))
		}
		if session, ok := parseSession(string(to)); ok {
			return perform(deliver(types.MakeTargetSession(session), wit.None[[]uint8]()))
		}
	}
	return reject(statusMalformed, "a message is `USER TEXT` or `SESSION TEXT`")
}

func perform(actions ...types.Action) ([]types.Action, *types.Rejection) {
	return actions, nil
}

func reject(status uint16, message string) ([]types.Action, *types.Rejection) {
	return nil, &types.Rejection{Status: status, Message: message}
}

func reply(status uint16, text string) types.Action {
	return types.MakeActionReply(types.Answer{Status: status, Body: []byte(text)})
}

func deliver(to types.Target, body wit.Option[[]uint8]) types.Action {
	return types.MakeActionDeliver(delivery(to, body))
}

func toEverybody(text string) types.Delivery {
	return delivery(types.MakeTargetGroup(everybody), wit.Some([]byte(text)))
}

func delivery(to types.Target, body wit.Option[[]uint8]) types.Delivery {
	return types.Delivery{To: to, Route: lobby.route, Body: body}
}

// findName returns the value of the first parameter "name", as it is written in the query.
func findName(query string) (string, bool) {
	for parameter := range strings.SplitSeq(query, "&") {
		if name, found := strings.CutPrefix(parameter, "name="); found {
			return name, true
		}
	}
	return "", false
}

func isName(text string) bool {
	return len(text) >= 1 && len(text) <= 16 &&
		hasOnly(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
}

func hasOnly(text, set string) bool {
	return strings.Trim(text, set) == ""
}

func parseUser(text string) (int64, bool) {
	// ParseUint rejects a sign, but accepts leading zeros.
	if strings.HasPrefix(text, "0") {
		return 0, false
	}
	user, err := strconv.ParseUint(text, 10, 63)
	return int64(user), err == nil
}

func parseSession(text string) (types.SessionId, bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return types.SessionId{}, false
	}
	high, err := strconv.ParseUint(text[:8]+text[9:13]+text[14:18], 16, 64)
	if err != nil {
		return types.SessionId{}, false
	}
	low, err := strconv.ParseUint(text[19:23]+text[24:], 16, 64)
	return types.SessionId{High: high, Low: low}, err == nil
}

func formatSession(id types.SessionId) string {
	digits := fmt.Sprintf("%016x%016x", id.High, id.Low)
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
}
