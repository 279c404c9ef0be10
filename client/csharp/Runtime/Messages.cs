namespace Gateway.Client
{
    // The gateway's own messages: proto/gateway/proto/gateway.proto.

    /// <summary>What the gateway says first on each connection.</summary>
    public sealed class Welcome
    {
        /// <summary>
        /// The id of the session, a UUID. A backend can answer only this session if a request carries it.
        /// </summary>
        public string SessionId { get; internal set; }

        /// <summary>The gateway's clock in milliseconds since 1970.</summary>
        public long ServerTimeMs { get; internal set; }

        /// <summary>How long the gateway keeps the session after a break, in milliseconds.</summary>
        public long ResumeWindowMs { get; internal set; }

        /// <summary>Whether the connection goes on with the session of the connection before.</summary>
        public bool Resumed { get; internal set; }

        /// <summary>What resumes the session, once. Empty if the gateway resumes no sessions.</summary>
        internal string ResumeToken;

        /// <summary>How many packets of the client the gateway has read in this session.</summary>
        internal ulong PacketsReceived;

        /// <summary>How many replies the gateway cannot send again.</summary>
        internal uint RepliesLost;

        /// <summary>Returns null if the bytes are no welcome.</summary>
        internal static Welcome Decode(byte[] bytes)
        {
            string id, token;
            var fields = ProtoReader.Read(bytes);
            if (fields == null || !fields.Text(1, out id) || id.Length == 0 || !fields.Text(3, out token)) return null;
            return new Welcome
            {
                SessionId = id,
                ServerTimeMs = fields.Int64(2),
                ResumeToken = token,
                ResumeWindowMs = fields.Int64(4),
                Resumed = fields.UInt64(5) != 0,
                PacketsReceived = fields.UInt64(6),
                RepliesLost = unchecked((uint)fields.UInt64(7)),
            };
        }
    }

    /// <summary>An event of the control route.</summary>
    internal struct Control
    {
        public enum Event
        {
            TokenExpires = 1,
            Gap = 2,
            Reconnect = 3,
        }

        public Event Kind;
        /// <summary>
        /// The milliseconds until the token expires, in which messages were lost, or of the last stay.
        /// </summary>
        public long Ms;
        /// <summary>Where to reconnect, which may be empty.</summary>
        public string Url;

        /// <summary>Returns null for an event that this client does not know.</summary>
        public static Control? Decode(byte[] bytes)
        {
            var fields = ProtoReader.Read(bytes);
            if (fields == null) return null;
            // Of a oneof, the last field counts.
            var index = fields.Fields.FindLastIndex(field => field.Number <= 3);
            if (index < 0 || fields.Fields[index].Type != 'b') return null;
            var kind = (Event)fields.Fields[index].Number;
            var inner = ProtoReader.Read(fields.Fields[index].Bytes);
            var url = "";
            if (inner == null || kind == Event.Reconnect && !inner.Text(1, out url)) return null;
            return new Control { Kind = kind, Ms = inner.Int64(kind == Event.Reconnect ? 2UL : 1), Url = url };
        }

        /// <summary>Returns the ClientControl that replaces the token of the session.</summary>
        public static byte[] EncodeRefresh(string token)
        {
            return new ProtoWriter().Message(1, new ProtoWriter().Text(1, token).Finish()).Finish();
        }
    }
}
