using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Threading.Tasks;

namespace Gateway.Client.Tests
{
    /// <summary>A session whose WebSockets and whose clock the test plays.</summary>
    internal sealed class FakeNetwork
    {
        public readonly Session Session;
        public readonly List<FakeSocket> Sockets = new List<FakeSocket>();
        /// <summary>The names of the events, some with their content.</summary>
        public readonly List<object> Events = new List<object>();
        /// <summary>The texts of the replies and the kinds of the errors, by the names of the requests.</summary>
        public readonly Dictionary<string, object> Results = new Dictionary<string, object>();

        /// <summary>The results, in the order in which they came.</summary>
        public string ResultTexts
        {
            get { return string.Join(" ", Results.Select(result => result.Key + "=" + result.Value)); }
        }

        public Reconnecting LastReconnecting;
        private long _now;

        public FakeNetwork(SessionOptions options = null)
        {
            options = options ?? new SessionOptions();
            options.Url = options.Url ?? "ws://a/ws";
            Session = new Session(options, () => _now, Open);
            Session.Welcome += welcome => Events.Add("welcome");
            Session.Push += push => Events.Add("push " + push.Number + (push.Replaced ? " replaced" : ""));
            Session.Refused += refused => Events.Add("refused " + refused.Seq + ": " + refused.Error.Message);
            Session.Resumed += resumed => Events.Add(
                "resumed " + resumed.AwayMs + " " + resumed.Resent + " " + resumed.Lost + " " + resumed.RepliesLost);
            Session.NewSession += info => Events.Add("new session " + info.AwayMs + " " + info.Seen + " " + info.Lost);
            Session.Gap += gap => Events.Add("gap " + gap.Pushes + " " + gap.BlindMs);
            Session.TokenExpires += inMs => Events.Add("token expires " + inMs);
            Session.Closed += error => Events.Add("closed " + error.Code);
            Session.Reconnecting += reconnecting =>
            {
                LastReconnecting = reconnecting;
                Events.Add("reconnecting");
            };
            Session.Poll();
        }

        /// <summary>Returns a session with its first connection.</summary>
        public static FakeNetwork Begun(SessionOptions options = null)
        {
            var network = new FakeNetwork(options);
            network.Last.Welcome();
            network.Session.Poll();
            return network;
        }

        public FakeSocket Last
        {
            get { return Sockets[Sockets.Count - 1]; }
        }

        private ISocket Open(string url, string token, string[] protocols)
        {
            Sockets.Add(new FakeSocket(url, token, protocols));
            return Last;
        }

        /// <summary>Lets the time pass, and polls.</summary>
        public void Pass(long milliseconds)
        {
            _now += milliseconds;
            Session.Poll();
        }

        /// <summary>Ends the last connection, and waits for the next one.</summary>
        public FakeSocket Back(int? code = null)
        {
            Last.End(code);
            Session.Poll();
            Pass(500);
            return Last;
        }

        /// <summary>Sends a request, and records its result.</summary>
        public async void Ask(string name)
        {
            try
            {
                Results[name] = Encoding.UTF8.GetString(await Session.RequestAsync(9, name));
            }
            catch (Exception error)
            {
                Results[name] = error.GetType().Name;
            }
        }

        /// <summary>The seqs of the packets that were sent over the last connection.</summary>
        public List<object> Seqs()
        {
            return Last.Sent.ConvertAll<object>(packet => packet.Seq);
        }

        /// <summary>Receives an event of the control route.</summary>
        public void Control(int field, ProtoWriter inner)
        {
            Last.Receive(0, Route.Control, payload: new ProtoWriter().Message(field, inner.Finish()).Finish());
            Session.Poll();
        }
    }
}
