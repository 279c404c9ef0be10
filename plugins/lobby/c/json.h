// A minimal JSON reader for a plugin's settings. The gateway passes well-formed JSON, so the reader checks only that it
// does not read beyond the end of the text.
#ifndef LOBBY_JSON_H
#define LOBBY_JSON_H

#include "text.h"

// Reads the next member of an object, or the next element of an array, and moves `rest` behind it. Before the first
// call, set `rest` to the whole object or array. For an array, `key` is NULL. Returns false at the end.
bool json_next(text_t *rest, text_t *key, text_t *value);

// Decodes a JSON string into `out`, and sets `text` to the result. `out` must have space for `value.len` bytes, since
// the result is never longer than `value`. Returns false if `value` is not a string.
bool json_string(text_t value, char *out, text_t *text);

#endif
