using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Gateway.Client.Tests
{
    /// <summary>
    /// As much of JSON as the tests need: objects are dictionaries, arrays are lists, and whole numbers are longs.
    /// Mono's own reader is in packages that the compiler does not bring along.
    /// </summary>
    internal sealed class Json
    {
        private readonly string _text;
        private int _at;

        private Json(string text)
        {
            _text = text;
        }

        /// <summary>Reads a value. Throws a FormatException if the text is none.</summary>
        public static object Read(string text)
        {
            var json = new Json(text);
            var value = json.Value();
            json.Space();
            if (json._at != text.Length) throw json.Unexpected();
            return value;
        }

        public static string Write(object value)
        {
            var text = new StringBuilder();
            Write(value, text);
            return text.ToString();
        }

        private static void Write(object value, StringBuilder into)
        {
            var separator = "";
            if (value == null) into.Append("null");
            else if (value is bool) into.Append((bool)value ? "true" : "false");
            else if (value is string) WriteText((string)value, into);
            else if (value is Dictionary<string, object>)
            {
                into.Append('{');
                foreach (var pair in (Dictionary<string, object>)value)
                {
                    into.Append(separator);
                    WriteText(pair.Key, into);
                    into.Append(':');
                    Write(pair.Value, into);
                    separator = ",";
                }
                into.Append('}');
            }
            else if (value is List<object>)
            {
                into.Append('[');
                foreach (var item in (List<object>)value)
                {
                    into.Append(separator);
                    Write(item, into);
                    separator = ",";
                }
                into.Append(']');
            }
            else into.Append(Convert.ToString(value, CultureInfo.InvariantCulture));
        }

        private static void WriteText(string text, StringBuilder into)
        {
            into.Append('"');
            foreach (var character in text)
            {
                if (character == '"' || character == '\\') into.Append('\\').Append(character);
                else if (character < ' ') into.Append("\\u").Append(((int)character).ToString("x4"));
                else into.Append(character);
            }
            into.Append('"');
        }

        private object Value()
        {
            Space();
            if (_at == _text.Length) throw Unexpected();
            switch (_text[_at])
            {
                case '{': return Object();
                case '[': return Array();
                case '"': return Text();
                case 't': return Word("true", true);
                case 'f': return Word("false", false);
                case 'n': return Word("null", null);
                default: return Number();
            }
        }

        private Dictionary<string, object> Object()
        {
            var entries = new Dictionary<string, object>();
            _at += 1;
            if (IsNext('}')) return entries;
            do
            {
                Space();
                var name = Text();
                Expect(':');
                entries.Add(name, Value());
            }
            while (IsNext(','));
            Expect('}');
            return entries;
        }

        private List<object> Array()
        {
            var items = new List<object>();
            _at += 1;
            if (IsNext(']')) return items;
            do items.Add(Value());
            while (IsNext(','));
            Expect(']');
            return items;
        }

        private string Text()
        {
            const string Escapes = "\"\\/bfnrt", Meanings = "\"\\/\b\f\n\r\t";
            Expect('"');
            var text = new StringBuilder();
            while (_at < _text.Length && _text[_at] != '"')
            {
                if (_text[_at] != '\\') text.Append(_text[_at++]);
                else if (_text[_at + 1] == 'u')
                {
                    text.Append((char)Convert.ToInt32(_text.Substring(_at + 2, 4), 16));
                    _at += 6;
                }
                else
                {
                    text.Append(Meanings[Escapes.IndexOf(_text[_at + 1])]);
                    _at += 2;
                }
            }
            Expect('"');
            return text.ToString();
        }

        private object Number()
        {
            var start = _at;
            while (_at < _text.Length && "+-.0123456789eE".IndexOf(_text[_at]) >= 0) _at += 1;
            var digits = _text.Substring(start, _at - start);
            long whole;
            var culture = CultureInfo.InvariantCulture;
            if (long.TryParse(digits, NumberStyles.AllowLeadingSign, culture, out whole)) return whole;
            return double.Parse(digits, culture);
        }

        private object Word(string word, object meaning)
        {
            if (string.CompareOrdinal(_text, _at, word, 0, word.Length) != 0) throw Unexpected();
            _at += word.Length;
            return meaning;
        }

        private bool IsNext(char character)
        {
            Space();
            if (_at == _text.Length || _text[_at] != character) return false;
            _at += 1;
            return true;
        }

        private void Expect(char character)
        {
            if (!IsNext(character)) throw Unexpected();
        }

        private void Space()
        {
            while (_at < _text.Length && char.IsWhiteSpace(_text[_at])) _at += 1;
        }

        private FormatException Unexpected()
        {
            return new FormatException("the JSON goes wrong at character " + _at + ": " + _text);
        }
    }
}
