using System;
using System.Collections.Generic;
using System.Text;

namespace Gateway.Client
{
    /// <summary>
    /// Writes the fields of a Protocol Buffers message. A field with the default value is left out, as proto3 does.
    /// This client has its own writer and reader, since it needs so little of Protocol Buffers that a library would be
    /// several times as large as the whole client, and would make IL2CPP keep code for its reflection.
    /// </summary>
    internal sealed class ProtoWriter
    {
        private readonly List<byte> _bytes = new List<byte>();

        public ProtoWriter Int(int field, long value)
        {
            if (value == 0) return this;
            Varint((ulong)field << 3);
            Varint(unchecked((ulong)value));
            return this;
        }

        public ProtoWriter Text(int field, string value)
        {
            return string.IsNullOrEmpty(value) ? this : Bytes(field, Encoding.UTF8.GetBytes(value));
        }

        public ProtoWriter Bytes(int field, byte[] value)
        {
            return value == null || value.Length == 0 ? this : Message(field, value);
        }

        /// <summary>Writes an embedded message, also if it is empty.</summary>
        public ProtoWriter Message(int field, byte[] value)
        {
            Varint((ulong)field << 3 | 2);
            Varint((ulong)value.Length);
            _bytes.AddRange(value);
            return this;
        }

        public byte[] Finish()
        {
            return _bytes.ToArray();
        }

        private void Varint(ulong value)
        {
            for (; value > 0x7f; value >>= 7) _bytes.Add((byte)(value | 0x80));
            _bytes.Add((byte)value);
        }
    }

    /// <summary>A field of a message: an integer, bytes, or one of the types that no message here has.</summary>
    internal struct ProtoField
    {
        public ulong Number;
        /// <summary>'i' for an integer, 'b' for bytes, and '?' for another type.</summary>
        public char Type;
        public ulong Integer;
        public byte[] Bytes;
    }

    /// <summary>The fields of a message, in the order in which they were sent.</summary>
    internal sealed class ProtoReader
    {
        private static readonly Encoding Utf8 = new UTF8Encoding(false, true);

        public readonly List<ProtoField> Fields = new List<ProtoField>();
        private readonly byte[] _bytes;
        private int _at;

        private ProtoReader(byte[] bytes)
        {
            _bytes = bytes;
        }

        /// <summary>Reads the fields of a message. Returns null if the bytes are no message.</summary>
        public static ProtoReader Read(byte[] bytes)
        {
            var reader = new ProtoReader(bytes);
            while (reader._at < bytes.Length)
            {
                if (!reader.ReadField()) return null;
            }
            return reader;
        }

        /// <summary>An integer of 64 bits, or 0. If the field comes several times, the last one counts.</summary>
        public ulong UInt64(ulong number)
        {
            return Last(number).Integer;
        }

        /// <summary>An integer of 64 bits with a sign, or 0.</summary>
        public long Int64(ulong number)
        {
            return unchecked((long)UInt64(number));
        }

        /// <summary>An integer of 32 bits with a sign, or 0.</summary>
        public int Int32(ulong number)
        {
            return unchecked((int)UInt64(number));
        }

        /// <summary>Bytes, or null.</summary>
        public byte[] Bytes(ulong number)
        {
            return Last(number).Bytes;
        }

        /// <summary>A text, which is empty if there is none. Returns false if it is not UTF-8.</summary>
        public bool Text(ulong number, out string text)
        {
            text = "";
            try
            {
                text = Utf8.GetString(Bytes(number) ?? new byte[0]);
                return true;
            }
            catch (ArgumentException)
            {
                return false;
            }
        }

        private ProtoField Last(ulong number)
        {
            for (var index = Fields.Count - 1; index >= 0; index--)
            {
                if (Fields[index].Number == number) return Fields[index];
            }
            return new ProtoField();
        }

        private bool ReadField()
        {
            ulong key;
            if (!ReadVarint(out key) || key < 8) return false;
            var field = new ProtoField { Number = key >> 3, Type = '?' };
            switch (key & 7)
            {
                case 0:
                    field.Type = 'i';
                    if (!ReadVarint(out field.Integer)) return false;
                    break;
                case 1:
                    if (Take(8) == null) return false;
                    break;
                case 2:
                    ulong length;
                    field.Type = 'b';
                    if (!ReadVarint(out length)) return false;
                    field.Bytes = Take(length);
                    if (field.Bytes == null) return false;
                    break;
                case 5:
                    if (Take(4) == null) return false;
                    break;
                default:
                    // A group, which proto3 does not have.
                    return false;
            }
            Fields.Add(field);
            return true;
        }

        private bool ReadVarint(out ulong value)
        {
            value = 0;
            for (var shift = 0; shift < 64 && _at < _bytes.Length; shift += 7)
            {
                var next = _bytes[_at++];
                value |= (ulong)(next & 0x7f) << shift;
                if (next < 0x80) return true;
            }
            return false;
        }

        /// <summary>Returns the next bytes, or null if there are not so many.</summary>
        private byte[] Take(ulong length)
        {
            if (length > (ulong)(_bytes.Length - _at)) return null;
            var taken = new byte[(int)length];
            Array.Copy(_bytes, _at, taken, 0, taken.Length);
            _at += taken.Length;
            return taken;
        }
    }
}
