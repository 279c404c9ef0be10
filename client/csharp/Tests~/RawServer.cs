using System;
using System.IO;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace Gateway.Client.Tests
{
    /// <summary>The server of one connection, which speaks WebSocket frame by frame.</summary>
    internal sealed class RawServer : IDisposable
    {
        public const int Continuation = 0, Text = 1, Binary = 2, Close = 8;

        /// <summary>Longer than anything takes that works.</summary>
        private const int PatienceMs = 30000;

        private readonly TcpListener _listener = new TcpListener(IPAddress.Loopback, 0);
        private TcpClient _client;
        private Stream _stream;
        /// <summary>The head of the upgrade request.</summary>
        public string Head { get; private set; }

        public RawServer()
        {
            _listener.Start();
        }

        public string Url
        {
            get { return "ws://127.0.0.1:" + ((IPEndPoint)_listener.LocalEndpoint).Port + "/ws"; }
        }

        public void Dispose()
        {
            if (_client != null) _client.Dispose();
            _listener.Stop();
        }

        /// <summary>Takes the connection, and reads the upgrade request.</summary>
        public void Accept()
        {
            _client = _listener.AcceptTcpClient();
            _client.ReceiveTimeout = PatienceMs;
            _stream = _client.GetStream();
            var head = new StringBuilder();
            while (!head.ToString().EndsWith("\r\n\r\n")) head.Append((char)Read(1)[0]);
            Head = head.ToString();
        }

        /// <summary>Takes the connection, and answers its upgrade.</summary>
        public void Upgrade()
        {
            Accept();
            const string Name = "Sec-WebSocket-Key: ", Suffix = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
            var lines = Head.Split(new[] { "\r\n" }, StringSplitOptions.None);
            var key = lines.Single(line => line.StartsWith(Name)).Substring(Name.Length);
            using (var sha1 = SHA1.Create())
            {
                var accept = Convert.ToBase64String(sha1.ComputeHash(Encoding.ASCII.GetBytes(key + Suffix)));
                Answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
                Answer("Sec-WebSocket-Accept: " + accept + "\r\n\r\n");
            }
        }

        /// <summary>Sends a part of the answer to the upgrade.</summary>
        public void Answer(string head)
        {
            var bytes = Encoding.ASCII.GetBytes(head);
            _stream.Write(bytes, 0, bytes.Length);
        }

        public void Send(int opcode, byte[] payload, bool isLast = true)
        {
            var frame = new MemoryStream();
            frame.WriteByte((byte)(opcode | (isLast ? 0x80 : 0)));
            frame.WriteByte(127);
            for (var shift = 56; shift >= 0; shift -= 8) frame.WriteByte((byte)((long)payload.Length >> shift));
            frame.Write(payload, 0, payload.Length);
            frame.WriteTo(_stream);
        }

        /// <summary>Returns opcode and payload of the next frame, or null at the end of the connection.</summary>
        public Tuple<int, byte[]> Receive()
        {
            var start = Read(2);
            if (start == null) return null;
            var length = start[1] & 0x7f;
            if (length == 127) throw new NotSupportedException("no test sends so much");
            if (length == 126) length = Read(2).Aggregate(0, (sum, next) => sum << 8 | next);
            var mask = Read(4);
            var payload = Read(length);
            for (var index = 0; index < length; index++) payload[index] ^= mask[index % 4];
            return Tuple.Create(start[0] & 0xf, payload);
        }

        /// <summary>Returns so many bytes, or null at the end of the connection.</summary>
        private byte[] Read(int length)
        {
            var bytes = new byte[length];
            for (var at = 0; at < length;)
            {
                int count;
                try
                {
                    count = _stream.Read(bytes, at, length - at);
                }
                catch (IOException error)
                {
                    var cause = error.InnerException as SocketException;
                    // The client has cut the connection.
                    if (cause != null && cause.SocketErrorCode == SocketError.ConnectionReset) return null;
                    throw;
                }
                if (count == 0) return null;
                at += count;
            }
            return bytes;
        }
    }
}
