using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using static Gateway.Client.Tests.Suite;

namespace Gateway.Client.Tests
{
    /// <summary>Tests of what applications and gateways may do to a session, and of its bounds.</summary>
    internal static class BoundaryTests
    {
        public static void Run(Suite suite)
        {
            suite.Test("a token is renewed by its source", TokenSource);
            suite.Test("without a new token the session is over when its token has expired", TokenExpired);
            suite.Test("a source of tokens that fails", TokenSourceFails);
            suite.Test("what a session that is over does", OverSession);
            suite.Test("a session that is closed by a listener says nothing more", ClosedByListener);
            suite.Test("the error of a listener comes out of Poll, and harms nothing", ListenerFails);
            suite.Test("listeners and awaiting methods are called in Poll only, and in order", InPollOnly);
            suite.Test("a request that is cancelled", Cancelled);
            suite.Test("the send buffer is bounded", BufferFull);
            suite.Test("one Poll takes a bounded number of messages", BoundedPoll);
            suite.Test("the largest numbers of a gateway do no harm", LargestNumbers);
            suite.Test("only the last 64 KiB are kept, and the last packet", KeptBytes);
            suite.Test("a token of a gateway does not make the URL endless", EndlessToken);
            suite.Test("the size of a gap is right where the numbers begin anew", GapsThatWrap);
            suite.Test("a URL that is none of a WebSocket is refused", BadUrls);
        }

        private static void TokenSource()
        {
            var tokens = new Queue<string>(new[] { "T1", "T2", "T3", "T3" });
            var waiting = new TaskCompletionSource<string>();
            var isSlow = true;
            Func<Task<string>> source = () => isSlow ? waiting.Task : Task.FromResult(tokens.Dequeue());
            var network = new FakeNetwork(new SessionOptions { TokenSource = source, Protocols = new[] { "game.v1" } });
            Same("sockets", network.Sockets.Count, 0);
            isSlow = false;
            waiting.SetResult(tokens.Dequeue());
            network.Session.Poll();
            Same("token", List(network.Last.Token, network.Last.Protocols.Single()), List("T1", "game.v1"));
            network.Last.Welcome();
            network.Control(1, new ProtoWriter().Int(1, 30000));
            Same("refresh", MessageVectors.Hex(network.Last.Sent.Single().Payload), "0a040a025432");
            network.Last.Reply(1, 0, "");
            network.Session.Poll();
            var second = network.Back(4001);
            Same("token", second.Token, "T3");
            second.Welcome("s", true, 1);
            // A source without a newer token ends the session.
            second.End(4001);
            network.Session.Poll();
            var ends = List("reconnecting", "welcome", "resumed 500 0 0 0", "closed 4001");
            Same("events", network.Events.Skip(2).ToList(), ends);
        }

        private static void TokenExpired()
        {
            var network = FakeNetwork.Begun(new SessionOptions { Token = "T" });
            network.Last.End(4001, "token expired");
            network.Session.Poll();
            Same("code", network.Session.Over.Code, 4001);
            // A token that was refreshed by hand is the token of the next connection.
            var refreshed = FakeNetwork.Begun(new SessionOptions { Token = "T" });
            var refresh = refreshed.Session.RefreshAsync("newer");
            refreshed.Last.Reply(1, 0, "");
            refreshed.Session.Poll();
            Same("done", refresh.IsCompleted, true);
            Same("token", refreshed.Back().Token, "newer");
            // When that has expired as well, the same one again does not help.
            var token = "T";
            var renewing = FakeNetwork.Begun(new SessionOptions { TokenSource = () => Task.FromResult(token) });
            token = "newer";
            renewing.Control(1, new ProtoWriter().Int(1, 30000));
            renewing.Last.Reply(1, 0, "");
            renewing.Last.End(4001);
            renewing.Session.Poll();
            Same("code", renewing.Session.Over.Code, 4001);
        }

        private static void TokenSourceFails()
        {
            var faults = new Func<Task<string>>[]
            {
                () => { throw new InvalidOperationException("no token today"); },
                () => Task.FromException<string>(new InvalidOperationException("no token today")),
            };
            foreach (var fault in faults)
            {
                var network = new FakeNetwork(new SessionOptions { TokenSource = fault });
                Same("events", network.Events, List("closed "));
                Same("message", network.Session.Over.Message, "there is no token, or no WebSocket: no token today");
                var isBroken = false;
                Func<Task<string>> source = () => isBroken ? fault() : Task.FromResult("T");
                var later = FakeNetwork.Begun(new SessionOptions { TokenSource = source });
                isBroken = true;
                later.Control(1, new ProtoWriter().Int(1, 30000));
                later.Last.End(4001);
                later.Session.Poll();
                Same("events", later.Events, List("welcome", "token expires 30000", "closed 4001"));
            }
        }

        private static void OverSession()
        {
            var network = FakeNetwork.Begun();
            network.Ask("a");
            network.Session.Close();
            network.Session.Close();
            Same("result", network.Results["a"], "ClosedException");
            Same("events", network.Events, List("welcome", "closed 1000"));
            Same("code", network.Last.ClosedWith, 1000);
            network.Pass(100000);
            Same("sockets", network.Sockets.Count, 1);
            Throws<ClosedException>(() => network.Session.Send(9, ""));
            // A source of tokens that answers after the end begins nothing.
            var token = new TaskCompletionSource<string>();
            var early = new FakeNetwork(new SessionOptions { TokenSource = () => token.Task });
            early.Session.Close();
            token.SetResult("T");
            early.Session.Poll();
            Same("early", List(early.Sockets.Count, early.Events.Single()), List(0, "closed 1000"));
            var noToken = new TaskCompletionSource<string>();
            var failing = new FakeNetwork(new SessionOptions { TokenSource = () => noToken.Task });
            failing.Session.Close();
            noToken.SetException(new InvalidOperationException("no token today"));
            failing.Pass(100000);
            Same("failing", List(failing.Sockets.Count, failing.Events.Single()), List(0, "closed 1000"));
        }

        private static void ClosedByListener()
        {
            var network = FakeNetwork.Begun();
            var second = network.Back();
            network.Session.Welcome += welcome => network.Session.Close();
            second.Welcome("s", true, 0, 1);
            second.Receive(1, 7);
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "reconnecting", "welcome", "closed 1000"));
            Same("code", second.ClosedWith, 1000);
            var other = FakeNetwork.Begun();
            other.Session.Gap += gap => other.Session.Close();
            other.Last.Receive(3, 7);
            other.Session.Poll();
            Same("other", other.Events, List("welcome", "gap 2 0", "closed 1000"));
        }

        private static void ListenerFails()
        {
            var network = FakeNetwork.Begun();
            network.Session.Gap += gap => { throw new InvalidOperationException("of the application"); };
            network.Last.Receive(3, 7);
            network.Last.Receive(4, 7);
            Throws<InvalidOperationException>(() => network.Session.Poll());
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "gap 2 0", "push 3", "push 4"));
        }

        private static void InPollOnly()
        {
            var network = FakeNetwork.Begun();
            var threads = new List<object>();
            network.Session.Push += push =>
            {
                threads.Add(Thread.CurrentThread.ManagedThreadId);
                // Poll within Poll does nothing.
                network.Session.Poll();
                network.Events.Add("end of push " + push.Number);
            };
            network.Ask("a");
            network.Last.Receive(1, 7);
            network.Last.Reply(1, 9, "A");
            network.Last.Receive(2, 7);
            Same("before", List(network.Events.Count, network.Results.Count), List(1, 0));
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "push 1", "end of push 1", "push 2", "end of push 2"));
            Same("result", network.Results["a"], "A");
            Same("threads", threads.Distinct().Single(), Thread.CurrentThread.ManagedThreadId);
        }

        private static void Cancelled()
        {
            var network = FakeNetwork.Begun();
            var cancellation = new CancellationTokenSource();
            var reply = network.Session.RequestAsync(9, "?", cancellation.Token);
            cancellation.Cancel();
            // The wait ends in Poll, and not on the thread that cancels.
            Same("before", reply.IsCompleted, false);
            network.Session.Poll();
            Same("after", reply.IsCanceled, true);
            // The late refusal is nobody's.
            network.Last.Reply(1, 9, "late", 5);
            network.Session.Poll();
            Same("events", network.Events, List("welcome"));
            Same("again", network.Session.RequestAsync(9, "?", cancellation.Token).IsCanceled, true);
            Same("sent", network.Last.Sent.Count, 1);
        }

        private static void BufferFull()
        {
            var network = FakeNetwork.Begun(new SessionOptions { SendBufferBytes = 20, HeartbeatMs = 1000 });
            network.Session.Send(9, "more than twenty bytes, while nothing waits");
            network.Last.QueuedBytes = 10;
            Same("buffered", network.Session.BufferedBytes, 10);
            network.Session.Send(9, "..");
            var error = Throws<BufferFullException>(() => network.Session.Send(9, "..."));
            Same("message", error.Message.StartsWith("the packet is not sent: 10 bytes wait for the network"), true);
            Same("request", network.Session.RequestAsync(9, "...").IsFaulted, true);
            Same("sent", network.Seqs(), List(1, 2));
            // A heartbeat goes along all the same, since it finds out whether the connection is alive.
            network.Pass(1000);
            Same("sent", network.Seqs(), List(1, 2, 3));
        }

        private static void BoundedPoll()
        {
            var network = FakeNetwork.Begun();
            for (uint number = 1; number <= 1500; number++) network.Last.Receive(number, 7);
            network.Session.Poll();
            Same("events", network.Events.Count, 1025);
            network.Session.Poll();
            Same("events", network.Events.Count, 1501);
        }

        private static void LargestNumbers()
        {
            var state = new State("ws://a/ws");
            var welcome = new Welcome { ResumeToken = "t", PacketsReceived = ulong.MaxValue };
            welcome.RepliesLost = uint.MaxValue;
            state.Welcome(welcome);
            welcome.Resumed = true;
            foreach (var resent in new[] { 0, 1 })
            {
                state.Sent.Push(1, new byte[0]);
                var outcome = state.Welcome(welcome);
                Same("outcome", List(outcome.Resent, outcome.Lost), List(resent, 0));
                for (var index = 0; index < resent; index++) state.Sent.Wrote();
                Same("next", state.NextPacket() == null, true);
            }
        }

        private static void KeptBytes()
        {
            var sent = new Sent();
            for (var index = 0; index < 9; index++) sent.Push(1, new byte[(8 << 10) - Packet.HeaderBytes]);
            Same("kept", List(sent.Waiting, sent.Oldest), List(8, 2));
            sent.Push(1, new byte[1 << 20]);
            Same("kept", List(sent.Waiting, sent.Oldest), List(1, 10));
        }

        private static void EndlessToken()
        {
            foreach (var length in new[] { 1024, 1025 })
            {
                var state = new State("ws://a/ws");
                state.Welcome(new Welcome { ResumeToken = new string('t', length) });
                Same(length.ToString(), state.Url.Contains("resume"), length == 1024);
            }
        }

        private static void GapsThatWrap()
        {
            var state = new State("ws://a/ws");
            var missing = new List<object>();
            foreach (var number in new uint[] { 4294967294, 4294967295, 1, 3, 3, 0 })
            {
                missing.Add(state.Receive(new Packet { Seq = number }));
            }
            Same("missing", missing, List(4294967293, 0, 0, 1, null, 0));
        }

        private static void BadUrls()
        {
            foreach (var url in new[] { "http://a/ws", "a:8080", "", "ws://", "ws:///ws", "ws:a", "/ws", null })
            {
                var error = Throws<ArgumentException>(() => Session.Connect(url));
                Same("message", error.Message.Contains("ws://HOST:PORT/ws"), true);
            }
            // A fragment does not go over the wire.
            Same("url", new State("wss://a:81/ws?x=1#y").Url, "wss://a:81/ws?x=1");
        }
    }
}
