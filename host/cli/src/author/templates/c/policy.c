// A policy that answers each packet with a greeting.
//
// The exported functions are those of the interfaces `plugin` and `policy` in wit/policy.wit. With the world `game` in
// the Makefile, write those of three more interfaces: `hearing` for bus messages, `sessions` for the beginning and the
// end of sessions, and `timers`.
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

// Other actions push a message to a group (`deliver`), add a session to a group (`join`), set a timer (`wake`) and
// write state (`put`). `state_get` reads state.
static void reply(exports_policy_list_action_t *actions, const char *greeting, plugin_list_u8_t whom) {
  size_t len = strlen(greeting);
  plugin_list_u8_t body = {allocate(len + whom.len), len + whom.len};
  memcpy(body.ptr, greeting, len);
  memcpy(body.ptr + len, whom.ptr, whom.len);

  actions->ptr = allocate(sizeof *actions->ptr);
  actions->len = 1;
  actions->ptr[0].tag = TYPES_ACTION_REPLY;
  actions->ptr[0].val.reply = (types_answer_t){OK, body};
}

void exports_plugin_describe(exports_plugin_manifest_t *manifest) {
  // The metrics and the state format keep their zeros.
  *manifest = (exports_plugin_manifest_t){.routes = {allocate(1), 1}, .gatekeeper = true};
  manifest->routes.ptr[0] = ROUTE;
  plugin_string_dup(&manifest->name, "{{name}}");
  plugin_string_dup(&manifest->version, "0.1.0");
}

bool exports_plugin_configure(plugin_string_t *settings, plugin_list_string_t *topics, plugin_string_t *error) {
  (void)error;
  plugin_string_free(settings);
  *topics = (plugin_list_string_t){NULL, 0};
  return true;
}

bool exports_policy_on_packet(types_packet_t *packet, plugin_list_u8_t *payload, exports_policy_list_action_t *actions,
                              types_rejection_t *rejection) {
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
