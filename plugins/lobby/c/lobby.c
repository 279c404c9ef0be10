// The lobby: log in, see who you are, write to one another, and talk to whoever listens on the bus.
//
// What an exported function is handed belongs to it, and what it answers with is freed by the caller: so inputs are freed here,
// once, and everything in an answer is allocated.
#define _GNU_SOURCE // vasprintf
#include "json.h"
#include "plugin.h"
#include "text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUTE = 0x10, TOPIC_MAX = 64, BYTES_MAX = 65536, CLOSE_NORMAL = 1000 };
enum { OK = 0, MALFORMED_PAYLOAD = 2, REJECTED = 4, FORBIDDEN = 6, LOBBY = 256 };

static struct {
  char topic[TOPIC_MAX + 1];
  uint32_t max_bytes;
  uint8_t route;
} lobby;

static plugin_string_t print(const char *format, ...) {
  char *text;
  va_list arguments;
  va_start(arguments, format);
  int len = vasprintf(&text, format, arguments);
  va_end(arguments);
  if (len < 0) abort();
  return (plugin_string_t){(uint8_t *)text, (size_t)len};
}

static void append(plugin_string_t *string, text_t text) {
  string->ptr = realloc(string->ptr, string->len + text.len);
  if (string->ptr == NULL) abort();
  memcpy(string->ptr + string->len, text.at, text.len);
  string->len += text.len;
}

static policy_action_t *add(policy_list_action_t *actions, uint8_t tag) {
  actions->ptr = realloc(actions->ptr, (actions->len + 1) * sizeof *actions->ptr);
  if (actions->ptr == NULL) abort();
  policy_action_t *action = &actions->ptr[actions->len++];
  // Whatever is not set below is none.
  memset(action, 0, sizeof *action);
  action->tag = tag;
  return action;
}

static void reply(policy_list_action_t *actions, uint16_t status, plugin_string_t body) {
  policy_answer_t *answer = &add(actions, POLICY_ACTION_REPLY)->val.reply;
  *answer = (policy_answer_t){status, {body.ptr, body.len}};
}

static policy_delivery_t *deliver(policy_list_action_t *actions, policy_target_t to) {
  policy_delivery_t *delivery = &add(actions, POLICY_ACTION_DELIVER)->val.deliver;
  delivery->to = to;
  delivery->route = lobby.route;
  return delivery;
}

static bool reject(policy_rejection_t *rejection, uint16_t status, plugin_string_t message) {
  *rejection = (policy_rejection_t){status, message};
  return false;
}

// Of the copy of the settings' text, since a name with escapes has to be written out.
static bool set_topic(text_t value) {
  text_t topic;
  char *room = malloc(value.len + 1);
  if (room == NULL) abort();
  bool allowed = json_string(value, room, &topic) && topic.len >= 1 && topic.len <= TOPIC_MAX;
  for (size_t i = 0; allowed && i < topic.len; i++) {
    allowed = memchr("abcdefghijklmnopqrstuvwxyz0123456789:_-", topic.at[i], 39) != NULL;
  }
  if (allowed) {
    memcpy(lobby.topic, topic.at, topic.len);
    lobby.topic[topic.len] = '\0';
  }
  free(room);
  return allowed;
}

static bool refuse_key(text_t key, plugin_string_t *error) {
  char *room = malloc(key.len);
  if (room == NULL) abort();
  text_t name = text_of("");
  json_string(key, room, &name);
  *error = print("config.%.*s: unknown key (known: topic, max_bytes)", (int)name.len, name.at);
  free(room);
  return false;
}

static bool read_config(text_t config, plugin_string_t *error) {
  text_t topic = text_of("\"lobby\""), max_bytes = text_of("64");
  for (text_t key, value; json_next(&config, &key, &value);) {
    if (text_is(key, "\"topic\"")) topic = value;
    else if (text_is(key, "\"max_bytes\"")) max_bytes = value;
    else return refuse_key(key, error);
  }
  if (!set_topic(topic)) {
    *error = print("config.topic: 1 to %d characters of a-z 0-9 : _ - are allowed", TOPIC_MAX);
    return false;
  }
  if (!json_integer(max_bytes, &lobby.max_bytes) || lobby.max_bytes < 1 || lobby.max_bytes > BYTES_MAX) {
    *error = print("config.max_bytes: 1 to %d is allowed", BYTES_MAX);
    return false;
  }
  return true;
}

void policy_describe(policy_manifest_t *manifest) {
  manifest->name = print("lobby");
  manifest->version = print("0.1.0");
  plugin_string_t routes = print("%c", ROUTE);
  manifest->routes = (plugin_list_u8_t){routes.ptr, routes.len};
}

bool policy_configure(plugin_string_t *settings, plugin_list_string_t *topics, plugin_string_t *error) {
  text_t rest = {(const char *)settings->ptr, settings->len}, config = text_of("{}"), routes = text_of("[]");
  for (text_t key, value; json_next(&rest, &key, &value);) {
    if (text_is(key, "\"config\"")) config = value;
    if (text_is(key, "\"routes\"")) routes = value;
  }
  bool accepted = read_config(config, error);
  text_t first;
  uint32_t route = ROUTE;
  if (json_next(&routes, NULL, &first)) json_integer(first, &route);
  lobby.route = (uint8_t)route;
  plugin_string_free(settings);
  if (!accepted) return false;

  plugin_string_t line;
  plugin_string_set(&line, "lobby configured");
  gateway_policy_log_write(GATEWAY_POLICY_LOG_LEVEL_DEBUG, &line);
  topics->ptr = malloc(sizeof *topics->ptr);
  if (topics->ptr == NULL) abort();
  topics->ptr[0] = print("%s:out", lobby.topic);
  topics->len = 1;
  return true;
}

static bool log_in(text_t text, policy_list_action_t *actions, policy_rejection_t *rejection) {
  int32_t user;
  if (!text_skip(&text, "login ") || !text_to_user(text, &user)) return reject(rejection, FORBIDDEN, print("log in first"));
  add(actions, POLICY_ACTION_BIND)->val.bind = user;
  reply(actions, OK, print("welcome %" PRId32, user));
  return true;
}

// To one user with "to USER TEXT", else to everybody who listens on the bus.
static void say(int32_t from, text_t text, policy_list_action_t *actions) {
  text_t rest = text, head, words;
  policy_target_t to = {.tag = POLICY_TARGET_USER};
  if (text_skip(&rest, "to ") && text_split(rest, &head, &words) && text_to_user(head, &to.val.user)) {
    plugin_string_t body = print("from %" PRId32 ": ", from);
    append(&body, words);
    deliver(actions, to)->body = (plugin_option_list_u8_t){true, {body.ptr, body.len}};
    reply(actions, OK, print("sent"));
  } else {
    add(actions, POLICY_ACTION_PUBLISH)->val.publish.topic = print("%s", lobby.topic);
  }
}

static bool decide(const policy_packet_t *packet, text_t text, policy_list_action_t *actions, policy_rejection_t *rejection) {
  if (text.len == 0) return reject(rejection, MALFORMED_PAYLOAD, print("the payload is empty"));
  if (!text_is_utf8(text)) return reject(rejection, MALFORMED_PAYLOAD, print("the payload is not UTF-8"));
  if (text.len > lobby.max_bytes) return reject(rejection, REJECTED, print("more than %" PRIu32 " bytes", lobby.max_bytes));
  if (!packet->user.is_some) return log_in(text, actions, rejection);

  int32_t user = packet->user.val;
  if (text_is(text, "whoami")) {
    uint64_t high = packet->session.high, low = packet->session.low;
    reply(actions, OK,
          print("user %" PRId32 ", session %08" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%012" PRIx64, user, high >> 32,
                high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffffffffffff));
  } else if (text_is(text, "ping")) {
    add(actions, POLICY_ACTION_ECHO);
  } else if (text_is(text, "bye")) {
    add(actions, POLICY_ACTION_CLOSE)->val.close = (policy_closing_t){CLOSE_NORMAL, print("bye")};
  } else if (text_is(text, "status")) {
    reply(actions, LOBBY, print("lobby"));
  } else if (text_is(text, "crash")) {
    abort();
  } else if (text_skip(&text, "login ")) {
    return reject(rejection, REJECTED, print("already logged in"));
  } else {
    say(user, text, actions);
  }
  return true;
}

bool policy_on_packet(policy_packet_t *packet, plugin_list_u8_t *payload, policy_list_action_t *actions,
                      policy_rejection_t *rejection) {
  *actions = (policy_list_action_t){NULL, 0};
  bool served = decide(packet, (text_t){(const char *)payload->ptr, payload->len}, actions, rejection);
  plugin_list_u8_free(payload);
  return served;
}

bool policy_on_message(plugin_string_t *topic, plugin_list_u8_t *payload, policy_list_action_t *actions,
                       policy_rejection_t *rejection) {
  *actions = (policy_list_action_t){NULL, 0};
  text_t text = {(const char *)payload->ptr, payload->len}, head, words;
  policy_target_t user = {.tag = POLICY_TARGET_USER}, session = {.tag = POLICY_TARGET_SESSION};
  bool form = text_is_utf8(text) && text_split(text, &head, &words);
  bool served = true;
  if (form && text_to_user(head, &user.val.user)) {
    deliver(actions, user);
  } else if (form && text_to_uuid(head, &session.val.session.high, &session.val.session.low)) {
    deliver(actions, session);
  } else {
    served = reject(rejection, MALFORMED_PAYLOAD, print("a message is `USER TEXT` or `SESSION TEXT`"));
  }
  plugin_string_free(topic);
  plugin_list_u8_free(payload);
  return served;
}
