namespace Gateway.Client
{
    /// <summary>The routes that every gateway has. Other numbers are the routes of other plugins.</summary>
    public static class Route
    {
        public const byte Control = 0;
        public const byte Chat = 1;
        public const byte Game = 2;
        public const byte System = 3;
    }

    /// <summary>The reasons for which a packet is refused. The numbers from 256 on are defined by the game.</summary>
    public static class Status
    {
        public const ushort Ok = 0;
        public const ushort MalformedPacket = 1;
        public const ushort MalformedPayload = 2;
        public const ushort NoRoute = 3;
        public const ushort Rejected = 4;
        public const ushort Unavailable = 5;
        public const ushort Forbidden = 6;
        public const ushort TooManyRequests = 7;
        public const ushort Internal = 8;
        public const ushort PayloadTooLarge = 9;

        internal static string NameOf(ushort status)
        {
            return status < Names.Length ? Names[status] : status < 256 ? "(unknown)" : "(the game's own)";
        }

        private static readonly string[] Names =
        {
            "ok", "malformed packet", "malformed payload", "no route", "rejected", "unavailable", "forbidden",
            "too many requests", "internal", "payload too large",
        };
    }

    /// <summary>
    /// The packet that client and gateway exchange: a header of 8 bytes, then the payload. All integers are big-endian.
    /// </summary>
    internal struct Packet
    {
        public const int HeaderBytes = 8;

        /// <summary>Bit 0 of the flags: the packet answers the packet of the client with the same seq.</summary>
        public const byte FlagReply = 1;

        /// <summary>
        /// Bit 1 of the flags: the push took the place of older pushes, which were skipped on purpose.
        /// </summary>
        public const byte FlagReplaces = 2;

        /// <summary>
        /// Bit 2 of the flags, in packets of the client: the status holds the low 16 bits of the last push's number.
        /// </summary>
        public const byte FlagAck = 4;

        public uint Seq;
        public byte Route;
        public byte Flags;
        public ushort Status;
        public byte[] Payload;

        public bool IsReply
        {
            get { return (Flags & FlagReply) != 0; }
        }

        public byte[] Encode()
        {
            var bytes = new byte[HeaderBytes + Payload.Length];
            bytes[0] = (byte)(Seq >> 24);
            bytes[1] = (byte)(Seq >> 16);
            bytes[2] = (byte)(Seq >> 8);
            bytes[3] = (byte)Seq;
            bytes[4] = Route;
            bytes[5] = Flags;
            bytes[6] = (byte)(Status >> 8);
            bytes[7] = (byte)Status;
            Payload.CopyTo(bytes, HeaderBytes);
            return bytes;
        }

        /// <summary>Decodes a message. Returns null if it is none, or too short for a header.</summary>
        public static Packet? Decode(byte[] bytes)
        {
            if (bytes == null || bytes.Length < HeaderBytes) return null;
            var payload = new byte[bytes.Length - HeaderBytes];
            System.Array.Copy(bytes, HeaderBytes, payload, 0, payload.Length);
            return new Packet
            {
                Seq = (uint)(bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3]),
                Route = bytes[4],
                Flags = bytes[5],
                Status = (ushort)(bytes[6] << 8 | bytes[7]),
                Payload = payload,
            };
        }
    }
}
