// Bytes that belong to somebody else, and what the lobby reads from them.
#ifndef LOBBY_TEXT_H
#define LOBBY_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Not terminated by a zero: a payload may well contain some.
typedef struct {
  const char *at;
  size_t len;
} text_t;

text_t text_of(const char *literal);
bool text_is(text_t text, const char *literal);
bool text_skip(text_t *text, const char *prefix);
bool text_is_utf8(text_t text);

// Splits "HEAD TAIL" at its first space. The tail is not empty, and may begin with further spaces.
bool text_split(text_t text, text_t *head, text_t *tail);

// 1 to 2147483647, in the one spelling without a sign and without leading zeros.
bool text_to_user(text_t text, int32_t *user);

// The two halves of a UUID in its canonical form, 8-4-4-4-12, in either case.
bool text_to_uuid(text_t text, uint64_t *high, uint64_t *low);

#endif
