#include "json.h"

#include <string.h>

static const char *skip_blanks(const char *p, const char *end) {
  while (p < end && strchr(" \t\r\n", *p)) p++;
  return p;
}

static const char *skip_string(const char *p, const char *end) {
  for (p++; p < end && *p != '"'; p++) {
    if (*p == '\\') p++;
  }
  return p < end ? p + 1 : end;
}

static const char *skip_value(const char *p, const char *end) {
  for (int depth = 0; p < end;) {
    if (*p == '"') {
      p = skip_string(p, end);
    } else {
      if (depth == 0 && strchr(",]} \t\r\n", *p)) break;
      if (*p == '{' || *p == '[') depth++;
      if (*p == '}' || *p == ']') depth--;
      p++;
    }
  }
  return p;
}

bool json_next(text_t *rest, text_t *key, text_t *value) {
  const char *end = rest->at + rest->len;
  const char *p = skip_blanks(rest->at, end);
  if (p == end || !strchr("{[,", *p)) return false;
  p = skip_blanks(p + 1, end);
  if (p == end || *p == '}' || *p == ']') return false;
  if (key) {
    const char *start = p;
    p = skip_string(p, end);
    *key = (text_t){start, (size_t)(p - start)};
    p = skip_blanks(p, end);
    if (p == end || *p != ':') return false;
    p = skip_blanks(p + 1, end);
  }
  const char *start = p;
  p = skip_value(p, end);
  *value = (text_t){start, (size_t)(p - start)};
  *rest = (text_t){p, (size_t)(end - p)};
  return true;
}

// Decodes the escape sequence at *p, and moves *p behind it. The gateway writes only control characters as `\uXXXX`,
// and all other characters as UTF-8, so two digits are enough.
static char unescape(const char **p) {
  static const char names[] = "bfnrt", meant[] = "\b\f\n\r\t", digits[] = "0123456789abcdef";
  const char *escape = *p + 1;
  if (*escape == 'u') {
    const char *sixteens = strchr(digits, escape[3]), *ones = strchr(digits, escape[4]);
    *p += strlen("\\uXXXX");
    return sixteens && ones ? (char)((sixteens - digits) << 4 | (ones - digits)) : '?';
  }
  *p += 2;
  const char *name = strchr(names, *escape);
  return name ? meant[name - names] : *escape;
}

bool json_string(text_t value, char *out, text_t *text) {
  if (value.len < 2 || value.at[0] != '"') return false;
  text->at = out;
  for (const char *p = value.at + 1, *end = value.at + value.len - 1; p < end;) {
    *out++ = *p == '\\' ? unescape(&p) : *p++;
  }
  text->len = (size_t)(out - text->at);
  return true;
}
