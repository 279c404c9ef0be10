#include "text.h"

#include <string.h>

text_t text_of(const char *literal) {
  return (text_t){literal, strlen(literal)};
}

bool text_is(text_t text, const char *literal) {
  return text.len == strlen(literal) && memcmp(text.at, literal, text.len) == 0;
}

bool text_skip(text_t *text, const char *prefix) {
  size_t len = strlen(prefix);
  if (text->len < len || memcmp(text->at, prefix, len) != 0) return false;
  *text = (text_t){text->at + len, text->len - len};
  return true;
}

bool text_is_utf8(text_t text) {
  const unsigned char *p = (const unsigned char *)text.at, *end = p + text.len;
  while (p < end) {
    unsigned char lead = *p++, low = 0x80, high = 0xbf;
    int more;
    if (lead < 0x80) more = 0;
    else if (lead >= 0xc2 && lead <= 0xdf) more = 1;
    else if (lead >= 0xe0 && lead <= 0xef) more = 2;
    else if (lead >= 0xf0 && lead <= 0xf4) more = 3;
    else return false;

    // The second byte shows overlong forms, surrogates, and code points above U+10FFFF, so its range is narrower.
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    for (; more > 0; more--, low = 0x80, high = 0xbf) {
      if (p == end || *p < low || *p > high) return false;
      p++;
    }
  }
  return true;
}

bool text_has_only(text_t text, const char *set) {
  for (size_t i = 0; i < text.len; i++) {
    if (memchr(set, text.at[i], strlen(set)) == NULL) return false;
  }
  return true;
}

bool text_cut(text_t *rest, char separator, text_t *part) {
  if (rest->len == 0) return false;
  const char *end = memchr(rest->at, separator, rest->len);
  *part = (text_t){rest->at, end ? (size_t)(end - rest->at) : rest->len};
  size_t cut = end ? part->len + 1 : part->len;
  *rest = (text_t){rest->at + cut, rest->len - cut};
  return true;
}

bool text_to_number(text_t text, uint64_t *number) {
  if (text.len == 0 || text.len > 19) return false;
  *number = 0;
  for (size_t i = 0; i < text.len; i++) {
    if (text.at[i] < '0' || text.at[i] > '9') return false;
    *number = *number * 10 + (uint64_t)(text.at[i] - '0');
  }
  return true;
}

bool text_to_user(text_t text, int64_t *user) {
  uint64_t number;
  if (!text_to_number(text, &number) || text.at[0] == '0' || number > INT64_MAX) return false;
  *user = (int64_t)number;
  return true;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool text_to_uuid(text_t text, uint64_t *high, uint64_t *low) {
  static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  uint64_t halves[2] = {0, 0};
  if (text.len != strlen(form)) return false;
  for (size_t i = 0, digits = 0; i < text.len; i++) {
    if (form[i] == '-') {
      if (text.at[i] != '-') return false;
      continue;
    }
    int digit = hex_digit(text.at[i]);
    if (digit < 0) return false;
    uint64_t *half = &halves[digits++ / 16];
    *half = *half << 4 | (uint64_t)digit;
  }
  *high = halves[0];
  *low = halves[1];
  return true;
}
