using System;
using System.Diagnostics;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using static Gateway.Client.Tests.Suite;

namespace Gateway.Client.Tests
{
    /// <summary>Tests of the real WebSocket with a server that the test plays.</summary>
    internal static class SocketTests
    {
        private static readonly string[] None = new string[0];

        public static void Run(Suite suite)
        {
            suite.Test("the token and the subprotocols go along", Upgrade);
            suite.Test("an upgrade that is refused", Refused);
            suite.Test("a token that no header can have", BadToken);
            suite.Test("messages come whole, whatever their frames are", Messages);
            suite.Test("a message that is too large ends the connection", TooLarge);
            suite.Test("a close frame is told at once, and is answered", CloseFrame);
            suite.Test("a connection that breaks", Breaks);
            suite.Test("a WebSocket is closed after what was sent", ClosesLast);
            suite.Test("a WebSocket that is closed while it connects is closed", ClosesEarly);
            suite.Test("a server that does not answer the close frame is left", CloseTimeout);
            suite.Test("a WebSocket that is aborted sends no close frame", Aborts);
            suite.Test("what waits for the network is counted", QueuedBytes);
            suite.Test("nothing is received while too many messages wait", Backpressure);
        }

        /// <summary>Returns what has happened next, as soon as it has.</summary>
        private static SocketEvent Next(ISocket socket)
        {
            SocketEvent happened;
            var clock = Stopwatch.StartNew();
            while (!socket.TryTake(out happened))
            {
                if (clock.Elapsed > TimeSpan.FromSeconds(30)) throw new TimeoutException("nothing happens");
                Thread.Sleep(1);
            }
            return happened;
        }

        private static void Opened(ISocket socket)
        {
            Same("opened", Next(socket).Kind == SocketEvent.Happening.Opened, true);
        }

        private static SocketEvent Closed(ISocket socket)
        {
            var end = Next(socket);
            Same("closed", end.Kind == SocketEvent.Happening.Closed, true);
            return end;
        }

        /// <summary>Plays a test with a WebSocket that is open.</summary>
        private static void Open(Action<RawServer, ISocket> test)
        {
            using (var server = new RawServer())
            {
                var socket = new Socket(server.Url, null, None);
                server.Upgrade();
                Opened(socket);
                test(server, socket);
                socket.Abort();
            }
        }

        private static void Upgrade()
        {
            using (var server = new RawServer())
            {
                var socket = new Socket(server.Url + "?name=anna", "T.0", new[] { "game.v1", "game.v2" });
                server.Upgrade();
                Opened(socket);
                var head = server.Head.Split(new[] { "\r\n" }, StringSplitOptions.None);
                Same("path", head[0], "GET /ws?name=anna HTTP/1.1");
                Same("token", head.Contains("Authorization: Bearer T.0"), true);
                Same("protocols", head.Contains("Sec-WebSocket-Protocol: game.v1, game.v2"), true);
                socket.Abort();
            }
        }

        private static void Refused()
        {
            using (var server = new RawServer())
            {
                var socket = new Socket(server.Url, null, None);
                server.Accept();
                server.Answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
                Same("code", Closed(socket).Code, null);
            }
        }

        private static void BadToken()
        {
            var session = Session.Connect(new SessionOptions { Url = "ws://127.0.0.1:9/ws", Token = "T\r\nx: y" });
            session.Poll();
            Same("why", session.Over.Message.StartsWith("there is no token, or no WebSocket: "), true);
        }

        private static void Messages()
        {
            Open((server, socket) =>
            {
                var large = new byte[1000000];
                large[999999] = 7;
                server.Send(RawServer.Binary, new byte[] { 1, 2 }, false);
                server.Send(RawServer.Continuation, new byte[0], false);
                server.Send(RawServer.Continuation, new byte[] { 3 });
                server.Send(RawServer.Binary, large);
                server.Send(RawServer.Binary, new byte[0]);
                server.Send(RawServer.Text, Encoding.UTF8.GetBytes("hi"));
                Same("fragments", MessageVectors.Hex(Next(socket).Message), "010203");
                Same("large", Next(socket).Message.SequenceEqual(large), true);
                Same("empty", Next(socket).Message.Length, 0);
                var text = Next(socket);
                Same("text", text.Kind == SocketEvent.Happening.Received && text.Message == null, true);
            });
        }

        private static void TooLarge()
        {
            Open((server, socket) =>
            {
                var part = new byte[4 << 20];
                server.Send(RawServer.Binary, part, false);
                for (var index = 0; index < 3; index++) server.Send(RawServer.Continuation, part, index == 2);
                Same("the largest", Next(socket).Message.Length, 16 << 20);
                var sending = Task.Run(() =>
                {
                    for (var index = 0; index < 5; index++) server.Send(index == 0 ? RawServer.Binary : 0, part, false);
                });
                Same("reason", Closed(socket).Reason, "a message is too large for this client");
                ((IAsyncResult)sending).AsyncWaitHandle.WaitOne();
            });
        }

        private static void CloseFrame()
        {
            Open((server, socket) =>
            {
                server.Send(RawServer.Close, new byte[] { 4009 >> 8, 4009 & 0xff, (byte)'o', (byte)'h' });
                // The server keeps the connection open meanwhile.
                var end = Closed(socket);
                Same("end", List(end.Code, end.Reason), List(4009, "oh"));
                Same("answer", server.Receive().Item1, 8);
                Same("end", server.Receive() == null, true);
            });
        }

        private static void Breaks()
        {
            Open((server, socket) =>
            {
                server.Dispose();
                Same("code", Closed(socket).Code, null);
            });
        }

        private static void ClosesLast()
        {
            Open((server, socket) =>
            {
                for (byte index = 0; index < 100; index++) socket.Send(new[] { index });
                socket.Close(4000);
                for (byte index = 0; index < 100; index++) Same("message", server.Receive().Item2[0], index);
                // What still arrives is received.
                server.Send(RawServer.Binary, new byte[] { 5 });
                var close = server.Receive();
                Same("close", List(close.Item1, MessageVectors.Hex(close.Item2)), List(8, "0fa0"));
                Same("late", Next(socket).Message[0], 5);
                server.Send(RawServer.Close, new byte[] { 4000 >> 8, 4000 & 0xff });
                server.Dispose();
                Same("code", Closed(socket).Code, 4000);
            });
        }

        private static void ClosesEarly()
        {
            using (var server = new RawServer())
            {
                var socket = new Socket(server.Url, null, None);
                socket.Close(1000);
                server.Upgrade();
                Same("close", MessageVectors.Hex(server.Receive().Item2), "03e8");
                Same("end", server.Receive() == null, true);
            }
        }

        private static void CloseTimeout()
        {
            Open((server, socket) =>
            {
                socket.Close(1000);
                Same("close", server.Receive().Item1, 8);
                Same("end", server.Receive() == null, true);
                Closed(socket);
            });
        }

        private static void Aborts()
        {
            Open((server, socket) =>
            {
                socket.Abort();
                Same("end", server.Receive() == null, true);
                Closed(socket);
            });
        }

        private static void QueuedBytes()
        {
            Open((server, socket) =>
            {
                // More than the network takes while nobody reads.
                const int Count = 1000, Bytes = 60000;
                for (var index = 0; index < Count; index++) socket.Send(new byte[Bytes]);
                Same("waits", socket.QueuedBytes > Count * Bytes / 2, true);
                for (var index = 0; index < Count; index++) Same("message", server.Receive().Item2.Length, Bytes);
                var clock = Stopwatch.StartNew();
                while (socket.QueuedBytes > 0 && clock.Elapsed < TimeSpan.FromSeconds(30)) Thread.Sleep(1);
                Same("sent", socket.QueuedBytes, 0);
            });
        }

        private static void Backpressure()
        {
            Open((server, socket) =>
            {
                const int Count = 4096;
                var sent = 0;
                Task.Run(() =>
                {
                    for (; sent < Count; sent++) server.Send(RawServer.Binary, new byte[16 << 10]);
                });
                var before = -1;
                while (before != Volatile.Read(ref sent) || before < 1024)
                {
                    before = Volatile.Read(ref sent);
                    Thread.Sleep(1000);
                }
                // Besides the messages that wait, some are on their way.
                Same(before + " messages are sent", before < 3 * 1024, true);
                for (var index = 0; index < Count; index++) Same("message", Next(socket).Message.Length, 16 << 10);
            });
        }
    }
}
