using System;
using System.Collections.Generic;
using System.Linq;
using System.Net;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using Fields = System.Collections.Generic.Dictionary<string, object>;

namespace Gateway.Client.Tests
{
    /// <summary>
    /// A client that obeys a test: it asks the test's server for a command, carries it out and reports the outcome,
    /// until the test ends it. tests/clients/agent.rs is the other side.
    /// </summary>
    internal sealed class Agent
    {
        private readonly string _origin;
        private readonly int _thread = Thread.CurrentThread.ManagedThreadId;
        /// <summary>The sessions by name, each with the log of what has happened in it.</summary>
        private readonly Dictionary<string, Session> _sessions = new Dictionary<string, Session>();
        private readonly Dictionary<string, List<object>> _logs = new Dictionary<string, List<object>>();

        public Agent(string origin)
        {
            _origin = origin;
        }

        public void Obey()
        {
            Task obeying = null;
            new Frames().Run(() =>
            {
                obeying = obeying ?? ObeyAsync();
                foreach (var session in _sessions.Values.ToList()) session.Poll();
                return !obeying.IsCompleted;
            });
            obeying.GetAwaiter().GetResult();
        }

        private async Task ObeyAsync()
        {
            // The test's server does not answer the header with which .NET asks first.
            ServicePointManager.Expect100Continue = false;
            var outcome = new Fields();
            while (true)
            {
                string answer;
                using (var http = new WebClient { Encoding = Encoding.UTF8, Proxy = null })
                {
                    answer = await http.UploadStringTaskAsync(_origin + "/next", Json.Write(outcome));
                }
                var command = (Fields)Json.Read(answer);
                if ((string)command["do"] == "end") return;
                try
                {
                    outcome = await DoAsync((string)command["session"], command);
                }
                catch (GatewayException error)
                {
                    outcome = Described(error);
                }
            }
        }

        private async Task<Fields> DoAsync(string name, Fields command)
        {
            Session session;
            _sessions.TryGetValue(name, out session);
            switch ((string)command["do"])
            {
                case "connect":
                    Connect(name, command);
                    return new Fields();
                case "log":
                    return new Fields { { "id", session.Id }, { "log", _logs[name] } };
                case "send":
                    return new Fields { { "seq", session.Send(RouteOf(command), (string)command["text"]) } };
                case "chat":
                    var request = RequestOf((Fields)command["request"]);
                    return new Fields { { "seq", session.Send(Route.Chat, request.Encode()) } };
                case "request":
                    // Only the log says how it has ended, since the connection may break before the reply.
                    _ = LogReplyAsync(name, RouteOf(command), (string)command["text"]);
                    return new Fields();
                case "ping":
                    return new Fields { { "ms", await session.PingAsync() } };
                case "refresh":
                    await session.RefreshAsync((string)command["token"]);
                    return new Fields();
                case "wake":
                    session.Wake();
                    return new Fields();
                case "close":
                    session.Close();
                    return new Fields();
                default:
                    throw new ArgumentException("this client does not know the command " + Json.Write(command));
            }
        }

        private void Connect(string name, Fields command)
        {
            var options = new SessionOptions { Url = (string)command["url"] };
            if (command.ContainsKey("token")) options.Token = (string)command["token"];
            if (command.ContainsKey("heartbeat_ms")) options.HeartbeatMs = (int)(long)command["heartbeat_ms"];
            if (command.ContainsKey("protocols")) options.Protocols = Texts(command["protocols"]);
            if (command.ContainsKey("tokens"))
            {
                // One token after the other, and then always the last one.
                var tokens = new Queue<string>(Texts(command["tokens"]));
                options.TokenSource = () => Task.FromResult(tokens.Count > 1 ? tokens.Dequeue() : tokens.Peek());
            }
            var session = Session.Connect(options);
            _sessions[name] = session;
            _logs[name] = new List<object>();
            session.Welcome += welcome => Log(name, "welcome", new Fields());
            session.Push += push => Log(name, "push", Content(push));
            session.Refused += refused => Log(name, "refused", With("seq", refused.Seq, Described(refused.Error)));
            session.Reconnecting += next => Log(name, "reconnecting", new Fields { { "why", next.Why } });
            session.Resumed += resumed => Log(name, "resumed", new Fields());
            session.NewSession += info => Log(name, "newSession", new Fields());
            session.Gap += gap => Log(name, "gap", new Fields());
            session.TokenExpires += inMs => Log(name, "tokenExpires", new Fields { { "inMs", inMs } });
            session.Closed += error => Log(name, "closed", Described(error));
        }

        private async Task LogReplyAsync(string name, byte route, string text)
        {
            Fields fields;
            try
            {
                var reply = await _sessions[name].RequestAsync(route, text);
                fields = new Fields { { "text", Encoding.UTF8.GetString(reply) } };
            }
            catch (GatewayException error)
            {
                fields = Described(error);
            }
            Log(name, "reply", With("to", text, fields));
        }

        private void Log(string name, string happened, Fields fields)
        {
            var isHere = Thread.CurrentThread.ManagedThreadId == _thread;
            if (!isHere) throw new InvalidOperationException(happened + " has come on another thread");
            _logs[name].Add(With("event", happened, fields));
        }

        private static Fields With(string name, object value, Fields fields)
        {
            fields.Add(name, value);
            return fields;
        }

        private static Fields Content(Push push)
        {
            var fields = new Fields { { "route", push.Route }, { "number", push.Number } };
            var chat = push.Route == Route.Chat ? ChatMessage.Decode(push.Payload) : null;
            if (chat == null) fields["text"] = Encoding.UTF8.GetString(push.Payload);
            else fields["chat"] = ChatFields(chat);
            return fields;
        }

        private static Fields ChatFields(ChatMessage chat)
        {
            // Not every reader of JSON has integers of 64 bits.
            var fields = new Fields
            {
                { "messageId", chat.MessageId.ToString() },
                { "timestamp", chat.Timestamp },
                { "targetUserId", chat.TargetUserId },
            };
            var broadcast = chat as ChatBroadcast;
            if (broadcast != null)
            {
                fields["kind"] = "broadcast";
                fields["senderId"] = broadcast.SenderId;
                fields["senderName"] = broadcast.SenderName;
                fields["type"] = broadcast.Type;
                fields["content"] = broadcast.Content;
                return fields;
            }
            var response = (ChatResponse)chat;
            fields["kind"] = "response";
            fields["success"] = response.Success;
            fields["targetSessionId"] = response.TargetSessionId;
            if (response.Base != null)
            {
                fields["base"] = new Fields { { "gameId", response.Base.GameId }, { "userId", response.Base.UserId } };
            }
            return fields;
        }

        private static ChatRequest RequestOf(Fields fields)
        {
            var request = new ChatRequest { GameId = (string)fields["gameId"], UserId = (int)(long)fields["userId"] };
            if (fields.ContainsKey("content")) request.Content = (string)fields["content"];
            if (fields.ContainsKey("receiverId")) request.ReceiverId = (int)(long)fields["receiverId"];
            if (fields.ContainsKey("type")) request.Type = (int)(long)fields["type"];
            if (!fields.ContainsKey("meta")) return request;
            var meta = (Fields)fields["meta"];
            request.Meta = new MessageMeta { SessionId = (string)meta["sessionId"] };
            foreach (var pair in (Fields)meta["extra"]) request.Meta.Extra.Add(pair.Key, (string)pair.Value);
            return request;
        }

        /// <summary>The names of the errors are those that all clients of the tests use.</summary>
        private static Fields Described(GatewayException error)
        {
            var fields = new Fields
            {
                { "error", error.GetType().Name.Replace("Exception", "Error") },
                { "message", error.Message },
                { "text", error.Message },
            };
            var refusal = error as StatusException;
            if (refusal != null)
            {
                fields["status"] = refusal.Status;
                fields["text"] = refusal.Text;
            }
            var closed = error as ClosedException;
            if (closed != null) fields["code"] = closed.Code;
            return fields;
        }

        private static byte RouteOf(Fields command)
        {
            return (byte)(long)command["route"];
        }

        private static string[] Texts(object list)
        {
            return ((List<object>)list).Cast<string>().ToArray();
        }
    }
}
