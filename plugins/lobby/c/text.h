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

// Splits "HEAD TAIL" at its first space. The tail may begin with further spaces. Returns false if there is no space or
// if the tail is empty.
bool text_split(text_t text, text_t *head, text_t *tail);

// Reads a user's id, 1 to 2147483647. Returns false for any other text, such as one with a sign or a leading zero.
bool text_to_user(text_t text, int32_t *user);

// Reads the upper and the lower 64 bits of a UUID, whose digits are in groups of 8-4-4-4-12, in upper or lower case.
// Returns false for any other text.
bool text_to_uuid(text_t text, uint64_t *high, uint64_t *low);

#endif
