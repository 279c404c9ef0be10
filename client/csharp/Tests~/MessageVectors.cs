using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using Fields = System.Collections.Generic.Dictionary<string, object>;

namespace Gateway.Client.Tests
{
    /// <summary>Runs every case of client/vectors/messages.json.</summary>
    internal static class MessageVectors
    {
        public static void Run(Suite suite)
        {
            foreach (var item in ReconnectVectors.Cases("messages.json"))
            {
                suite.Test((string)item["name"], () => Check(item));
            }
            suite.Test("fields of a later version do not matter", () =>
            {
                foreach (var later in new[] { "62026869", "6001", "4001", "4a00", "610000000000000000", "6500000000" })
                {
                    Suite.Same(later, ChatMessage.Decode(Bytes("2805" + later)).Timestamp, 5);
                }
            });
            suite.Test("a field with the number 0 makes a message invalid", () =>
            {
                Suite.Same("valid", Welcome.Decode(Bytes("0a0173")).SessionId, "s");
                Suite.Same("invalid", Welcome.Decode(Bytes("0a01730001")) == null, true);
                Suite.Same("without an id", Welcome.Decode(Bytes("1005")) == null, true);
            });
            suite.Test("of a field that comes several times the last one counts", () =>
            {
                Suite.Same("timestamp", ChatMessage.Decode(Bytes("28052806")).Timestamp, 6);
                Suite.Same("gap", Control.Decode(Bytes("1202080512020806")).Value.Ms, 6);
            });
        }

        private static void Check(Fields item)
        {
            var bytes = Bytes((string)item["bytes"]);
            object fields;
            var expected = item.TryGetValue("fields", out fields) ? (Fields)fields : new Fields();
            switch ((string)item["message"])
            {
                case "gateway.Welcome":
                    Same(WelcomeFields(Welcome.Decode(bytes)), expected);
                    break;
                case "gateway.Control":
                    Same(ControlFields(Control.Decode(bytes).Value), expected);
                    break;
                case "gateway.ClientControl":
                    var refresh = (Fields)expected["refresh"];
                    Suite.Same("bytes", Hex(Control.EncodeRefresh((string)refresh["token"])), item["bytes"]);
                    break;
                case "chat.ChatRequest":
                    Suite.Same("bytes", Hex(RequestOf(expected).Encode()), item["bytes"]);
                    break;
                case "chat.ChatResponse":
                    Same(ResponseFields((ChatResponse)ChatMessage.Decode(bytes)), expected);
                    break;
                case "chat.MessageBroadcast":
                    Same(BroadcastFields((ChatBroadcast)ChatMessage.Decode(bytes)), expected);
                    break;
                default:
                    Suite.Same("chat", ChatMessage.Decode(bytes) == null, true);
                    break;
            }
        }

        /// <summary>Compares the fields. A case does not list those that have their default values.</summary>
        private static void Same(Fields real, Fields expected)
        {
            foreach (var field in real)
            {
                object wanted;
                var isListed = expected.TryGetValue(field.Key, out wanted);
                if (field.Value is Fields)
                {
                    Suite.Same(field.Key, isListed, true);
                    Same((Fields)field.Value, (Fields)wanted);
                }
                else if (isListed) Suite.Same(field.Key, Text(field.Value), Text(wanted));
                else Suite.Same(field.Key, new[] { "", "0", "False" }.Contains(Text(field.Value)), true);
            }
            foreach (var name in expected.Keys) Suite.Same(name + " is known", real.ContainsKey(name), true);
        }

        private static string Text(object value)
        {
            return Convert.ToString(value, CultureInfo.InvariantCulture);
        }

        private static Fields WelcomeFields(Welcome welcome)
        {
            return new Fields
            {
                { "session_id", welcome.SessionId },
                { "server_time_ms", welcome.ServerTimeMs },
                { "resume_token", welcome.ResumeToken },
                { "resume_window_ms", welcome.ResumeWindowMs },
                { "resumed", welcome.Resumed },
                { "packets_received", welcome.PacketsReceived },
                { "replies_lost", welcome.RepliesLost },
            };
        }

        private static Fields ControlFields(Control control)
        {
            switch (control.Kind)
            {
                case Control.Event.TokenExpires:
                    return new Fields { { "token_expires", new Fields { { "in_ms", control.Ms } } } };
                case Control.Event.Gap:
                    return new Fields { { "gap", new Fields { { "blind_ms", control.Ms } } } };
                default:
                    var reconnect = new Fields { { "url", control.Url }, { "after_ms", control.Ms } };
                    return new Fields { { "reconnect", reconnect } };
            }
        }

        private static Fields ResponseFields(ChatResponse response)
        {
            var fields = new Fields
            {
                { "success", response.Success },
                { "error_message", response.ErrorMessage },
                { "message_id", response.MessageId },
                { "timestamp", response.Timestamp },
                { "target_user_id", response.TargetUserId },
                { "target_session_id", response.TargetSessionId },
            };
            if (response.Base != null)
            {
                fields["base"] = new Fields
                {
                    { "game_id", response.Base.GameId },
                    { "user_id", response.Base.UserId },
                    { "timestamp", response.Base.Timestamp },
                };
            }
            return fields;
        }

        private static Fields BroadcastFields(ChatBroadcast broadcast)
        {
            return new Fields
            {
                { "message_id", broadcast.MessageId },
                { "sender_id", broadcast.SenderId },
                { "sender_name", broadcast.SenderName },
                { "channel_id", broadcast.ChannelId },
                { "content", broadcast.Content },
                { "timestamp", broadcast.Timestamp },
                { "type", broadcast.Type },
                { "target_user_id", broadcast.TargetUserId },
            };
        }

        private static ChatRequest RequestOf(Fields fields)
        {
            var request = new ChatRequest();
            var origin = (Fields)fields["base"];
            request.GameId = (string)origin["game_id"];
            request.UserId = (int)(long)origin["user_id"];
            request.Timestamp = origin.ContainsKey("timestamp") ? long.Parse((string)origin["timestamp"]) : 0;
            request.Content = (string)fields["content"];
            if (!fields.ContainsKey("meta")) return request;
            request.ReceiverId = (int)(long)fields["receiver_id"];
            request.ChannelId = (int)(long)fields["channel_id"];
            request.Type = (int)(long)fields["type"];
            request.ExtraData = Bytes((string)fields["extra_data"]);
            var meta = (Fields)fields["meta"];
            request.Meta = new MessageMeta
            {
                ClientVersion = (string)meta["client_version"],
                ProtocolVersion = (string)meta["protocol_version"],
                DeviceId = (string)meta["device_id"],
                SessionId = (string)meta["session_id"],
                TraceId = (string)meta["trace_id"],
                SpanId = (string)meta["span_id"],
            };
            foreach (var pair in (Fields)meta["extra"]) request.Meta.Extra.Add(pair.Key, (string)pair.Value);
            return request;
        }

        public static byte[] Bytes(string hex)
        {
            var places = Enumerable.Range(0, hex.Length / 2);
            return places.Select(at => Convert.ToByte(hex.Substring(2 * at, 2), 16)).ToArray();
        }

        public static string Hex(byte[] bytes)
        {
            return string.Concat(bytes.Select(value => value.ToString("x2")));
        }
    }
}
