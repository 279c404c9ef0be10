package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

type settings struct {
	topic    string
	maxBytes int
	route    uint8
}

func parseSettings(text string) (settings, error) {
	parsed := settings{topic: "lobby", maxBytes: 64, route: defaultRoute}
	// Routes is not a []byte, since encoding/json would expect a base64 string.
	given := struct {
		Config map[string]json.RawMessage
		Routes []uint16
	}{}
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return parsed, err
	}
	for _, key := range slices.Sorted(maps.Keys(given.Config)) {
		if key != "topic" && key != "max_bytes" {
			return parsed, fmt.Errorf("config.%s: unknown key (known: topic, max_bytes)", key)
		}
	}
	if value, found := given.Config["topic"]; found {
		if !read(value, &parsed.topic) || !isTopic(parsed.topic) {
			return parsed, errors.New("config.topic: 1 to 64 characters of a-z 0-9 : _ - are allowed")
		}
	}
	if value, found := given.Config["max_bytes"]; found {
		if !read(value, &parsed.maxBytes) || parsed.maxBytes < 1 || parsed.maxBytes > 65536 {
			return parsed, errors.New("config.max_bytes: 1 to 65536 is allowed")
		}
	}
	if len(given.Routes) > 0 {
		parsed.route = uint8(given.Routes[0])
	}
	return parsed, nil
}

// read parses a JSON value. Unlike json.Unmarshal, it returns false for null instead of keeping the default.
func read[T any](value json.RawMessage, into *T) bool {
	var given *T
	if json.Unmarshal(value, &given) != nil || given == nil {
		return false
	}
	*into = *given
	return true
}

func isTopic(text string) bool {
	return len(text) >= 1 && len(text) <= 64 && hasOnly(text, "abcdefghijklmnopqrstuvwxyz0123456789:_-")
}
