// Just enough to read a plugin's settings. The gateway hands over well-formed JSON, so this finds its way in it and
// checks no more than it needs for not leaving the text.
#ifndef LOBBY_JSON_H
#define LOBBY_JSON_H

#include "text.h"

// The members of an object, or the elements of an array, one by one: `rest` is the whole value at first. Pass no `key`
// for an array. False at the end.
bool json_next(text_t *rest, text_t *key, text_t *value);

// The text of a JSON string. `out` has room for as many bytes as `value` has; what is written is never longer. False
// for anything but a string.
bool json_string(text_t value, char *out, text_t *text);

// A number without sign, fraction and exponent, of at most nine digits. False for anything else.
bool json_integer(text_t value, uint32_t *number);

#endif
