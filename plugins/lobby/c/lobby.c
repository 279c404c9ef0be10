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

enum { ROUTE = 0x10, TOPIC_MAX = 64, BYTES_MAX = 65536, NAME_BYTES_MAX = 16, CLOSE_NORMAL = 1000 };
enum { OK = 0, MALFORMED_PAYLOAD = 2, REJECTED = 4, FORBIDDEN = 6, LOBBY = 256 };
enum { HTTP_BAD_REQUEST = 400 };

// The group of all sessions.
enum { EVERYBODY = 1 };

// The entry that counts the messages since the last report.
static const char SAID[] = "said";

// The timer for the report of the count. It is set by the first message after a report.
enum { REPORT = 1, REPORT_AFTER_MS = 10000 };

static struct {
  char topic[TOPIC_MAX + 1];
  uint64_t max_bytes;
  uint8_t route;
} lobby;

// The actions of a call. The bindings have such a type for each exported interface.
typedef struct {
  types_action_t *ptr;
  size_t len;
} actions_t;

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

static plugin_list_u8_t bytes(plugin_string_t string) {
  return (plugin_list_u8_t){string.ptr, string.len};
}

static text_t text_in(plugin_list_u8_t bytes) {
  return (text_t){(const char *)bytes.ptr, bytes.len};
}

static types_action_t *add(actions_t *actions, uint8_t tag) {
  actions->ptr = realloc(actions->ptr, (actions->len + 1) * sizeof *actions->ptr);
  if (actions->ptr == NULL) abort();
  types_action_t *action = &actions->ptr[actions->len++];
  // The zeros make each optional value `none` unless the caller sets it.
  *action = (types_action_t){.tag = tag};
  memset(&action->val, 0, sizeof action->val);
  return action;
}

static void reply(actions_t *actions, uint16_t status, plugin_string_t body) {
  add(actions, TYPES_ACTION_REPLY)->val.reply = (types_answer_t){status, bytes(body)};
}

static types_delivery_t *deliver(actions_t *actions, types_target_t to) {
  types_delivery_t *delivery = &add(actions, TYPES_ACTION_DELIVER)->val.deliver;
  delivery->to = to;
  delivery->route = lobby.route;
  return delivery;
}

static types_delivery_t *deliver_to_everybody(actions_t *actions, plugin_string_t body) {
  types_target_t everybody = {.tag = TYPES_TARGET_GROUP, .val.group = EVERYBODY};
  types_delivery_t *delivery = deliver(actions, everybody);
  delivery->body = (plugin_option_list_u8_t){true, bytes(body)};
  return delivery;
}

static types_entry_t *put(actions_t *actions, const char *key) {
  types_entry_t *entry = &add(actions, TYPES_ACTION_PUT)->val.put;
  entry->key = print("%s", key);
  return entry;
}

static bool reject(types_rejection_t *rejection, uint16_t status, plugin_string_t message) {
  *rejection = (types_rejection_t){status, message};
  return false;
}

static bool set_topic(text_t value) {
  char *room = allocate(value.len + 1);
  text_t topic;
  bool allowed = json_string(value, room, &topic) && topic.len >= 1 && topic.len <= TOPIC_MAX &&
                 text_has_only(topic, "abcdefghijklmnopqrstuvwxyz0123456789:_-");
  if (allowed) {
    memcpy(lobby.topic, topic.at, topic.len);
    lobby.topic[topic.len] = '\0';
  }
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
  if (!text_to_number(max_bytes, &lobby.max_bytes) || lobby.max_bytes < 1 || lobby.max_bytes > BYTES_MAX) {
    *error = print("config.max_bytes: 1 to %d is allowed", BYTES_MAX);
    return false;
  }
  return true;
}

void exports_plugin_describe(exports_plugin_manifest_t *manifest) {
  // The metrics and the state format keep their zeros.
  *manifest = (exports_plugin_manifest_t){
      .name = print("lobby"),
      .version = print("0.1.0"),
      .routes = bytes(print("%c", ROUTE)),
      .gatekeeper = true,
  };
}

bool exports_plugin_configure(plugin_string_t *settings, plugin_list_string_t *topics, plugin_string_t *error) {
  text_t rest = text_in(bytes(*settings)), config = text_of("{}"), routes = text_of("[]");
  for (text_t key, value; json_next(&rest, &key, &value);) {
    if (text_is(key, "\"config\"")) config = value;
    if (text_is(key, "\"routes\"")) routes = value;
  }
  bool accepted = read_config(config, error);
  text_t first;
  uint64_t route = ROUTE;
  if (json_next(&routes, NULL, &first)) text_to_number(first, &route);
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

static bool log_in(text_t text, actions_t *actions, types_rejection_t *rejection) {
  int64_t user;
  if (!text_skip(&text, "login ") || !text_to_user(text, &user))
    return reject(rejection, FORBIDDEN, print("log in first"));
  add(actions, TYPES_ACTION_BIND)->val.bind = user;
  reply(actions, OK, print("welcome %" PRId64, user));
  return true;
}

// Returns the sender's attribute `name`, or the sender's user id if there is none.
static plugin_string_t name_of_sender(const types_packet_t *packet) {
  types_session_id_t session = packet->session;
  plugin_string_t attribute, name;
  plugin_string_set(&attribute, "name");
  return attributes_get(&session, &attribute, &name) ? name : print("%" PRId64, packet->user.val);
}

// Reads the number of messages since the last report. Returns false if there are none.
static bool read_said(uint64_t *said) {
  plugin_string_t key;
  plugin_list_u8_t value;
  plugin_string_set(&key, SAID);
  if (!state_get(&key, &value)) return false;
  bool read = text_to_number(text_in(value), said);
  plugin_list_u8_free(&value);
  return read;
}

// Delivers a text to everybody else, and counts it.
static void say(const types_packet_t *packet, text_t text, actions_t *actions) {
  plugin_string_t name = name_of_sender(packet);
  plugin_string_t body = print("%.*s: ", (int)name.len, (const char *)name.ptr);
  plugin_string_free(&name);
  append(&body, text);
  deliver_to_everybody(actions, body)->except = (types_option_session_id_t){true, packet->session};

  uint64_t said = 0;
  bool first = !read_said(&said);
  put(actions, SAID)->value = (plugin_option_list_u8_t){true, bytes(print("%" PRIu64, said + 1))};
  if (first) add(actions, TYPES_ACTION_WAKE)->val.wake = (types_alarm_t){REPORT, {true, REPORT_AFTER_MS}};
  reply(actions, OK, print("sent"));
}

// Delivers a text of the form "to USER TEXT" to one user, and publishes any other text on the bus.
static void send(int64_t from, text_t text, actions_t *actions) {
  text_t words = text, head;
  types_target_t to = {.tag = TYPES_TARGET_USER};
  if (text_skip(&words, "to ") && text_cut(&words, ' ', &head) && words.len > 0 && text_to_user(head, &to.val.user)) {
    plugin_string_t body = print("from %" PRId64 ": ", from);
    append(&body, words);
    deliver(actions, to)->body = (plugin_option_list_u8_t){true, bytes(body)};
    reply(actions, OK, print("sent"));
  } else {
    add(actions, TYPES_ACTION_PUBLISH)->val.publish.topic = print("%s", lobby.topic);
  }
}

static void end_session(actions_t *actions) {
  types_ending_t *ending = &add(actions, TYPES_ACTION_END)->val.end;
  ending->whom.tag = TYPES_TARGET_SENDER;
  ending->closing = (types_closing_t){CLOSE_NORMAL, print("bye")};
}

static bool decide(const types_packet_t *packet, text_t text, actions_t *actions, types_rejection_t *rejection) {
  if (text.len == 0) return reject(rejection, MALFORMED_PAYLOAD, print("the payload is empty"));
  if (!text_is_utf8(text)) return reject(rejection, MALFORMED_PAYLOAD, print("the payload is not UTF-8"));
  if (text.len > lobby.max_bytes)
    return reject(rejection, REJECTED, print("more than %" PRIu64 " bytes", lobby.max_bytes));
  if (!packet->user.is_some) return log_in(text, actions, rejection);

  int64_t user = packet->user.val;
  text_t words = text;
  if (text_is(text, "whoami")) {
    uint64_t high = packet->session.high, low = packet->session.low;
    reply(actions, OK,
          print("user %" PRId64 ", session %08" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%012" PRIx64, user,
                high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffffffffffff));
  } else if (text_is(text, "ping")) {
    add(actions, TYPES_ACTION_ECHO);
  } else if (text_is(text, "bye")) {
    end_session(actions);
  } else if (text_is(text, "status")) {
    reply(actions, LOBBY, print("lobby"));
  } else if (text_is(text, "crash")) {
    abort();
  } else if (text_skip(&words, "login ")) {
    return reject(rejection, REJECTED, print("already logged in"));
  } else if (text_skip(&words, "say ") && words.len > 0) {
    say(packet, words, actions);
  } else {
    send(user, text, actions);
  }
  return true;
}

bool exports_policy_on_packet(types_packet_t *packet, plugin_list_u8_t *payload, exports_policy_list_action_t *list,
                              types_rejection_t *rejection) {
  actions_t actions = {NULL, 0};
  bool served = decide(packet, text_in(*payload), &actions, rejection);
  *list = (exports_policy_list_action_t){actions.ptr, actions.len};
  plugin_list_u8_free(payload);
  return served;
}

bool exports_hearing_on_message(plugin_string_t *topic, plugin_list_u8_t *payload, uint64_t now,
                                exports_hearing_list_action_t *list, types_rejection_t *rejection) {
  (void)now;
  text_t text = text_in(*payload), words = text, head;
  types_target_t user = {.tag = TYPES_TARGET_USER}, session = {.tag = TYPES_TARGET_SESSION};
  bool form = text_is_utf8(text) && text_cut(&words, ' ', &head) && words.len > 0;
  bool served = true;
  actions_t actions = {NULL, 0};
  if (form && text_to_user(head, &user.val.user)) {
    deliver(&actions, user);
  } else if (form && text_to_uuid(head, &session.val.session.high, &session.val.session.low)) {
    deliver(&actions, session);
  } else {
    served = reject(rejection, MALFORMED_PAYLOAD, print("a message is `USER TEXT` or `SESSION TEXT`"));
  }
  *list = (exports_hearing_list_action_t){actions.ptr, actions.len};
  plugin_string_free(topic);
  plugin_list_u8_free(payload);
  return served;
}

static bool is_name(text_t text) {
  return text.len >= 1 && text.len <= NAME_BYTES_MAX &&
         text_has_only(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
}

static plugin_list_tuple2_string_string_t attribute(const char *name, text_t value) {
  plugin_list_tuple2_string_string_t attributes = {allocate(sizeof *attributes.ptr), 1};
  attributes.ptr->f0 = print("%s", name);
  attributes.ptr->f1 = print("%.*s", (int)value.len, value.at);
  return attributes;
}

bool exports_sessions_on_connect(exports_sessions_connection_t *connection, exports_sessions_admission_t *admission,
                                 exports_sessions_denial_t *denial) {
  text_t query = text_in(bytes(connection->query)), name;
  bool named = false;
  while (!named && text_cut(&query, '&', &name)) named = text_skip(&name, "name=");
  bool admitted = !named || is_name(name);
  if (admitted) {
    actions_t actions = {NULL, 0};
    add(&actions, TYPES_ACTION_JOIN)->val.join = (types_membership_t){connection->session, EVERYBODY};
    // The user and the tag keep their zeros.
    *admission = (exports_sessions_admission_t){.actions = {actions.ptr, actions.len}};
    if (named) admission->attributes = attribute("name", name);
  } else {
    denial->status = HTTP_BAD_REQUEST;
    denial->message = print("name: 1 to %d characters of A-Z a-z 0-9 _ - are allowed", NAME_BYTES_MAX);
  }
  // The bindings forget the claims when they free a connection.
  plugin_option_string_free(&connection->claims);
  exports_sessions_connection_free(connection);
  return admitted;
}

void exports_sessions_on_disconnect(exports_sessions_departure_t *departure, exports_sessions_list_action_t *list) {
  actions_t actions = {NULL, 0};
  if (departure->user.is_some) deliver_to_everybody(&actions, print("%" PRId64 " left", departure->user.val));
  *list = (exports_sessions_list_action_t){actions.ptr, actions.len};
  exports_sessions_departure_free(departure);
}

void exports_timers_on_wake(uint64_t key, uint64_t now, exports_timers_list_action_t *list) {
  (void)key, (void)now;
  uint64_t said;
  actions_t actions = {NULL, 0};
  if (read_said(&said)) {
    types_delivery_t *report = deliver_to_everybody(&actions, print("messages: %" PRIu64, said));
    report->keep = (types_keep_t){.tag = TYPES_KEEP_LATEST, .val.latest = REPORT};
    // An entry without a value removes it.
    put(&actions, SAID);
  }
  *list = (exports_timers_list_action_t){actions.ptr, actions.len};
}
