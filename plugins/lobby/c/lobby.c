// The lobby: clients log in, ask for their user, write to each other, and publish on the bus.
//
// An exported function owns its arguments and has to free them. The caller frees the results, so they have to be
// allocated with malloc.
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

static void *allocate(size_t size) {
  void *memory = malloc(size);
  if (memory == NULL) abort();
  return memory;
}

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

static exports_policy_action_t *add(exports_policy_list_action_t *actions, uint8_t tag) {
  actions->ptr = realloc(actions->ptr, (actions->len + 1) * sizeof *actions->ptr);
  if (actions->ptr == NULL) abort();
  exports_policy_action_t *action = &actions->ptr[actions->len++];
  // The zeros make each optional body `none` unless the caller sets it.
  *action = (exports_policy_action_t){.tag = tag};
  memset(&action->val, 0, sizeof action->val);
  return action;
}

static void reply(exports_policy_list_action_t *actions, uint16_t status, plugin_string_t body) {
  exports_policy_answer_t *answer = &add(actions, EXPORTS_POLICY_ACTION_REPLY)->val.reply;
  *answer = (exports_policy_answer_t){status, {body.ptr, body.len}};
}

static exports_policy_delivery_t *deliver(exports_policy_list_action_t *actions, exports_policy_target_t to) {
  exports_policy_delivery_t *delivery = &add(actions, EXPORTS_POLICY_ACTION_DELIVER)->val.deliver;
  delivery->to = to;
  delivery->route = lobby.route;
  return delivery;
}

static bool reject(exports_policy_rejection_t *rejection, uint16_t status, plugin_string_t message) {
  *rejection = (exports_policy_rejection_t){status, message};
  return false;
}

static bool set_topic(text_t value) {
  char *room = allocate(value.len + 1);
  text_t topic;
  bool allowed = json_string(value, room, &topic) && topic.len >= 1 && topic.len <= TOPIC_MAX;
  if (allowed) {
    room[topic.len] = '\0';
    allowed = strspn(room, "abcdefghijklmnopqrstuvwxyz0123456789:_-") == topic.len;
  }
  if (allowed) memcpy(lobby.topic, room, topic.len + 1);
  free(room);
  return allowed;
}

static bool refuse_key(text_t key, plugin_string_t *error) {
  char *room = allocate(key.len);
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

void exports_policy_describe(exports_policy_manifest_t *manifest) {
  manifest->name = print("lobby");
  manifest->version = print("0.1.0");
  plugin_string_t routes = print("%c", ROUTE);
  manifest->routes = (plugin_list_u8_t){routes.ptr, routes.len};
}

bool exports_policy_configure(plugin_string_t *settings, plugin_list_string_t *topics, plugin_string_t *error) {
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
  log_write(LOG_LEVEL_DEBUG, &line);
  topics->ptr = allocate(sizeof *topics->ptr);
  topics->ptr[0] = print("%s:out", lobby.topic);
  topics->len = 1;
  return true;
}

static bool log_in(text_t text, exports_policy_list_action_t *actions, exports_policy_rejection_t *rejection) {
  int32_t user;
  if (!text_skip(&text, "login ") || !text_to_user(text, &user))
    return reject(rejection, FORBIDDEN, print("log in first"));
  add(actions, EXPORTS_POLICY_ACTION_BIND)->val.bind = user;
  reply(actions, OK, print("welcome %" PRId32, user));
  return true;
}

// Delivers a text of the form "to USER TEXT" to one user, and publishes any other text on the bus.
static void say(int32_t from, text_t text, exports_policy_list_action_t *actions) {
  text_t rest = text, head, words;
  exports_policy_target_t to = {.tag = EXPORTS_POLICY_TARGET_USER};
  if (text_skip(&rest, "to ") && text_split(rest, &head, &words) && text_to_user(head, &to.val.user)) {
    plugin_string_t body = print("from %" PRId32 ": ", from);
    append(&body, words);
    deliver(actions, to)->body = (plugin_option_list_u8_t){true, {body.ptr, body.len}};
    reply(actions, OK, print("sent"));
  } else {
    add(actions, EXPORTS_POLICY_ACTION_PUBLISH)->val.publish.topic = print("%s", lobby.topic);
  }
}

static bool decide(const exports_policy_packet_t *packet, text_t text, exports_policy_list_action_t *actions,
                   exports_policy_rejection_t *rejection) {
  if (text.len == 0) return reject(rejection, MALFORMED_PAYLOAD, print("the payload is empty"));
  if (!text_is_utf8(text)) return reject(rejection, MALFORMED_PAYLOAD, print("the payload is not UTF-8"));
  if (text.len > lobby.max_bytes)
    return reject(rejection, REJECTED, print("more than %" PRIu32 " bytes", lobby.max_bytes));
  if (!packet->user.is_some) return log_in(text, actions, rejection);

  int32_t user = packet->user.val;
  if (text_is(text, "whoami")) {
    uint64_t high = packet->session.high, low = packet->session.low;
    reply(actions, OK,
          print("user %" PRId32 ", session %08" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%012" PRIx64, user,
                high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffffffffffff));
  } else if (text_is(text, "ping")) {
    add(actions, EXPORTS_POLICY_ACTION_ECHO);
  } else if (text_is(text, "bye")) {
    add(actions, EXPORTS_POLICY_ACTION_CLOSE)->val.close = (exports_policy_closing_t){CLOSE_NORMAL, print("bye")};
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

bool exports_policy_on_packet(exports_policy_packet_t *packet, plugin_list_u8_t *payload,
                              exports_policy_list_action_t *actions, exports_policy_rejection_t *rejection) {
  *actions = (exports_policy_list_action_t){NULL, 0};
  bool served = decide(packet, (text_t){(const char *)payload->ptr, payload->len}, actions, rejection);
  plugin_list_u8_free(payload);
  return served;
}

bool exports_policy_on_message(plugin_string_t *topic, plugin_list_u8_t *payload, exports_policy_list_action_t *actions,
                               exports_policy_rejection_t *rejection) {
  *actions = (exports_policy_list_action_t){NULL, 0};
  text_t text = {(const char *)payload->ptr, payload->len}, head, words;
  exports_policy_target_t user = {.tag = EXPORTS_POLICY_TARGET_USER}, session = {.tag = EXPORTS_POLICY_TARGET_SESSION};
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
