using System.Collections.Generic;
using System.Text;

namespace Gateway.Client.Tests
{
    /// <summary>A WebSocket that the test plays.</summary>
    internal sealed class FakeSocket : ISocket
    {
        public readonly string Url;
        public readonly string Token;
        public readonly string[] Protocols;
        /// <summary>The packets that were sent.</summary>
        public readonly List<Packet> Sent = new List<Packet>();
        /// <summary>The code that it was closed with, or 0.</summary>
        public int ClosedWith;
        public bool IsAborted;
        private readonly Queue<SocketEvent> _happened = new Queue<SocketEvent>();

        public FakeSocket(string url, string token, string[] protocols)
        {
            Url = url;
            Token = token;
            Protocols = protocols;
        }

        public int QueuedBytes { get; set; }

        public bool TryTake(out SocketEvent happened)
        {
            happened = _happened.Count > 0 ? _happened.Dequeue() : new SocketEvent();
            return happened.Message != null || happened.Reason != null;
        }

        public void Send(byte[] message)
        {
            Sent.Add(Packet.Decode(message).Value);
        }

        public void Close(int code)
        {
            ClosedWith = code;
        }

        public void Abort()
        {
            IsAborted = true;
        }

        // What the network does.

        public void Open()
        {
            _happened.Enqueue(new SocketEvent { Kind = SocketEvent.Happening.Opened, Reason = "" });
        }

        public void Receive(uint seq, byte route, byte flags = 0, ushort status = 0, byte[] payload = null)
        {
            var packet = new Packet { Seq = seq, Route = route, Flags = flags, Status = status };
            packet.Payload = payload ?? new byte[0];
            Receive(packet.Encode());
        }

        public void Reply(uint seq, byte route, string text, ushort status = 0)
        {
            Receive(seq, route, Packet.FlagReply, status, Encoding.UTF8.GetBytes(text));
        }

        /// <summary>Receives a message, or a text, which is null.</summary>
        public void Receive(byte[] message)
        {
            const SocketEvent.Happening Received = SocketEvent.Happening.Received;
            _happened.Enqueue(new SocketEvent { Kind = Received, Message = message, Reason = "" });
        }

        /// <summary>Opens the connection and sends the welcome.</summary>
        public void Welcome(string id = "s", bool resumed = false, long received = 0, long repliesLost = 0)
        {
            var session = new ProtoWriter().Text(1, id).Text(3, "t").Int(5, resumed ? 1 : 0);
            Open();
            Receive(0, Route.System, payload: session.Int(6, received).Int(7, repliesLost).Finish());
        }

        /// <summary>Ends the connection with a close frame, or breaks it.</summary>
        public void End(int? code = null, string reason = "")
        {
            _happened.Enqueue(new SocketEvent { Kind = SocketEvent.Happening.Closed, Code = code, Reason = reason });
        }
    }
}
