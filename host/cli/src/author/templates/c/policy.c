// A policy that answers each packet with a greeting.
//
// An exported function owns its arguments and has to free them. The caller frees the results, so they have to be
// allocated with malloc.
#include "plugin.h"

#include <stdlib.h>
#include <string.h>

enum { ROUTE = {{route}} };
enum { OK = 0, MALFORMED_PAYLOAD = 2 };

static void *allocate(size_t size) {
  void *memory = malloc(size);
  if (memory == NULL) abort();
  return memory;
}

static void reply(exports_policy_list_action_t *actions, const char *greeting, plugin_list_u8_t whom) {
  size_t len = strlen(greeting);
  plugin_list_u8_t body = {allocate(len + whom.len), len + whom.len};
  memcpy(body.ptr, greeting, len);
  memcpy(body.ptr + len, whom.ptr, whom.len);

  actions->ptr = allocate(sizeof *actions->ptr);
  actions->len = 1;
  actions->ptr[0].tag = EXPORTS_POLICY_ACTION_REPLY;
  actions->ptr[0].val.reply = (exports_policy_answer_t){OK, body};
}

void exports_policy_describe(exports_policy_manifest_t *manifest) {
  plugin_string_dup(&manifest->name, "{{name}}");
  plugin_string_dup(&manifest->version, "0.1.0");
  manifest->routes = (plugin_list_u8_t){allocate(1), 1};
  manifest->routes.ptr[0] = ROUTE;
}

bool exports_policy_configure(plugin_string_t *settings, plugin_list_string_t *topics, plugin_string_t *error) {
  (void)error;
  plugin_string_free(settings);
  *topics = (plugin_list_string_t){NULL, 0};
  return true;
}

bool exports_policy_on_packet(exports_policy_packet_t *packet, plugin_list_u8_t *payload,
                              exports_policy_list_action_t *actions, exports_policy_rejection_t *rejection) {
  (void)packet;
  bool greeted = payload->len > 0;
  if (greeted) {
    reply(actions, "hello, ", *payload);
  } else {
    rejection->status = MALFORMED_PAYLOAD;
    plugin_string_dup(&rejection->message, "the payload is empty");
  }
  plugin_list_u8_free(payload);
  return greeted;
}

bool exports_policy_on_message(plugin_string_t *topic, plugin_list_u8_t *payload, exports_policy_list_action_t *actions,
                               exports_policy_rejection_t *rejection) {
  (void)rejection;
  plugin_string_free(topic);
  plugin_list_u8_free(payload);
  *actions = (exports_policy_list_action_t){NULL, 0};
  return true;
}
