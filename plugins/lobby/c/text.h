// Borrowed texts, and functions that parse them.
#ifndef LOBBY_TEXT_H
#define LOBBY_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A borrowed text. The length replaces a terminating zero, since a payload may contain zero bytes.
typedef struct {
  const char *at;
  size_t len;
} text_t;

text_t text_of(const char *literal);
bool text_is(text_t text, const char *literal);
bool text_skip(text_t *text, const char *prefix);
bool text_is_utf8(text_t text);

// Returns whether the text is empty or has only characters of the set.
bool text_has_only(text_t text, const char *set);

// Moves the text before the first separator from `rest` to `part`, and drops the separator. Without a separator, `part`
// gets all of `rest`. Returns false if `rest` is empty.
bool text_cut(text_t *rest, char separator, text_t *part);

// Reads a number of 1 to 19 digits. Returns false for any other text, such as one with a sign.
bool text_to_number(text_t text, uint64_t *number);

// Reads a user's id, 1 to 9223372036854775807. Returns false for any other text, such as one with a sign or a leading
// zero.
bool text_to_user(text_t text, int64_t *user);

// Reads the upper and the lower 64 bits of a UUID, whose digits are in groups of 8-4-4-4-12, in upper or lower case.
// Returns false for any other text.
bool text_to_uuid(text_t text, uint64_t *high, uint64_t *low);

#endif
