using System.Collections.Generic;

namespace Gateway.Client
{
    // The messages of chat: proto/chat/proto.

    /// <summary>The types of chat messages.</summary>
    public static class MessageType
    {
        public const int Text = 0;
        public const int Emoji = 1;
        public const int Item = 2;
        public const int Coordinate = 3;
    }

    /// <summary>A request to the chat backend of a game.</summary>
    public sealed class ChatRequest
    {
        public string GameId { get; set; }

        /// <summary>
        /// The user that sends. The first request binds the session to this user, unless a token has bound it before.
        /// </summary>
        public int UserId { get; set; }

        /// <summary>Milliseconds since 1970.</summary>
        public long Timestamp { get; set; }

        /// <summary>The user to send to.</summary>
        public int ReceiverId { get; set; }

        /// <summary>The channel to send to.</summary>
        public int ChannelId { get; set; }

        /// <summary>One of <see cref="MessageType"/>.</summary>
        public int Type { get; set; }

        public string Content { get; set; }

        public byte[] ExtraData { get; set; }

        public MessageMeta Meta { get; set; }

        /// <summary>Returns the payload of a packet on <see cref="Route.Chat"/>.</summary>
        public byte[] Encode()
        {
            var fields = new ProtoWriter()
                .Message(1, new ProtoWriter().Text(1, GameId).Int(2, UserId).Int(3, Timestamp).Finish())
                .Int(2, ReceiverId)
                .Int(3, ChannelId)
                .Int(4, Type)
                .Text(5, Content)
                .Bytes(6, ExtraData);
            return (Meta == null ? fields : fields.Message(10, Meta.Encode())).Finish();
        }
    }

    /// <summary>Information about a client, for backends.</summary>
    public sealed class MessageMeta
    {
        public string ClientVersion { get; set; }
        public string ProtocolVersion { get; set; }
        public string DeviceId { get; set; }

        /// <summary>
        /// The id of the session. With it, a backend can answer only this session instead of all sessions of the user.
        /// </summary>
        public string SessionId { get; set; }

        public string TraceId { get; set; }
        public string SpanId { get; set; }
        public Dictionary<string, string> Extra { get; } = new Dictionary<string, string>();

        internal byte[] Encode()
        {
            var fields = new ProtoWriter()
                .Text(1, ClientVersion)
                .Text(2, ProtocolVersion)
                .Text(3, DeviceId)
                .Text(4, SessionId)
                .Text(5, TraceId)
                .Text(6, SpanId);
            foreach (var pair in Extra)
            {
                fields.Message(10, new ProtoWriter().Text(1, pair.Key).Text(2, pair.Value).Finish());
            }
            return fields.Finish();
        }
    }

    /// <summary>The payload of a push on <see cref="Route.Chat"/>: a response or a broadcast.</summary>
    public abstract class ChatMessage
    {
        public long MessageId { get; internal set; }

        /// <summary>Milliseconds since 1970.</summary>
        public long Timestamp { get; internal set; }

        public int TargetUserId { get; internal set; }

        internal ChatMessage()
        {
        }

        // The type of each field in a response and in a broadcast: 'i' is an integer, 'b' is bytes, and '-' is no
        // field.
        private const string ResponseTypes = "-bibii----ib";
        private const string BroadcastTypes = "-iibibii--i-";

        /// <summary>
        /// Returns a <see cref="ChatResponse"/>, a <see cref="ChatBroadcast"/>, or null for anything else.
        /// </summary>
        public static ChatMessage Decode(byte[] payload)
        {
            var fields = ProtoReader.Read(payload);
            if (fields == null) return null;
            // Nothing in a packet says which of the two messages it carries, so the types of the fields have to tell
            // them apart. A payload that could be both is a response: a broadcast without id, time and content makes no
            // sense.
            bool isKnown = false, isResponse = true, isBroadcast = true;
            foreach (var field in fields.Fields)
            {
                // Fields of later versions do not matter.
                if (field.Number > 11 || field.Number == 8 || field.Number == 9) continue;
                isKnown = true;
                // `success` is a boolean, and `sender_id` has the same number.
                var isBoolean = field.Number != 2 || field.Integer <= 1;
                isResponse &= ResponseTypes[(int)field.Number] == field.Type && isBoolean;
                isBroadcast &= BroadcastTypes[(int)field.Number] == field.Type;
            }
            if (!isKnown) return null;
            return isResponse ? ChatResponse.Read(fields) : isBroadcast ? ChatBroadcast.Read(fields) : null;
        }
    }

    /// <summary>A backend's answer to the sender of a request.</summary>
    public sealed class ChatResponse : ChatMessage
    {
        /// <summary>The game, the user and the time of the request, or null.</summary>
        public MessageBase Base { get; private set; }

        public bool Success { get; private set; }
        public string ErrorMessage { get; private set; }
        public string TargetSessionId { get; private set; }

        internal static ChatMessage Read(ProtoReader fields)
        {
            string error, session;
            MessageBase begin = null;
            if (fields.Bytes(1) != null && !MessageBase.Decode(fields.Bytes(1), out begin)) return null;
            if (!fields.Text(3, out error) || !fields.Text(11, out session)) return null;
            return new ChatResponse
            {
                Base = begin,
                Success = fields.UInt64(2) != 0,
                ErrorMessage = error,
                MessageId = fields.Int64(4),
                Timestamp = fields.Int64(5),
                TargetUserId = fields.Int32(10),
                TargetSessionId = session,
            };
        }
    }

    /// <summary>The common first field of requests and responses.</summary>
    public sealed class MessageBase
    {
        public string GameId { get; private set; }
        public int UserId { get; private set; }

        /// <summary>Milliseconds since 1970.</summary>
        public long Timestamp { get; private set; }

        internal static bool Decode(byte[] bytes, out MessageBase begin)
        {
            string game;
            begin = null;
            var fields = ProtoReader.Read(bytes);
            if (fields == null || !fields.Text(1, out game)) return false;
            begin = new MessageBase { GameId = game, UserId = fields.Int32(2), Timestamp = fields.Int64(3) };
            return true;
        }
    }

    /// <summary>A message of another user.</summary>
    public sealed class ChatBroadcast : ChatMessage
    {
        public int SenderId { get; private set; }
        public string SenderName { get; private set; }
        public int ChannelId { get; private set; }
        public string Content { get; private set; }

        /// <summary>One of <see cref="MessageType"/>.</summary>
        public int Type { get; private set; }

        internal static ChatMessage Read(ProtoReader fields)
        {
            string name, content;
            if (!fields.Text(3, out name) || !fields.Text(5, out content)) return null;
            return new ChatBroadcast
            {
                MessageId = fields.Int64(1),
                SenderId = fields.Int32(2),
                SenderName = name,
                ChannelId = fields.Int32(4),
                Content = content,
                Timestamp = fields.Int64(6),
                Type = fields.Int32(7),
                TargetUserId = fields.Int32(10),
            };
        }
    }
}
