using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using static Gateway.Client.Tests.Suite;

namespace Gateway.Client.Tests
{
    /// <summary>Tests of the session with WebSockets that the test plays and a clock that it moves.</summary>
    internal static class SessionTests
    {
        public static void Run(Suite suite)
        {
            suite.Test("packets before the welcome wait for it, and a reply finds its request", PacketsWait);
            suite.Test("refusals", Refusals);
            suite.Test("pushes come once, gaps are told, and what follows acknowledges", Pushes);
            suite.Test("a session that is cut sends again what was not received", Resumes);
            suite.Test("a new session fails the requests of the old one", NewSession);
            suite.Test("packets that are no longer kept fail their requests", Forgotten);
            suite.Test("replies that the gateway has lost fail their requests, and only these", LostReplies);
            suite.Test("lost replies are found although the packet is lost that should find them", LostBarrier);
            suite.Test("a buffer may be used again after it was sent", ReusedBuffer);
            suite.Test("a source that still has the token in use renews nothing", SameToken);
            suite.Test("a code that does not come back ends everything", FinalCode);
            suite.Test("a first connection that fails ends the session", FirstFails);
            suite.Test("a server that is no gateway ends the session", NoGateway);
            suite.Test("an upgrade and a welcome have to come in time", Timeouts);
            suite.Test("two heartbeats in a row without an answer cut the connection", Heartbeats);
            suite.Test("a session that is woken up while it waits connects at once", WokenWhileItWaits);
            suite.Test("a session that is woken up obeys what the gateway has asked for", WokenTooEarly);
            suite.Test("a connection that does not answer when the session is woken up is cut", WokenAndSilent);
            suite.Test("a connection that brings something when the session is woken up lives on", WokenAndAlive);
            suite.Test("a session that leaves its connection or that is over is not woken up", NotWoken);
            suite.Test("a game that stands still finds its session alive", StandsStill);
            suite.Test("a Reconnect is obeyed when its time has come", Reconnect);
            suite.Test("a gateway that does not answer the close frame is left all the same", LeavesAllTheSame);
            suite.Test("a gap of the gateway is an event, and an unknown event is none", ControlEvents);
        }

        private static void PacketsWait()
        {
            var network = new FakeNetwork();
            network.Ask("a");
            Same("url", network.Last.Url, "ws://a/ws");
            network.Last.Open();
            network.Session.Poll();
            Same("before", network.Seqs(), List());
            Same("connected", network.Session.IsConnected, false);
            network.Last.Welcome("s1");
            network.Session.Poll();
            Same("sent", network.Seqs(), List(1));
            Same("connected", network.Session.IsConnected, true);
            Same("id", network.Session.Id, "s1");
            network.Last.Reply(1, 9, "A");
            network.Session.Poll();
            Same("result", network.Results["a"], "A");
        }

        private static void Refusals()
        {
            var network = FakeNetwork.Begun();
            var reply = network.Session.RequestAsync(9, "?");
            network.Last.Reply(1, 9, "no plugin serves route 0x09", Status.NoRoute);
            network.Session.Poll();
            var error = (StatusException)reply.Exception.InnerException;
            Same("error", List(error.Route, error.Status, error.Text), List(9, 3, "no plugin serves route 0x09"));
            Same("message", error.Message, "status 3 no route on route 9: no plugin serves route 0x09");
            network.Last.Reply(network.Session.Send(1, "?"), 1, "not now", 300);
            // A packet that is served may have a reply, which says nothing, and each packet has one reply.
            network.Last.Reply(network.Session.Send(1, "?"), 1, "ok");
            network.Last.Reply(1, 9, "twice", Status.PayloadTooLarge);
            network.Last.Reply(1, 9, "twice", Status.Unavailable);
            network.Last.Reply(1, 9, "twice", 200);
            network.Session.Poll();
            Same("events", network.Events, List(
                "welcome",
                "refused 2: status 300 (the game's own) on route 1: not now",
                "refused 1: status 9 payload too large on route 9: twice",
                "refused 1: status 5 unavailable on route 9: twice",
                "refused 1: status 200 (unknown) on route 9: twice"));
        }

        private static void Pushes()
        {
            var network = FakeNetwork.Begun();
            foreach (uint number in new[] { 1, 2, 2, 5 })
            {
                network.Last.Receive(number, 7, number == 5 ? Packet.FlagReplaces : (byte)0);
            }
            // A message that is no packet is nothing.
            network.Last.Receive(new byte[7]);
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "push 1", "push 2", "gap 2 0", "push 5 replaced"));
            network.Session.Send(7, "");
            var packet = network.Last.Sent.Single();
            Same("acknowledgement", List(packet.Flags, packet.Status), List(4, 5));
        }

        private static void Resumes()
        {
            var network = FakeNetwork.Begun();
            network.Last.Receive(1, 7);
            network.Ask("a");
            network.Ask("b");
            network.Last.Reply(1, 9, "A");
            network.Session.Poll();
            var second = network.Back();
            Same("url", second.Url, "ws://a/ws?resume=t&seen=1&replies=1");
            network.Ask("c");
            second.Welcome("s", true, 1);
            network.Session.Poll();
            Same("sent", network.Seqs(), List(2, 3));
            second.Reply(2, 9, "B");
            second.Reply(3, 9, "C");
            network.Session.Poll();
            Same("results", network.ResultTexts, "a=A b=B c=C");
            Same("events", network.Events, List("welcome", "push 1", "reconnecting", "welcome", "resumed 500 2 0 0"));
        }

        private static void NewSession()
        {
            var network = FakeNetwork.Begun();
            network.Last.Receive(3, 7);
            network.Ask("a");
            var second = network.Back(1001);
            network.Ask("b");
            second.Welcome("new");
            network.Session.Poll();
            Same("results", network.Results.Values.ToList(), List("LostException", "LostException"));
            var events = List("welcome", "gap 2 0", "push 3", "reconnecting", "welcome", "new session 500 3 1");
            Same("events", network.Events, events);
            Same("sent", network.Seqs(), List());
            Same("id", network.Session.Id, "new");
        }

        private static void Forgotten()
        {
            var network = FakeNetwork.Begun();
            var second = network.Back();
            for (var index = 0; index < 258; index++) network.Ask(index.ToString());
            second.Welcome("s", true);
            network.Session.Poll();
            Same("results", network.Results.Keys.ToList<object>(), List("0", "1"));
            Same("sent", second.Sent.Count, 256);
            Same("events", network.Events.Last(), "resumed 500 256 2 0");
            second.End(4009);
            network.Session.Poll();
            Same("closed", network.Results.Values.Count(result => (string)result == "ClosedException"), 256);
        }

        private static void LostReplies()
        {
            var network = FakeNetwork.Begun();
            network.Ask("a");
            network.Ask("b");
            network.Session.Send(9, "its refusal is lost");
            var second = network.Back();
            second.Welcome("s", true, 3, 2);
            network.Session.Poll();
            Same("sent", network.Seqs(), List(4));
            network.Ask("c");
            second.Reply(2, 9, "B");
            second.Reply(4, 3, "beat");
            network.Session.Poll();
            Same("results", network.ResultTexts, "b=B a=LostException");
            second.Reply(5, 9, "C");
            network.Session.Poll();
            Same("later", network.Results["c"], "C");
        }

        private static void LostBarrier()
        {
            var network = FakeNetwork.Begun();
            network.Ask("a");
            var second = network.Back();
            second.Welcome("s", true, 1, 1);
            network.Session.Poll();
            Same("sent", network.Seqs(), List(2));
            second.End(null);
            // The second pause is random.
            while (network.Sockets.Count < 3) network.Pass(100);
            var third = network.Last;
            for (var index = 0; index < 256; index++) network.Session.Send(9, "x");
            third.Welcome("s", true, 1);
            network.Session.Poll();
            Same("results", network.ResultTexts, "a=LostException");
        }

        private static void ReusedBuffer()
        {
            var network = FakeNetwork.Begun();
            var buffer = new byte[] { 1 };
            network.Session.Send(9, buffer);
            buffer[0] = 2;
            var second = network.Back();
            network.Session.Send(9, buffer);
            buffer[0] = 3;
            second.Welcome("s", true);
            network.Session.Poll();
            Same("contents", second.Sent.Select(packet => (object)(int)packet.Payload[0]).ToList(), List(1, 2));
        }

        private static void SameToken()
        {
            var network = FakeNetwork.Begun(new SessionOptions { TokenSource = () => Task.FromResult("T") });
            network.Control(1, new ProtoWriter().Int(1, 30000));
            network.Session.Poll();
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "token expires 30000"));
            Same("sent", network.Seqs(), List());
        }

        private static void FinalCode()
        {
            var network = FakeNetwork.Begun();
            network.Ask("a");
            network.Last.End(4009, "another session");
            network.Session.Poll();
            network.Ask("b");
            Same("results", network.Results.Values.ToList(), List("ClosedException", "ClosedException"));
            Same("code", network.Session.Over.Code, 4009);
            Same("message", network.Session.Over.Message, "the gateway closed the connection: 4009 another session");
            Throws<ClosedException>(() => network.Session.Send(9, ""));
            network.Pass(100000);
            Same("events", network.Events, List("welcome", "closed 4009"));
            Same("sockets", network.Sockets.Count, 1);
        }

        private static void FirstFails()
        {
            var network = new FakeNetwork();
            network.Last.End(null, "no route to the host");
            network.Session.Poll();
            Same("events", network.Events, List("closed "));
            Same("message", network.Session.Over.Message, "the gateway cannot be reached: no route to the host");
        }

        private static void NoGateway()
        {
            foreach (var message in new[] { null, new byte[3], new byte[8] })
            {
                var network = new FakeNetwork();
                network.Last.Open();
                network.Last.Receive(message);
                network.Session.Poll();
                Same("events", network.Events, List("closed "));
                Same("code", network.Last.ClosedWith, 1000);
            }
        }

        private static void Timeouts()
        {
            var slow = new FakeNetwork();
            slow.Pass(9999);
            Same("not yet", slow.Events, List());
            slow.Pass(1);
            Same("slow", slow.Session.Over.Message, "the gateway has not answered in time");
            var silent = new FakeNetwork();
            silent.Last.Open();
            silent.Session.Poll();
            silent.Pass(4999);
            Same("not yet", silent.Events, List());
            silent.Pass(1);
            Same("silent", silent.Session.Over.Message, "the welcome has not come in time");
            Same("aborted", List(slow.Last.IsAborted, silent.Last.IsAborted), List(true, true));
        }

        private static void Heartbeats()
        {
            var network = FakeNetwork.Begun(new SessionOptions { HeartbeatMs = 1000 });
            network.Pass(1000);
            var beat = network.Last.Sent.Single();
            Same("beat", List(beat.Route, Encoding.UTF8.GetString(beat.Payload)), List(3, "beat"));
            network.Pass(1000);
            // Any message counts as an answer.
            network.Last.Receive(1, 7);
            network.Pass(1000);
            network.Pass(1000);
            Same("beats", network.Last.Sent.Count, 4);
            Same("events", network.Events, List("welcome", "push 1"));
            network.Pass(1000);
            Same("events", network.Events, List("welcome", "push 1", "reconnecting"));
            Same("why", network.LastReconnecting.Why, "the gateway has not answered the heartbeats");
            Same("aborted", network.Last.IsAborted, true);
            // The replies to heartbeats that the policy refuses are nobody's.
            network.Pass(500);
            network.Last.Welcome("s", true, 4);
            for (uint seq = 1; seq <= 4; seq++) network.Last.Reply(seq, 3, "no plugin serves route 0x03", 3);
            network.Session.Poll();
            Same("last", network.Events.Last(), "resumed 500 0 0 0");
        }

        private static void WokenWhileItWaits()
        {
            var network = FakeNetwork.Begun();
            network.Last.End();
            network.Session.Poll();
            network.Session.Wake();
            network.Session.Poll();
            Same("sockets", network.Sockets.Count, 2);
            // There is an attempt already, and a connection without its welcome.
            network.Session.Wake();
            network.Last.Open();
            network.Session.Poll();
            network.Session.Wake();
            network.Pass(1000);
            Same("sent", List(network.Sockets.Count, network.Last.Sent.Count), List(2, 0));
            network.Last.Welcome("s", true);
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "reconnecting", "welcome", "resumed 1000 0 0 0"));
        }

        private static void WokenTooEarly()
        {
            var network = FakeNetwork.Begun();
            network.Last.End(1009);
            network.Session.Poll();
            network.Session.Wake();
            network.Pass(9999);
            Same("before", network.Sockets.Count, 1);
            network.Pass(1);
            Same("after", network.Sockets.Count, 2);
        }

        private static void WokenAndSilent()
        {
            var network = FakeNetwork.Begun();
            network.Session.Wake();
            var beat = network.Last.Sent.Single();
            Same("beat", List(beat.Route, Encoding.UTF8.GetString(beat.Payload)), List(3, "beat"));
            network.Pass(4999);
            // This does not put off the end.
            network.Session.Wake();
            Same("before", List(network.Last.Sent.Count, network.Events.Last()), List(1, "welcome"));
            network.Pass(1);
            Same("events", network.Events, List("welcome", "reconnecting"));
            Same("why", network.LastReconnecting.Why, "the gateway has not answered the check of the connection");
            Same("aborted", network.Last.IsAborted, true);
        }

        private static void WokenAndAlive()
        {
            var network = FakeNetwork.Begun(new SessionOptions { HeartbeatMs = 20000 });
            network.Session.Wake();
            network.Pass(4999);
            network.Last.Receive(1, 7);
            network.Pass(0);
            network.Pass(19999);
            Same("not yet", network.Last.Sent.Count, 1);
            // Now the next heartbeat is due, and the session can be woken up again.
            network.Pass(1);
            Same("due", network.Last.Sent.Count, 2);
            network.Session.Wake();
            Same("again", network.Last.Sent.Count, 3);
            // A refusal of the heartbeat shows as well that the connection lives, and a game may stand still meanwhile.
            network.Last.Reply(3, 3, "no plugin serves route 0x03", 3);
            network.Pass(6000);
            network.Pass(6000);
            Same("events", network.Events, List("welcome", "push 1"));
        }

        private static void NotWoken()
        {
            var network = FakeNetwork.Begun();
            network.Session.Wake();
            network.Control(3, new ProtoWriter());
            network.Pass(0);
            Same("left", network.Last.ClosedWith, 4000);
            network.Session.Wake();
            // What still arrives does not put off the end.
            network.Last.Receive(1, 7);
            network.Pass(1999);
            Same("before", List(network.Last.Sent.Count, network.Events.Last()), List(1, "push 1"));
            network.Pass(1);
            Same("after", network.Events.Last(), "reconnecting");
            network.Session.Close();
            network.Session.Wake();
            network.Pass(100000);
            Same("over", List(network.Sockets.Count, network.Events.Last()), List(1, "closed 1000"));
        }

        private static void StandsStill()
        {
            var network = FakeNetwork.Begun();
            network.Pass(25000);
            network.Last.Reply(1, 3, "beat");
            network.Pass(100000);
            network.Pass(1);
            Same("events", network.Events, List("welcome"));
            Same("beats", network.Last.Sent.Count, 2);
        }

        private static void Reconnect()
        {
            var network = FakeNetwork.Begun();
            network.Control(3, new ProtoWriter().Text(1, "ws://b/ws").Int(2, 3000));
            network.Pass(2999);
            network.Last.Receive(1, 7);
            network.Session.Poll();
            Same("before", network.Last.ClosedWith, 0);
            network.Pass(1);
            Same("after", network.Last.ClosedWith, 4000);
            // What is sent now waits for the next connection, and what still arrives counts.
            network.Session.Send(9, "");
            Same("sent", network.Seqs(), List());
            network.Last.Receive(2, 7);
            network.Session.Poll();
            var second = network.Back(4000);
            Same("url", second.Url, "ws://b/ws?resume=t&seen=2&replies=0");
            second.Welcome("s", true);
            network.Session.Poll();
            Same("sent", network.Seqs(), List(1));
            var events = List("welcome", "push 1", "push 2", "reconnecting", "welcome", "resumed 500 1 0 0");
            Same("events", network.Events, events);
        }

        private static void LeavesAllTheSame()
        {
            var network = FakeNetwork.Begun();
            network.Control(3, new ProtoWriter());
            network.Pass(0);
            Same("left", network.Last.ClosedWith, 4000);
            network.Pass(1999);
            Same("events", network.Events, List("welcome"));
            network.Pass(1);
            network.Pass(500);
            Same("url", network.Last.Url, "ws://a/ws?resume=t&seen=0&replies=0");
            Same("sockets", network.Sockets.Count, 2);
        }

        private static void ControlEvents()
        {
            var network = FakeNetwork.Begun();
            network.Control(2, new ProtoWriter().Int(1, 4000));
            network.Control(9, new ProtoWriter().Int(1, 1));
            network.Last.Receive(0, Route.Control, payload: Encoding.UTF8.GetBytes("junk"));
            network.Session.Poll();
            Same("events", network.Events, List("welcome", "gap 0 4000"));
        }
    }
}
